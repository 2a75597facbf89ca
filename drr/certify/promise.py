"""Check whether the promise is kept: certify on many random splits of the questions and test on the other questions."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from scipy.stats import beta

from drr.certify.replay import RuleTable
from drr.certify.thresholds import DELTA, certify, order_rules

mpl.use("Agg")

from matplotlib import pyplot as plt

ORDER_SHARE, TEST_SHARE = 0.1, 0.6
"""Shares of the questions for the order of the tests and for testing the promise; the rest is for certifying."""

PROMISE_NAME, PROMISE_PLOT = "promise.json", "promise.png"


@dataclass(frozen=True, slots=True)
class Trial:
    """One split. `lost_rate` and `saved` are those of the certified rule on the test part; `lowest` is the exact
    binomial lower bound (95 %) of that rate; `oracle` is the most that any rule within the risk saves there."""

    lost_rate: float
    lowest: float
    saved: float
    oracle: float


def check_promise(table: RuleTable, epsilon: float, splits: int, seed: int = 0) -> list[Trial | None]:
    """Certify a rule for the risk `epsilon` on each of `splits` random splits by question; None for a split without
    one."""
    rng = np.random.default_rng(seed)
    names, numbers = np.unique(table.questions, return_inverse=True)
    trials: list[Trial | None] = []
    for _ in range(splits):
        place = rng.permutation(len(names))[numbers] / len(names)
        ordering = table.of(np.flatnonzero(place < ORDER_SHARE))
        order = order_rules(ordering, ordering.lost)
        found = certify(table.of(np.flatnonzero((place >= ORDER_SHARE) & (place < 1 - TEST_SHARE))), order, epsilon)
        trials.append(
            None
            if found is None
            else _trial(table.of(np.flatnonzero(place >= 1 - TEST_SHARE)), table.rules.index(found.rule), epsilon)
        )
    return trials


def _trial(test: RuleTable, rule: int, epsilon: float) -> Trial:
    first_rollouts = test.of(test.first_of_each_question())
    lost, right = int(first_rollouts.lost[rule]), int(first_rollouts.full_right.sum())
    lowest = surely_at_least(lost, right)
    saved, rates = first_rollouts.saved, first_rollouts.lost_rate
    return Trial(float(rates[rule]), lowest, float(saved[rule]), float(saved[rates <= epsilon].max(initial=0.0)))


def surely_at_least(lost: int, right: int) -> float:
    """The exact binomial lower bound (95 %) of a rate of which `lost` in `right` were seen."""
    return float(beta.ppf(DELTA, lost, right - lost + 1)) if lost else 0.0


def summary(trials: list[Trial | None], epsilon: float) -> dict[str, Any]:
    """Counts and means over the splits, as plain data."""
    certified = [trial for trial in trials if trial is not None]
    oracle = float(np.mean([trial.oracle for trial in certified])) if certified else 0.0
    saved = float(np.mean([trial.saved for trial in certified])) if certified else 0.0
    return {
        "max_lost_correct": epsilon,
        "splits": len(trials),
        "certified": len(certified),
        "within": len(trials) - sum(trial.lost_rate > epsilon for trial in certified),
        "surely_above": sum(trial.lowest > epsilon for trial in certified),
        "mean_lost_rate": round(float(np.mean([trial.lost_rate for trial in certified])), 5) if certified else None,
        "mean_saved": round(saved, 4),
        "mean_oracle_saved": round(oracle, 4),
        "share_of_oracle": round(saved / oracle, 4) if oracle else None,
        "lost_rates": [None if trial is None else round(trial.lost_rate, 5) for trial in trials],
    }


def write_promise(results: list[dict[str, Any]], folder: Path) -> None:
    """Write the figures and their picture into `folder`."""
    (folder / PROMISE_NAME).write_text(json.dumps(results, indent=1) + "\n")
    figure, axes = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
    rng = np.random.default_rng(0)
    for place, result in enumerate(results):
        epsilon = result["max_lost_correct"]
        rates = np.asarray([rate for rate in result["lost_rates"] if rate is not None])
        axes.scatter(place + rng.uniform(-0.28, 0.28, len(rates)), 100 * rates, s=9, alpha=0.6)
        axes.hlines(100 * epsilon, place - 0.4, place + 0.4, color="black", linewidth=1.5)
        axes.annotate(
            f"{result['within']} of {result['splits']} within",
            (place, 100 * max([epsilon, *rates])),
            ha="center",
            textcoords="offset points",
            xytext=(0, 5),
            fontsize=9,
        )
    axes.set_xticks(range(len(results)), [f"{100 * result['max_lost_correct']:g} %" for result in results])
    axes.set(
        xlabel="promised: lost at most",
        ylabel="lost on the test part, %",
        title="Lost right answers on questions not used, one dot per split",
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / PROMISE_PLOT, dpi=120)
    plt.close(figure)

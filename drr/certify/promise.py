"""Is the promise kept? Calibrate on many random splits of the questions and look at the rest of them."""

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
"""Of the questions: for the order of the tests, and for looking; the rest certify."""

PROMISE_NAME, PROMISE_PLOT = "promise.json", "promise.png"


@dataclass(frozen=True, slots=True)
class Trial:
    """One split. `lost_rate` and `saved` of the certified rule on the test part; `lowest` is the exact binomial lower
    bound (95 %) of that rate; `oracle` is what the best rule would save that keeps within the risk on the test part."""

    lost_rate: float
    lowest: float
    saved: float
    oracle: float


def check_promise(table: RuleTable, epsilon: float, splits: int, seed: int = 0) -> list[Trial | None]:
    """Certify `epsilon` on `splits` random splits by question; None where no rule could be certified."""
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
            else _look(table.of(np.flatnonzero(place >= 1 - TEST_SHARE)), table.rules.index(found.rule), epsilon)
        )
    return trials


def _look(test: RuleTable, rule: int, epsilon: float) -> Trial:
    once = test.of(test.first_of_each_question())
    lost, right = int(once.lost[rule]), int(once.full_right.sum())
    lowest = surely_at_least(lost, right)
    saved, rates = once.saved, once.lost_rate
    return Trial(float(rates[rule]), lowest, float(saved[rule]), float(saved[rates <= epsilon].max(initial=0.0)))


def surely_at_least(lost: int, right: int) -> float:
    """The exact binomial lower bound (95 %) of a rate that `lost` of `right` were seen of."""
    return float(beta.ppf(DELTA, lost, right - lost + 1)) if lost else 0.0


def summary(trials: list[Trial | None], epsilon: float) -> dict[str, Any]:
    """Counts and means over the splits."""
    own = [trial for trial in trials if trial is not None]
    oracle = float(np.mean([trial.oracle for trial in own])) if own else 0.0
    saved = float(np.mean([trial.saved for trial in own])) if own else 0.0
    return {
        "max_lost_correct": epsilon,
        "splits": len(trials),
        "certified": len(own),
        "within": len(trials) - sum(trial.lost_rate > epsilon for trial in own),
        "surely_above": sum(trial.lowest > epsilon for trial in own),
        "mean_lost_rate": round(float(np.mean([trial.lost_rate for trial in own])), 5) if own else None,
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
    for place, own in enumerate(results):
        epsilon = own["max_lost_correct"]
        rates = np.asarray([rate for rate in own["lost_rates"] if rate is not None])
        axes.scatter(place + rng.uniform(-0.28, 0.28, len(rates)), 100 * rates, s=9, alpha=0.6)
        axes.hlines(100 * epsilon, place - 0.4, place + 0.4, color="black", linewidth=1.5)
        axes.annotate(
            f"{own['within']} of {own['splits']} within",
            (place, 100 * max([epsilon, *rates])),
            ha="center",
            textcoords="offset points",
            xytext=(0, 5),
            fontsize=9,
        )
    axes.set_xticks(range(len(results)), [f"{100 * own['max_lost_correct']:g} %" for own in results])
    axes.set(
        xlabel="promised: lost at most",
        ylabel="lost on the test part, %",
        title="Lost right answers on questions not used, one dot per split",
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / PROMISE_PLOT, dpi=120)
    plt.close(figure)

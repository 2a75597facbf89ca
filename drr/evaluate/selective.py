"""Selective answering: the accuracy of the answers that a judge believes most, for every share of questions answered.

The area under that curve (higher is better) gives all shares the same weight. A judge that knows nothing gets the plain
accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drr.learn.arrays import Flags, Reals

_BOOTSTRAPS = 2_000


@dataclass(frozen=True, slots=True)
class Judged:
    """One judge's belief [N] in N answers, and whether they are right [N]."""

    name: str
    belief: Reals
    right: Reals


def coverage_curve(belief: Reals, right: Reals) -> Reals:
    """[N] the accuracy of the i+1 answers believed most. Answers with the same belief count with their mean."""
    order = np.argsort(-belief, kind="stable")
    ranked, known = belief[order], right[order]
    _, starts, sizes = np.unique(-ranked, return_index=True, return_counts=True)
    means = np.add.reduceat(known, starts) / sizes
    return np.asarray(np.cumsum(np.repeat(means, sizes)) / np.arange(1, len(known) + 1))


def area(belief: Reals, right: Reals) -> float:
    """Mean accuracy over all shares answered."""
    return float(coverage_curve(belief, right).mean())


def areas(judges: Sequence[Judged], seed: int = 0) -> list[dict[str, Any]]:
    """Every judge's area, and its difference to that of the first judge, both with 95 % intervals. The judges must have
    judged the same answers."""
    first = judges[0]
    picks = np.random.default_rng(seed).integers(0, len(first.right), (_BOOTSTRAPS, len(first.right)))
    base = np.asarray([area(first.belief[pick], first.right[pick]) for pick in picks])
    found = []
    for judge in judges:
        drawn = np.asarray([area(judge.belief[pick], judge.right[pick]) for pick in picks])
        found.append(
            {
                "judge": judge.name,
                "area": round(area(judge.belief, judge.right), 4),
                "interval": _interval(drawn),
                "against_first": round(area(judge.belief, judge.right) - area(first.belief, first.right), 4),
                "against_first_interval": _interval(drawn - base),
                "at_half": round(float(coverage_curve(judge.belief, judge.right)[len(judge.right) // 2 - 1]), 4),
            }
        )
    return found


def _interval(drawn: Reals) -> list[float]:
    return [round(float(edge), 4) for edge in np.quantile(drawn, (0.025, 0.975))]


def confusion(judge: Judged, level: float) -> dict[str, Any]:
    """What a judge confirms whose belief must reach `level`: the shares of right answers and of wrong ones that are
    confirmed, and the share of all answers whose verdict is true. A share of nothing is None."""
    right = judge.right.astype(bool)
    confirmed = judge.belief >= level
    return {
        "judge": judge.name,
        "level": level,
        "true_confirmed": _share(confirmed[right]),
        "false_confirmed": _share(confirmed[~right]),
        "true_verdicts": _share(confirmed == right),
    }


def _share(flags: Flags) -> float | None:
    return round(float(flags.mean()), 4) if len(flags) else None

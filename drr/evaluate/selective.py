"""Selective answering: how accurate are the answers that a judge would stand by, at every share of questions answered?

The area under that curve (higher is better) weighs all shares alike; who knows nothing gets the plain accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drr.learn.arrays import Reals

_BOOTSTRAPS = 2_000


@dataclass(frozen=True, slots=True)
class Judged:
    """One judge's opinion [N] of N answers, and whether they are right [N]."""

    name: str
    belief: Reals
    right: Reals


def coverage_curve(belief: Reals, right: Reals) -> Reals:
    """[N] accuracy of the i+1 answers believed most; answers believed alike count with their mean."""
    order = np.argsort(-belief, kind="stable")
    ranked, known = belief[order], right[order]
    _, starts, sizes = np.unique(-ranked, return_index=True, return_counts=True)
    means = np.add.reduceat(known, starts) / sizes
    return np.asarray(np.cumsum(np.repeat(means, sizes)) / np.arange(1, len(known) + 1))


def area(belief: Reals, right: Reals) -> float:
    """Mean accuracy over all shares answered."""
    return float(coverage_curve(belief, right).mean())


def areas(judges: Sequence[Judged], seed: int = 0) -> list[dict[str, Any]]:
    """Every judge's area with a 95 % interval, and that of its difference to the first judge, over the same answers."""
    first = judges[0]
    picks = np.random.default_rng(seed).integers(0, len(first.right), (_BOOTSTRAPS, len(first.right)))
    base = np.asarray([area(first.belief[pick], first.right[pick]) for pick in picks])
    found = []
    for own in judges:
        drawn = np.asarray([area(own.belief[pick], own.right[pick]) for pick in picks])
        found.append(
            {
                "judge": own.name,
                "area": round(area(own.belief, own.right), 4),
                "interval": _interval(drawn),
                "against_first": round(area(own.belief, own.right) - area(first.belief, first.right), 4),
                "against_first_interval": _interval(drawn - base),
                "at_half": round(float(coverage_curve(own.belief, own.right)[len(own.right) // 2 - 1]), 4),
            }
        )
    return found


def _interval(drawn: Reals) -> list[float]:
    return [round(float(edge), 4) for edge in np.quantile(drawn, (0.025, 0.975))]

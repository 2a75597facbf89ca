"""Figures of a `drr eval`: every strategy compared with full thinking, and strategies compared at equal tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drr.evaluate.combined import LIKE_ONE_SAMPLE, combined
from drr.evaluate.run import Row, StrategyOutcomes
from drr.evaluate.selective import Judged
from drr.evaluate.strategies import FULL, JUDGED, SAMPLES
from drr.learn.arrays import Reals
from drr.tasks.grading_pool import Grading

ALL = "all questions"
SUBGROUP = ", "
"""Separates the name of a group from that of a part of it."""

LEAST_GROUP = 20
"""Questions that a group needs to get figures."""

_BOOTSTRAPS, _MIXTURES = 10_000, 1_000


@dataclass(frozen=True, slots=True)
class StrategyArrays:
    """What one strategy did on each of Q questions: `right` (1 or 0), `tokens` spent and `thinking` tokens that were
    kept, each [Q]. `unscored` is the number of boundaries whose score failed or came too late."""

    name: str
    family: str
    right: Reals
    tokens: Reals
    thinking: Reals
    seconds: float | None
    unscored: int = 0

    def of(self, questions: NDArray[np.int64]) -> "StrategyArrays":
        """The arrays of some of the questions only; `seconds` and `unscored` remain those of the whole run."""
        right, tokens, thinking = (values[questions] for values in (self.right, self.tokens, self.thinking))
        return StrategyArrays(self.name, self.family, right, tokens, thinking, self.seconds, self.unscored)


def groups_of(outcomes: Sequence[StrategyOutcomes]) -> dict[str, NDArray[np.int64]]:
    """The questions of every group that is large enough, by the group's name; the first group holds all questions.

    A group named `A, B` is part of a group `A`, which comes before it.
    """
    names = [rows[0].group for rows in by_question(next(outcome for outcome in outcomes if outcome.name == FULL).rows)]
    found = {ALL: np.arange(len(names))}
    distinct = sorted({part for name in names for part in (name.partition(SUBGROUP)[0], name)})
    for group in distinct:
        inside = [name == group or name.startswith(group + SUBGROUP) for name in names]
        if LEAST_GROUP <= sum(inside) < len(names):
            found[group] = np.flatnonzero(inside)
    return found


def strategy_arrays(outcomes: Sequence[StrategyOutcomes], grading: Grading) -> list[StrategyArrays]:
    """Every strategy as it was run, and the ways to combine several samples of full thinking."""
    found = []
    for outcome in outcomes:
        answers = by_question(outcome.rows)
        if outcome.family == SAMPLES:
            for way in combined(answers, grading):
                seconds = None
                if outcome.seconds is not None and way.share is not None:
                    seconds = outcome.seconds * way.share
                found.append(_arrays(way.name, way.family, way.drawn, way.picked, seconds))
        elif outcome.family != JUDGED:
            picked = [rows[0] for rows in answers]
            found.append(_arrays(outcome.name, outcome.family, answers, picked, outcome.seconds))
    return found


def by_question(rows: Sequence[Row]) -> list[list[Row]]:
    """The answers to each question, questions in order."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.question, []).append(row)
    return [groups[question] for question in sorted(groups)]


def _arrays(
    name: str, family: str, drawn: list[list[Row]], picked: Sequence[Row], seconds: float | None
) -> StrategyArrays:
    return StrategyArrays(
        name,
        family,
        np.asarray([row.right for row in picked], dtype=float),
        np.asarray([sum(row.tokens for row in rows) for rows in drawn], dtype=float),
        np.asarray([row.thinking_tokens for row in picked], dtype=float),
        seconds,
        sum(row.unscored for rows in drawn for row in rows),
    )


def figures(found: Sequence[StrategyArrays], seed: int = 0) -> list[dict[str, Any]]:
    """Every strategy compared with full thinking, with 95 % intervals from a paired bootstrap over the questions."""
    base = next(strategy for strategy in found if strategy.name == FULL)
    picks = np.random.default_rng(seed).integers(0, len(base.right), (_BOOTSTRAPS, len(base.right)))
    return [_compared(strategy, base, picks) for strategy in found]


def _compared(strategy: StrategyArrays, base: StrategyArrays, picks: NDArray[np.int64]) -> dict[str, Any]:
    gain = (strategy.right - base.right)[picks].mean(1)
    saved = 1 - strategy.tokens[picks].sum(1) / base.tokens[picks].sum(1)
    lost, gained = (base.right > strategy.right).sum(), (strategy.right > base.right).sum()
    return {
        "name": strategy.name,
        "family": strategy.family,
        "accuracy": round(float(strategy.right.mean()), 4),
        "tokens": round(float(strategy.tokens.mean()), 1),
        "thinking_tokens": round(float(strategy.thinking.mean()), 1),
        "seconds": None if strategy.seconds is None else round(strategy.seconds, 1),
        "gain_points": round(100 * float((strategy.right - base.right).mean()), 2),
        "gain_interval": _interval_in_points(gain),
        "saved": round(1 - float(strategy.tokens.sum() / base.tokens.sum()), 4),
        "saved_interval": [round(float(edge), 4) for edge in np.quantile(saved, (0.025, 0.975))],
        "unscored": strategy.unscored,
        "lost_correct": int(lost),
        "gained_correct": int(gained),
    }


def at_equal_tokens(found: Sequence[StrategyArrays], contenders: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """Every strategy of the families `contenders` against every other family at no more tokens than it spends itself.

    The other family may mix its strategies at random, question by question, and is credited with its best mixture (the
    upper concave hull of its points). If even its cheapest strategy spends more, it is credited with that one. The best
    mixture is determined anew for every resample of the questions.
    """
    base = next(strategy for strategy in found if strategy.name == FULL)
    count = len(base.right)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), _MIXTURES) / count
    weights = np.concatenate([np.full((1, count), 1 / count), drawn])  # row 0: the questions as they are
    means = {strategy.name: (weights @ strategy.tokens, weights @ strategy.right) for strategy in found}
    curves: dict[str, list[str]] = {}
    for strategy in found:
        curves.setdefault(strategy.family, []).append(strategy.name)
    for family in LIKE_ONE_SAMPLE:
        if family in curves:
            curves[family].append(base.name)  # one sample is full thinking
    return [
        {"contender": strategy.name, "against": family, **_gain_over(strategy.name, curve, means)}
        for strategy in found
        if strategy.family in contenders
        for family, curve in curves.items()
        if family != strategy.family
    ]


def _gain_over(contender: str, curve: Sequence[str], means: Mapping[str, tuple[Reals, Reals]]) -> dict[str, Any]:
    wanted, reached = means[contender]
    tokens, right = (np.stack([means[name][part] for name in curve], axis=1) for part in (0, 1))
    mixtures = [best_mixture(*question_draw) for question_draw in zip(tokens, right, wanted, strict=True)]
    gain = reached - [accuracy for _, accuracy in mixtures]
    return {
        "tokens": round(float(wanted[0]), 1),
        "accuracy": round(float(reached[0]), 4),
        "their_tokens": round(mixtures[0][0], 1),
        "their_accuracy": round(mixtures[0][1], 4),
        "gain_points": round(100 * float(gain[0]), 2),
        "gain_interval": _interval_in_points(gain[1:]),
    }


def best_mixture(tokens: Reals, right: Reals, wanted: float) -> tuple[float, float]:
    """Tokens and accuracy of the best mixture of strategies (`tokens`, `right` [P]) that spends at most `wanted`
    tokens; of the cheapest strategy if every one spends more."""
    hull: list[tuple[float, float]] = []
    for point in sorted(zip(tokens.tolist(), right.tolist(), strict=True)):
        while hull and hull[-1][1] <= point[1] and hull[-1][0] == point[0]:
            hull.pop()
        while len(hull) > 1 and _below(hull[-1], hull[-2], point):
            hull.pop()
        if not hull or point[1] > hull[-1][1]:
            hull.append(point)
    spent, reached = zip(*hull, strict=True)
    return min(max(wanted, spent[0]), spent[-1]), float(np.interp(wanted, spent, reached))


def _below(middle: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether the point `middle` lies on or below the line from `left` to `right`."""
    return (middle[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (middle[0] - left[0])


def judged(outcomes: Sequence[StrategyOutcomes]) -> list[Judged]:
    """The belief of every judge in one full answer to every question; the DM comes first if there is one."""
    found = []
    for outcome in outcomes:
        if outcome.family not in (JUDGED, SAMPLES):
            continue
        rows = [rows[0] for rows in by_question(outcome.rows)]
        belief = np.asarray([row.p_now for row in rows])
        if not np.isnan(belief).all():
            name = "dm" if outcome.family == SAMPLES else outcome.name.removeprefix("judged by ")
            found.append(Judged(name, np.nan_to_num(belief), np.asarray([row.right for row in rows], dtype=float)))
    return sorted(found, key=lambda judge: judge.name != "dm")


def _interval_in_points(shares: Reals) -> list[float]:
    return [round(100 * float(edge), 2) for edge in np.quantile(shares, (0.025, 0.975))]

"""What came of `drr eval`, in figures: every strategy beside full thinking, and strategies at equal tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drr.evaluate.run import Row, StrategyOutcomes
from drr.evaluate.selective import Judged
from drr.evaluate.strategies import FULL, JUDGED, SAMPLES
from drr.learn.arrays import Reals
from drr.tasks.grading import Grader, majority_answer

ALL = "all questions"
SUBGROUP = ", "
LEAST_GROUP = 20
"""Questions that a group needs for figures of its own."""

_BOOTSTRAPS, _MIXTURES = 10_000, 1_000
_COUNTS = (2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True, slots=True)
class Line:
    """One strategy's right answers, tokens and thinking tokens that were kept [Q], question by question; `unscored` is
    the number of boundaries whose score failed or came too late."""

    name: str
    family: str
    right: Reals
    tokens: Reals
    thinking: Reals
    seconds: float
    unscored: int = 0

    def of(self, questions: NDArray[np.int64]) -> "Line":
        """The same for some of the questions; seconds and `unscored` stay those of the whole run."""
        right, tokens, thinking = (own[questions] for own in (self.right, self.tokens, self.thinking))
        return Line(self.name, self.family, right, tokens, thinking, self.seconds, self.unscored)


def groups_of(outcomes: Sequence[StrategyOutcomes]) -> dict[str, NDArray[np.int64]]:
    """The questions of every group that is large enough, by name; all of them first.

    A group named `A, B` is also part of a group `A`, which comes before it.
    """
    names = [rows[0].group for rows in _by_question(next(own for own in outcomes if own.name == FULL).rows)]
    found = {ALL: np.arange(len(names))}
    distinct = sorted({part for name in names for part in (name.partition(SUBGROUP)[0], name)})
    for group in distinct:
        inside = [name == group or name.startswith(group + SUBGROUP) for name in names]
        if LEAST_GROUP <= sum(inside) < len(names):
            found[group] = np.flatnonzero(inside)
    return found


def lines(outcomes: Sequence[StrategyOutcomes], grade: Grader) -> list[Line]:
    """Every strategy as run, and what several samples of full thinking are worth together."""
    found = []
    for own in outcomes:
        by_question = _by_question(own.rows)
        if own.family == SAMPLES:
            samples = max(map(len, by_question))
            for count in (count for count in _COUNTS if count <= samples):
                found += _together([rows[:count] for rows in by_question], own.seconds * count / samples, grade)
        elif own.family != JUDGED:
            picked = [rows[0] for rows in by_question]
            found.append(_line(own.name, own.family, by_question, picked, own.seconds))
    return found


def _together(drawn: list[list[Row]], seconds: float, grade: Grader) -> list[Line]:
    """The first samples of every question, put together in every way there is."""
    count = len(drawn[0])
    majority = [_majority(rows, grade) for rows in drawn]
    found = [_line(f"self-consistency, {count}", "self-consistency", drawn, majority, seconds)]
    if not all(np.isnan(row.p_now) for rows in drawn for row in rows):
        best = [max(rows, key=lambda row: float(np.nan_to_num(row.p_now))) for rows in drawn]
        found.append(_line(f"best of {count} by DM", "best of k: dm", drawn, best, seconds))
    oracle = [max(rows, key=lambda row: row.right) for rows in drawn]
    return [*found, _line(f"any of {count} (oracle)", "any of k (oracle)", drawn, oracle, seconds)]


def _by_question(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.question, []).append(row)
    return [groups[question] for question in sorted(groups)]


def _majority(rows: Sequence[Row], grade: Grader) -> Row:
    """The row whose answer most of them share; the first where no two agree."""
    chosen = majority_answer([row.answer for row in rows], grade)
    return next((row for row in rows if row.answer == chosen), rows[0])


def _line(name: str, family: str, drawn: list[list[Row]], picked: Sequence[Row], seconds: float) -> Line:
    return Line(
        name,
        family,
        np.asarray([row.right for row in picked], dtype=float),
        np.asarray([sum(row.tokens for row in rows) for rows in drawn], dtype=float),
        np.asarray([row.thinking_tokens for row in picked], dtype=float),
        seconds,
        sum(row.unscored for rows in drawn for row in rows),
    )


def figures(found: Sequence[Line], seed: int = 0) -> list[dict[str, Any]]:
    """Every strategy beside full thinking, with 95 % intervals from a paired bootstrap over the questions."""
    base = next(line for line in found if line.name == FULL)
    picks = np.random.default_rng(seed).integers(0, len(base.right), (_BOOTSTRAPS, len(base.right)))
    return [_compared(line, base, picks) for line in found]


def _compared(line: Line, base: Line, picks: NDArray[np.int64]) -> dict[str, Any]:
    gain = (line.right - base.right)[picks].mean(1)
    saved = 1 - line.tokens[picks].sum(1) / base.tokens[picks].sum(1)
    lost, gained = (base.right > line.right).sum(), (line.right > base.right).sum()
    return {
        "name": line.name,
        "family": line.family,
        "accuracy": round(float(line.right.mean()), 4),
        "tokens": round(float(line.tokens.mean()), 1),
        "thinking_tokens": round(float(line.thinking.mean()), 1),
        "seconds": round(line.seconds, 1),
        "gain_points": round(100 * float((line.right - base.right).mean()), 2),
        "gain_interval": _points(gain),
        "saved": round(1 - float(line.tokens.sum() / base.tokens.sum()), 4),
        "saved_interval": [round(float(edge), 4) for edge in np.quantile(saved, (0.025, 0.975))],
        "unscored": line.unscored,
        "lost_correct": int(lost),
        "gained_correct": int(gained),
    }


def at_equal_tokens(found: Sequence[Line], contenders: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """Every strategy of the families `contenders` against every other family that spends at most as many tokens.

    A family may mix its strategies at random, question by question: it is given the best mixture (upper concave hull of
    its points). Where even its cheapest strategy spends more, it is given that one. The mixture is found anew in every
    resample of the questions.
    """
    base = next(line for line in found if line.name == FULL)
    count = len(base.right)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), _MIXTURES) / count
    weights = np.concatenate([np.full((1, count), 1 / count), drawn])  # the questions themselves come first
    means = {line.name: (weights @ line.tokens, weights @ line.right) for line in found}
    curves: dict[str, list[str]] = {}
    for line in found:
        curves.setdefault(line.family, []).append(line.name)
    for family in ("self-consistency", "best of k: dm"):
        if family in curves:
            curves[family].append(base.name)  # one sample is full thinking
    return [
        {"contender": line.name, "against": family, **_gain_over(line.name, curve, means)}
        for line in found
        if line.family in contenders
        for family, curve in curves.items()
        if family != line.family
    ]


def _gain_over(contender: str, curve: Sequence[str], means: Mapping[str, tuple[Reals, Reals]]) -> dict[str, Any]:
    wanted, reached = means[contender]
    tokens, right = (np.stack([means[name][part] for name in curve], axis=1) for part in (0, 1))
    theirs = [best_mixture(*own) for own in zip(tokens, right, wanted, strict=True)]
    gain = reached - [accuracy for _, accuracy in theirs]
    return {
        "tokens": round(float(wanted[0]), 1),
        "accuracy": round(float(reached[0]), 4),
        "their_tokens": round(theirs[0][0], 1),
        "their_accuracy": round(theirs[0][1], 4),
        "gain_points": round(100 * float(gain[0]), 2),
        "gain_interval": _points(gain[1:]),
    }


def best_mixture(tokens: Reals, right: Reals, wanted: float) -> tuple[float, float]:
    """Tokens and accuracy of the best mixture of strategies [P] that spends at most `wanted`; of the cheapest strategy
    where none does."""
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
    """Whether the point lies on or below the line from `left` to `right`."""
    return (middle[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (middle[0] - left[0])


def judged(outcomes: Sequence[StrategyOutcomes]) -> list[Judged]:
    """What every judge believes of one full answer to every question; the DM first where there is one."""
    found = []
    for own in outcomes:
        if own.family not in (JUDGED, SAMPLES):
            continue
        rows = [rows[0] for rows in _by_question(own.rows)]
        belief = np.asarray([row.p_now for row in rows])
        if not np.isnan(belief).all():
            name = "dm" if own.family == SAMPLES else own.name.removeprefix("judged by ")
            found.append(Judged(name, np.nan_to_num(belief), np.asarray([row.right for row in rows], dtype=float)))
    return sorted(found, key=lambda own: own.name != "dm")


def _points(shares: Reals) -> list[float]:
    return [round(100 * float(edge), 2) for edge in np.quantile(shares, (0.025, 0.975))]

"""What came of `drr eval`, in figures: every strategy beside full thinking, and strategies at equal tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drr.evaluate import Outcomes, Row
from drr.grading import Grader
from drr.selective import Judged
from drr.strategies import FULL, JUDGED

ALL = "all questions"
SUBGROUP = ", "
LEAST_GROUP = 20
"""Questions that a group needs for figures of its own."""

_BOOTSTRAPS = 10_000
_COUNTS = (2, 3, 4, 6, 8, 12, 16)

Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """One strategy's right answers [Q] and tokens [Q], question by question."""

    name: str
    family: str
    right: Reals
    tokens: Reals
    thinking: float
    seconds: float

    def of(self, questions: NDArray[np.int64]) -> "Line":
        """The same for some of the questions; seconds stay those of the whole run."""
        return Line(self.name, self.family, self.right[questions], self.tokens[questions], self.thinking, self.seconds)


def groups_of(outcomes: Sequence[Outcomes]) -> dict[str, NDArray[np.int64]]:
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


def lines(outcomes: Sequence[Outcomes], grade: Grader) -> list[Line]:
    """Every strategy as run, and what several samples of full thinking are worth together."""
    found = []
    for own in outcomes:
        if own.family == JUDGED:
            continue
        by_question = _by_question(own.rows)
        samples = max(map(len, by_question))
        first = [rows[0] for rows in by_question]
        found.append(_line(own.name, own.family, [[row] for row in first], first, own.seconds / samples))
        if own.name == FULL:
            for count in (count for count in _COUNTS if count <= samples):
                found += _together([rows[:count] for rows in by_question], own.seconds * count / samples, grade)
    return found


def _together(drawn: list[list[Row]], seconds: float, grade: Grader) -> list[Line]:
    """The first samples of every question, put together in every way there is."""
    count = len(drawn[0])
    majority = [_majority(rows, grade) for rows in drawn]
    found = [_line(f"self-consistency, {count}", "self-consistency", drawn, majority, seconds)]
    if not np.isnan(drawn[0][0].p_now):
        best = [max(rows, key=lambda row: row.p_now) for rows in drawn]
        found.append(_line(f"best of {count} by DM", "best of k: dm", drawn, best, seconds))
    oracle = [max(rows, key=lambda row: row.right) for rows in drawn]
    return [*found, _line(f"any of {count} (oracle)", "oracle", drawn, oracle, seconds)]


def _by_question(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.question, []).append(row)
    return [groups[question] for question in sorted(groups)]


def _majority(rows: Sequence[Row], grade: Grader) -> Row:
    votes = [sum(own.answer == other.answer or grade(own.answer, other.answer) for own in rows) for other in rows]
    return rows[int(np.argmax(votes))]


def _line(name: str, family: str, drawn: list[list[Row]], picked: Sequence[Row], seconds: float) -> Line:
    return Line(
        name,
        family,
        np.asarray([row.right for row in picked], dtype=float),
        np.asarray([sum(row.tokens for row in rows) for rows in drawn], dtype=float),
        float(np.mean([row.thinking_tokens for row in picked])),
        seconds,
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
        "thinking_tokens": round(line.thinking, 1),
        "seconds": round(line.seconds, 1),
        "gain_points": round(100 * float((line.right - base.right).mean()), 2),
        "gain_interval": _points(gain),
        "saved": round(1 - float(line.tokens.sum() / base.tokens.sum()), 4),
        "saved_interval": [round(float(edge), 4) for edge in np.quantile(saved, (0.025, 0.975))],
        "lost_correct": int(lost),
        "gained_correct": int(gained),
    }


def at_equal_tokens(found: Sequence[Line], contenders: str, seed: int = 0) -> list[dict[str, Any]]:
    """Every strategy of the family `contenders` against every other family at as many tokens.

    A family is given the mixture of its two neighbouring strategies that spends as much; where even its cheapest one
    spends more, that one; where its dearest spends less, that one.
    """
    base = next(line for line in found if line.name == FULL)
    picks = np.random.default_rng(seed).integers(0, len(base.right), (_BOOTSTRAPS, len(base.right)))
    curves: dict[str, list[Line]] = {}
    for line in found:
        curves.setdefault(line.family, []).append(line)
    for family in ("self-consistency", "best of k: dm"):
        if family in curves:
            curves[family].append(base)  # one sample is full thinking
    return [
        {
            "contender": line.name,
            "tokens": round(float(line.tokens.mean()), 1),
            "accuracy": round(float(line.right.mean()), 4),
            "against": family,
            **_gain_over(line, sorted(curve, key=lambda own: float(own.tokens.mean())), picks),
        }
        for line in curves.get(contenders, [])
        for family, curve in curves.items()
        if family != contenders
    ]


def _gain_over(line: Line, curve: Sequence[Line], picks: NDArray[np.int64]) -> dict[str, Any]:
    spent = [float(own.tokens.mean()) for own in curve]
    wanted = float(line.tokens.mean())
    after = min(int(np.searchsorted(spent, wanted)), len(curve) - 1)
    before = max(0, after - 1) if spent[after] > wanted else after
    share = (wanted - spent[before]) / (spent[after] - spent[before]) if spent[after] > spent[before] else 0.0
    share = min(1.0, max(0.0, share))
    right = (1 - share) * curve[before].right + share * curve[after].right
    tokens = (1 - share) * spent[before] + share * spent[after]
    return {
        "their_tokens": round(tokens, 1),
        "their_accuracy": round(float(right.mean()), 4),
        "gain_points": round(100 * float((line.right - right).mean()), 2),
        "gain_interval": _points((line.right - right)[picks].mean(1)),
    }


def judged(outcomes: Sequence[Outcomes]) -> list[Judged]:
    """What every judge believes of one full answer to every question; the DM first where there is one."""
    found = []
    for own in outcomes:
        if own.family != JUDGED and own.name != FULL:
            continue
        rows = [rows[0] for rows in _by_question(own.rows)]
        belief = np.asarray([row.p_now for row in rows])
        if not np.isnan(belief).all():
            name = "dm" if own.name == FULL else own.name.removeprefix("judged by ")
            found.append(Judged(name, np.nan_to_num(belief), np.asarray([row.right for row in rows], dtype=float)))
    return sorted(found, key=lambda own: own.name != "dm")


def _points(shares: Reals) -> list[float]:
    return [round(100 * float(edge), 2) for edge in np.quantile(shares, (0.025, 0.975))]

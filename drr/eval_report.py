"""What came of `drr eval`: a table with paired intervals, and accuracy against tokens as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from drr.evaluate import Outcomes, Row
from drr.grading import Grader
from drr.strategies import FULL

mpl.use("Agg")

from matplotlib import pyplot as plt

PLOT_NAME = "pareto.png"
_BOOTSTRAPS = 10_000
_COUNTS = (2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Line:
    """One strategy's right answers [Q] and tokens [Q], question by question."""

    name: str
    family: str
    right: NDArray[np.float64]
    tokens: NDArray[np.float64]
    thinking: float
    seconds: float


def lines(outcomes: Sequence[Outcomes], grade: Grader) -> list[Line]:
    """Every strategy as run, and what several samples of full thinking are worth together."""
    found = []
    for own in outcomes:
        by_question = _by_question(own.rows)
        samples = max(map(len, by_question))
        first = [rows[0] for rows in by_question]
        found.append(_line(own.name, own.family, [[row] for row in first], first, own.seconds / samples))
        if own.name != FULL:
            continue
        for count in (count for count in _COUNTS if count <= samples):
            drawn = [rows[:count] for rows in by_question]
            seconds = own.seconds * count / samples
            majority = [_majority(rows, grade) for rows in drawn]
            found.append(_line(f"self-consistency, {count}", "self-consistency", drawn, majority, seconds))
            if not np.isnan(first[0].p_now):
                best = [max(rows, key=lambda row: row.p_now) for rows in drawn]
                found.append(_line(f"best of {count} by DM", "best of k", drawn, best, seconds))
            oracle = [max(rows, key=lambda row: row.right) for rows in drawn]
            found.append(_line(f"any of {count} (oracle)", "oracle", drawn, oracle, seconds))
    return found


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
        "gain_interval": [round(100 * float(edge), 2) for edge in np.quantile(gain, (0.025, 0.975))],
        "saved": round(1 - float(line.tokens.sum() / base.tokens.sum()), 4),
        "saved_interval": [round(float(edge), 4) for edge in np.quantile(saved, (0.025, 0.975))],
        "lost_correct": int(lost),
        "gained_correct": int(gained),
    }


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """The figures as a table, fewest tokens first."""
    grid = Table(title=title)
    for column in ("strategy", "accuracy", "gain, points", "tokens", "saved", "seconds", "lost", "gained"):
        grid.add_column(column, justify="left" if column == "strategy" else "right")
    for own in sorted(rows, key=lambda own: float(own["tokens"])):
        low, high = own["gain_interval"]
        grid.add_row(
            own["name"],
            f"{100 * own['accuracy']:.1f} %",
            f"{own['gain_points']:+.1f} [{low:+.1f}, {high:+.1f}]",
            f"{own['tokens']:.0f}",
            f"{100 * own['saved']:.0f} %",
            f"{own['seconds']:.0f}",
            str(own["lost_correct"]),
            str(own["gained_correct"]),
        )
    return grid


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy against tokens, one line per family."""
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    families = dict.fromkeys(own["family"] for own in rows)
    colours, markers = plt.get_cmap("tab20"), "os^Dvp*XP<>h"
    for place, family in enumerate(families):
        own = sorted((row for row in rows if row["family"] == family), key=lambda row: float(row["tokens"]))
        axes.plot(
            [row["tokens"] for row in own],
            [100 * row["accuracy"] for row in own],
            marker=markers[place % len(markers)],
            color=colours(place % 20),
            linewidth=2.5 if "dm" in family else 1.0,
            markersize=7 if "dm" in family else 5,
            label=family,
        )
    axes.set_xscale("log")
    axes.set(xlabel="tokens per question, all of them", ylabel="right answers, %")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)

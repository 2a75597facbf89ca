"""The figures of an evaluation as tables, for the terminal and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

STOP, _DEFAULT = "stop: ", "default"
_OPPONENTS = (
    "full",
    "stop: dm",
    "greedy",
    "self-consistency",
    "until two agree",
    "best of k: dm",
    "vote of k: dm",
    "until two agree: dm",
    "nudge",
    "rethink: self_critique",
    "rethink: critique",
    "in context, rethink: critique",
    "stop + rethink: self_critique",
    "rethink: logprob",
    "stop + rethink: logprob",
    "rethink: confidence",
    "stop + rethink: confidence",
    "rethink: prm",
    "stop + rethink: prm",
    "greedy, stop + rethink: logprob",
    "greedy, stop + rethink: self_critique",
    "greedy, stop + rethink: confidence",
)


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """The figures as a table, fewest tokens first."""
    grid = Table(title=title)
    for column in ("strategy", "accuracy", "gain, points", "tokens", "saved", "seconds", "lost", "gained"):
        grid.add_column(column, justify="left" if column == "strategy" else "right")
    for row in sorted(rows, key=lambda row: float(row["tokens"])):
        grid.add_row(
            row["name"],
            f"{100 * row['accuracy']:.1f} %",
            _gain(row),
            f"{row['tokens']:.0f}",
            f"{100 * row['saved']:.0f} %",
            _seconds(row),
            str(row["lost_correct"]),
            str(row["gained_correct"]),
        )
    return grid


def _seconds(row: Mapping[str, Any]) -> str:
    return "–" if row["seconds"] is None else f"{row['seconds']:.0f}"


def every_strategy(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of every strategy, fewest tokens first."""
    ordered = sorted(rows, key=lambda row: float(row["tokens"]))
    cells = [
        [
            row["name"],
            f"{100 * row['accuracy']:.1f} %",
            _gain(row),
            f"{row['tokens']:.0f}",
            _saved(row),
            f"{row['thinking_tokens']:.0f}",
            _seconds(row),
            str(row["lost_correct"]),
            str(row["gained_correct"]),
        ]
        for row in ordered
    ]
    head = ["strategy", "accuracy", "gain, points", "tokens", "saved", "thinking", "seconds", "lost", "gained"]
    return markdown_table(head, cells)


def stoppers(groups: Mapping[str, Sequence[dict[str, Any]]], within: float = 0.5) -> str:
    """A Markdown table with a column for every family that stops early and a row for every group: saving and gain of
    the default rule, and in brackets the most that any setting of the family saves at a loss of at most `within`
    points, chosen in hindsight."""
    names = list(dict.fromkeys(row["family"] for rows in groups.values() for row in rows))
    names = [name for name in names if name.startswith(STOP)]
    cells = [
        [group, *(_stopper([row for row in rows if row["family"] == name], within) for name in names)]
        for group, rows in groups.items()
    ]
    every = next(iter(groups.values()))
    tried = {name: sum(row["family"] == name for row in every) for name in names}
    return markdown_table(["", *(f"{name.removeprefix(STOP)} ({tried[name]})" for name in names)], cells)


def _stopper(rows: Sequence[dict[str, Any]], within: float) -> str:
    kept = [row["saved"] for row in rows if row["gain_points"] >= -within]
    hindsight = f"({100 * max(kept):.0f} %)" if kept else "(none)"
    default = [row for row in rows if row["name"].endswith(_DEFAULT)] or (rows if len(rows) == 1 else [])
    if not default:
        return hindsight
    return f"{100 * default[0]['saved']:.0f} %, {default[0]['gain_points']:+.1f} {hindsight}"


def equal_tokens(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of strategies against other families at equal tokens: gain in points, with its interval."""
    names = dict.fromkeys(row["contender"] for row in rows)
    present = [family for family in _OPPONENTS if any(row["against"] == family for row in rows)]
    cells = []
    for name in names:
        by_opponent = {row["against"]: row for row in rows if row["contender"] == name}
        first = next(iter(by_opponent.values()))
        gains = [_gain_at(by_opponent[family]) if family in by_opponent else "" for family in present]
        cells.append([name, f"{100 * first['accuracy']:.1f} %", f"{first['tokens']:.0f}", *gains])
    return markdown_table(["", "accuracy", "tokens", *present], cells)


def coverage(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of selective answering by every judge."""
    cells = [
        [
            row["judge"],
            "{:.3f} [{:.3f}, {:.3f}]".format(row["area"], *row["interval"]),
            "{:+.3f} [{:+.3f}, {:+.3f}]".format(row["against_first"], *row["against_first_interval"]),
            f"{100 * row['at_half']:.1f} %",
        ]
        for row in rows
    ]
    return markdown_table(["judge", "area", f"against {rows[0]['judge']}", "right among the half believed most"], cells)


def verdicts(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of what every judge confirms."""
    shares = ("true_confirmed", "false_confirmed", "true_verdicts")
    cells = [[row["judge"], f"{row['level']:g}", *(_percent(row[share]) for share in shares)] for row in rows]
    return markdown_table(["judge", "level", "right answers confirmed", "wrong ones confirmed", "true verdicts"], cells)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _gain_at(row: dict[str, Any]) -> str:
    """The gain, followed by the other family's tokens if they differ by more than a tenth."""
    similar = 0.9 <= row["their_tokens"] / row["tokens"] <= 1.1
    return _gain(row) if similar else f"{_gain(row)} ({row['their_tokens']:.0f})"


def _gain(row: dict[str, Any]) -> str:
    low, high = row["gain_interval"]
    return f"{row['gain_points']:+.1f} [{low:+.1f}, {high:+.1f}]"


def _saved(row: dict[str, Any]) -> str:
    low, high = row["saved_interval"]
    return f"{100 * row['saved']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def markdown_table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table of these rows of cells."""
    rows = [head, ["---" for _ in head], *cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

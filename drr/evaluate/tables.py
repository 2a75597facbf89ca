"""The figures of an evaluation as a terminal shows them, and as Markdown for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

_STOP, _DEFAULT = "stop: ", "default"
_OPPONENTS = (
    "full",
    "stop: dm",
    "greedy",
    "self-consistency",
    "best of k: dm",
    "nudge",
    "rethink: self_critique",
    "rethink: critique",
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
    for own in sorted(rows, key=lambda own: float(own["tokens"])):
        grid.add_row(
            own["name"],
            f"{100 * own['accuracy']:.1f} %",
            _gain(own),
            f"{own['tokens']:.0f}",
            f"{100 * own['saved']:.0f} %",
            f"{own['seconds']:.0f}",
            str(own["lost_correct"]),
            str(own["gained_correct"]),
        )
    return grid


def everything(rows: Sequence[dict[str, Any]]) -> str:
    """Every strategy, fewest tokens first."""
    ordered = sorted(rows, key=lambda own: float(own["tokens"]))
    cells = [
        [
            own["name"],
            f"{100 * own['accuracy']:.1f} %",
            _gain(own),
            f"{own['tokens']:.0f}",
            _saved(own),
            f"{own['thinking_tokens']:.0f}",
            f"{own['seconds']:.0f}",
            str(own["lost_correct"]),
            str(own["gained_correct"]),
        ]
        for own in ordered
    ]
    head = ["strategy", "accuracy", "gain, points", "tokens", "saved", "thinking", "seconds", "lost", "gained"]
    return _markdown(head, cells)


def stoppers(groups: Mapping[str, Sequence[dict[str, Any]]], within: float = 0.5) -> str:
    """Every way of stopping early, group by group: its default rule's saving and gain, and in brackets the most that
    any of its settings saves while losing at most `within` points there, chosen in hindsight."""
    names = list(dict.fromkeys(own["family"] for rows in groups.values() for own in rows))
    names = [name for name in names if name.startswith(_STOP)]
    cells = [
        [group, *(_stopper([own for own in rows if own["family"] == name], within) for name in names)]
        for group, rows in groups.items()
    ]
    every = next(iter(groups.values()))
    tried = {name: sum(own["family"] == name for own in every) for name in names}
    return _markdown(["", *(f"{name.removeprefix(_STOP)} ({tried[name]})" for name in names)], cells)


def _stopper(rows: Sequence[dict[str, Any]], within: float) -> str:
    kept = [own["saved"] for own in rows if own["gain_points"] >= -within]
    hindsight = f"({100 * max(kept):.0f} %)" if kept else "(none)"
    default = [own for own in rows if own["name"].endswith(_DEFAULT)] or (rows if len(rows) == 1 else [])
    if not default:
        return hindsight
    return f"{100 * default[0]['saved']:.0f} %, {default[0]['gain_points']:+.1f} {hindsight}"


def equal_tokens(rows: Sequence[dict[str, Any]]) -> str:
    """Strategies against the families that are their opponents, at as many tokens: gain in points with its interval."""
    names = dict.fromkeys(own["contender"] for own in rows)
    present = [family for family in _OPPONENTS if any(own["against"] == family for own in rows)]
    cells = []
    for name in names:
        own = {row["against"]: row for row in rows if row["contender"] == name}
        first = next(iter(own.values()))
        gains = [_gain_at(own[family]) if family in own else "" for family in present]
        cells.append([name, f"{100 * first['accuracy']:.1f} %", f"{first['tokens']:.0f}", *gains])
    return _markdown(["", "accuracy", "tokens", *present], cells)


def coverage(rows: Sequence[dict[str, Any]]) -> str:
    """Selective answering by every judge."""
    cells = [
        [
            own["judge"],
            "{:.3f} [{:.3f}, {:.3f}]".format(own["area"], *own["interval"]),
            "{:+.3f} [{:+.3f}, {:+.3f}]".format(own["against_first"], *own["against_first_interval"]),
            f"{100 * own['at_half']:.1f} %",
        ]
        for own in rows
    ]
    return _markdown(["judge", "area", f"against {rows[0]['judge']}", "right among the half believed most"], cells)


def _gain_at(own: dict[str, Any]) -> str:
    """The gain, with the other's tokens where they differ by more than a tenth."""
    alike = 0.9 <= own["their_tokens"] / own["tokens"] <= 1.1
    return _gain(own) if alike else f"{_gain(own)} ({own['their_tokens']:.0f})"


def _gain(own: dict[str, Any]) -> str:
    low, high = own["gain_interval"]
    return f"{own['gain_points']:+.1f} [{low:+.1f}, {high:+.1f}]"


def _saved(own: dict[str, Any]) -> str:
    low, high = own["saved_interval"]
    return f"{100 * own['saved']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _markdown(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---" for _ in head], *cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

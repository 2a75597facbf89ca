"""The record of the capacity measurement in words and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.load_report import spread

_CLOSED = {"tokens_per_second": "tokens a second", "e2e_mean": "whole answer, mean", "e2e_p95": "whole answer, p95",
           "kv_tokens": "tokens in the KV cache"}  # fmt: skip
_OPEN = {"goodput": "goodput", "e2e_mean": "whole answer, mean", "e2e_p95": "whole answer, p95"}


def ratios(rounds: Sequence[Mapping[str, Any]], kind: str, place: int, figure: str) -> list[float]:
    """Predicted by measured, round by round, of one held-out run."""
    told = "predicted" if kind == "closed" else "simulated"
    pairs = [(each[kind][place][told][figure], each[kind][place]["measured"][figure]) for each in rounds]
    return [predicted / measured for predicted, measured in pairs if measured]


def section(record: Mapping[str, Any]) -> str:
    """The section of the page."""
    rounds = record["rounds"]
    return "\n".join([*_constants(record, rounds), "", *_held_out(rounds)])


def _constants(record: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    first = rounds[0]["constants"]["full"]["steps"]
    lines = [
        f"The reference pair on {record['machine']}; {len(rounds)} rounds, medians (least to greatest). Of the "
        f"machine's CPU time the measurement took {_shares(rounds, 'own')}, other processes {_shares(rounds, 'others')}"
        f", and {_shares(rounds, 'stolen')} was stolen. The server and its clients took "
        f"{_spread([run['slowdown'] for each in rounds for run in (*each['closed'], *each['open'])])} times as long as "
        "with CPUs of their own at their fastest: by the scheduler's account they waited for one, and a fixed piece of "
        "work took more CPU time. Constants are divided by that of the runs that gave them, and predictions multiplied "
        "by that of the runs that they are for.",
        "",
        "| constant | thinking in full | judged by the head |",
        "| --- | --- | --- |",
    ]
    for place, (batch, _) in enumerate(first):
        cells = [
            _spread([1000 * each["constants"][name]["steps"][place][1] for each in rounds])
            for name in ("full", "judged")
        ]
        lines.append(f"| decode step of {batch}, ms | {' | '.join(cells)} |")
    ratio = [
        judged[1] / full[1]
        for each in rounds
        for full, judged in zip(each["constants"]["full"]["steps"], each["constants"]["judged"]["steps"], strict=True)
    ]
    both = [
        ("prompt token, ms", "prefill", 1000.0),
        ("request outside the engine, ms", "request", 1000.0),
        ("stop (abort, resubmission), decode steps", "restart", 1.0),
    ]
    for label, key, factor in both:
        cells = [_spread([factor * each["constants"][name][key] for each in rounds]) for name in ("full", "judged")]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return [*lines, "", f"A judged step takes {_spread(ratio)} times as long as one that is not."]


def _held_out(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "Predicted by measured, of runs that gave no constant:",
        "",
        "| run | answers | figure | predicted by measured | rounds within 15 % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for place, run in enumerate(rounds[0]["closed"]):
        name = "thinking in full" if run["name"] == "full" else "DRR"
        count = sum(each["closed"][place]["requests"] for each in rounds)
        for figure, label in _CLOSED.items():
            cells = _cells(ratios(rounds, "closed", place, figure))
            lines.append(f"| {run['clients']} clients, {name}; the model | {count} | {label} | {cells} |")
    for place, run in enumerate(rounds[0]["open"]):
        count = sum(each["open"][place]["measured"]["requests"] for each in rounds)
        refused = sum(each["open"][place]["measured"]["refused"] for each in rounds)
        told = round(sum(each["open"][place]["simulated"]["refused"] for each in rounds))
        title = f"{run['share']:g} of what it carries, DRR; the simulation ({refused} refused, simulated {told})"
        for figure, label in _OPEN.items():
            lines.append(f"| {title} | {count} | {label} | {_cells(ratios(rounds, 'open', place, figure))} |")
    return lines


def _cells(found: Sequence[float]) -> str:
    inside = sum(abs(each - 1) <= 0.15 for each in found)
    return f"{_spread(found)} | {inside} of {len(found)}" if found else "? | ?"


def _spread(values: Sequence[float]) -> str:
    found = spread(values)
    return f"{found['median']:.3g} ({found['least']:.3g} to {found['greatest']:.3g})"


def _shares(rounds: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [100 * each[name] for each in rounds]
    return f"{np.median(values):.0f} % ({min(values):.0f} to {max(values):.0f})"

"""What was simulated, in words and tables."""

from collections.abc import Mapping
from typing import Any

_WORDS = {
    "poisson": "Poisson",
    "conversation": "conversations (Azure 2023)",
    "coding": "coding (Azure 2023)",
}


def section(found: Mapping[str, Any]) -> str:
    """The section of the page."""
    return "\n".join([*_setting(found), "", *_needed(found), "", *_routed(found)])


def _setting(found: Mapping[str, Any]) -> list[str]:
    goals, limits = found["goals"], found["limits"]
    whole = " or ".join(f"{goal['e2e']:.3g} s ({goal['slower']:g} times)" for goal in goals)
    steps = ", ".join(f"{1000 * seconds:.3g} ms with {batch}" for batch, seconds in found["constants"]["full"]["steps"])
    judged = ", ".join(f"{1000 * seconds:.3g}" for _, seconds in found["constants"]["judged"]["steps"])
    return [
        f"Constants from {found['source']}: a decode step takes {steps} sequences in it, where boundaries are judged "
        f"{judged} ms.",
        "",
        f"Simulated: {found['seconds'] / 60:.0f} minutes of arrivals, {found['rate']:.3g} requests a second on "
        f"average: what {found['replicas']} replicas carry of full thinking with {limits['running']} requests at once "
        f"each ({limits['waiting']} more wait, others are told 429). A request is good if its first token is there "
        f"within {goals[0]['ttft']:.2g} s and its answer within {whole} what the longest five of 100 take on a server "
        f"that has nothing else to do. Needed: the fewest replicas with which {100 * found['good']:g} % are good.",
    ]


def _needed(found: Mapping[str, Any]) -> list[str]:
    full = found["strategies"][0]
    lines = [
        "| goal | arrivals | strategy | tokens an answer | replicas needed | at once on each | whole answer, p95, s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    strategies = {each["name"]: each for each in found["strategies"]}
    base = {
        (row["slower"], row["shape"]): row["replicas"] for row in found["needed"] if row["strategy"] == full["name"]
    }
    for row in found["needed"]:
        each, told = strategies[row["strategy"]], row["figures"]
        tokens = f"{each['tokens']:.0f}{_less(each['tokens'], full['tokens'])}"
        begin = f"| {row['slower']:g} times | {_WORDS[row['shape']]} | {each['name']} | {tokens}"
        if row["replicas"] is None:
            lines.append(f"{begin} | no number does | | |")
            continue
        count = f"{row['replicas']}{_less(row['replicas'], base[row['slower'], row['shape']])}"
        lines.append(f"{begin} | {count} | {told['present'] / row['replicas']:.1f} | {told['e2e_p95']:.3g} |")
    return lines


def _less(value: float, base: float | None) -> str:
    return "" if not base or value == base else f" ({100 * (value / base - 1):+.0f} %)"


def _routed(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{found['replicas']} replicas at 0.75 of that rate, conversations of {found['turns']:g} turns on average, "
        f"goal {found['goals'][0]['slower']:g} times, by what the load balancer goes by:",
        "",
        "| load balancer | strategy | good | refused | first token, p95, s | whole answer, p95, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['router']} | {row['strategy']} | {100 * row['good_share']:.1f} % "
        f"| {100 * row['refused'] / row['requests']:.1f} % | {row['ttft_p95']:.2g} | {row['e2e_p95']:.3g} |"
        for row in found["routed"]
    ]
    return lines

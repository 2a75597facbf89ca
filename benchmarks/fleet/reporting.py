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
    goal, limits = found["goal"], found["limits"]
    return [
        f"Simulated: {found['seconds'] / 60:.0f} minutes of arrivals, {found['rate']:.3g} requests a second on "
        "average: "
        f"what {found['replicas']} replicas carry of full thinking with {limits['running']} requests at once each "
        f"({limits['waiting']} more wait, others are told 429). A request is good if its first token is there within "
        f"{goal['ttft']:.2g} s and its answer within {goal['e2e']:.3g} s, {found['slower']:g} times what a server that "
        f"has nothing else to do takes for the longest five of 100. Needed: the fewest replicas with which "
        f"{100 * found['good']:g} % are good.",
    ]


def _needed(found: Mapping[str, Any]) -> list[str]:
    full = found["strategies"][0]
    lines = [
        "| arrivals | strategy | tokens an answer | replicas needed | busy | wait, p95, s | whole answer, p95, s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    strategies = {each["name"]: each for each in found["strategies"]}
    base = {row["shape"]: row["replicas"] for row in found["needed"] if row["strategy"] == full["name"]}
    for row in found["needed"]:
        each, told = strategies[row["strategy"]], row["figures"]
        tokens = f"{each['tokens']:.0f}{_less(each['tokens'], full['tokens'])}"
        if row["replicas"] is None:
            lines.append(f"| {_WORDS[row['shape']]} | {each['name']} | {tokens} | no number does | | | |")
            continue
        lines.append(
            f"| {_WORDS[row['shape']]} | {each['name']} | {tokens} | {row['replicas']}"
            f"{_less(row['replicas'], base[row['shape']])} | {100 * told['utilization']:.0f} % "
            f"| {told['wait_p95']:.2g} | {told['e2e_p95']:.3g} |"
        )
    return lines


def _less(value: float, base: float | None) -> str:
    return "" if not base or value == base else f" ({100 * (value / base - 1):+.0f} %)"


def _routed(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{found['replicas']} replicas at 0.75 of that rate, conversations of {found['turns']:g} turns on average, by "
        "what the load balancer goes by:",
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

"""Pictures of what was simulated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_SIZE, _DPI = (11, 4), 120


def draw_plan(loads: Sequence[Mapping[str, Any]], sizes: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Left, the share of good requests by load on a fixed fleet; right, replicas needed by rate. A line a strategy."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    for rows, axes, across, up in ((loads, left, "rate", "good_share"), (sizes, right, "rate", "replicas")):
        for name in dict.fromkeys(row["strategy"] for row in rows):
            mine = [row for row in rows if row["strategy"] == name and row[up] is not None]
            axes.plot([row[across] for row in mine], [row[up] for row in mine], marker="o", label=name)
        axes.set_xlabel("requests a second")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    left.set_ylabel("share of good requests")
    left.set_title(f"{loads[0]['replicas']} replicas")
    left.legend()
    right.set_ylabel("replicas")
    right.set_title("replicas needed")
    figure.savefig(path, dpi=_DPI)


def draw_check(rounds: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Simulated against measured: goodput, and the whole answer in the mean; a point a run, with 15 % to both sides."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    for axes, (name, label) in zip(
        figure.subplots(1, 2), (("goodput", "good requests a second"), ("e2e_mean", "whole answer, s")), strict=True
    ):
        for place, run in enumerate(rounds[0]["open"]):
            axes.scatter(
                [each["open"][place]["measured"][name] for each in rounds],
                [each["open"][place]["simulated"][name] for each in rounds],
                label=f"{run['share']:g} of what it carries",
            )
        most = 1.1 * max(axes.get_xlim()[1], axes.get_ylim()[1])
        axes.plot([0, most], [0, most], color="black", linewidth=0.8)
        axes.fill_between([0, most], [0, 0.85 * most], [0, 1.15 * most], alpha=0.12, color="black")
        axes.set(xlim=(0, most), ylim=(0, most), xlabel=f"measured: {label}", ylabel=f"simulated: {label}")
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=_DPI)

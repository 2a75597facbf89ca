"""Figures of runs under load: latencies, throughput, goodput, ratios of two servers pair by pair, and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.load_client import Run, Sample

Figures = dict[str, float]
"""The figures of one run by name: latencies in seconds, rates per second."""

_DECADE = 10.0
QUANTILES = {"p50": 50, "p95": 95, "p99": 99}

COMPARED = (
    "requests_per_second",
    "tokens_per_second",
    "ttft_p50",
    "ttft_p95",
    "itl_p50",
    "itl_p95",
    "e2e_p50",
    "e2e_p95",
    "goodput",
)
"""The figures that a comparison of two servers shows."""


@dataclass(frozen=True, slots=True)
class LatencyGoals:
    """The limits, in seconds, within which a request counts as good: time to the first token, mean gap, whole answer.
    None is no limit."""

    ttft: float | None = None
    itl: float | None = None
    e2e: float | None = None

    def kept_by(self, sample: Sample) -> bool:
        """Whether an answered request stayed within all limits."""
        assert sample.first is not None
        assert sample.end is not None
        gap = float(np.mean(sample.gaps)) if sample.gaps else 0.0
        measured = ((self.ttft, sample.first - sample.due), (self.itl, gap), (self.e2e, sample.end - sample.due))
        return all(limit is None or seconds <= limit for limit, seconds in measured)


def figures(run: Run, goals: LatencyGoals) -> Figures:
    """Figures of one run: counts, rates per second, latencies in seconds. `goodput` is the rate of good requests.

    Failed requests are counted in `failed` and left out of latencies and rates. `stolen` is a share of CPU time.
    """
    good = [sample for sample in run.samples if sample.error is None]
    found: Figures = {
        "requests": len(run.samples),
        "failed": len(run.samples) - len(good),
        "seconds": run.seconds,
        "stolen": run.stolen,
        "tokens": sum(sample.tokens for sample in good),
        "requests_per_second": len(good) / run.seconds,
        "tokens_per_second": sum(sample.tokens for sample in good) / run.seconds,
        "goodput": sum(goals.kept_by(sample) for sample in good) / run.seconds,
    }
    for name, values in latencies(good).items():
        for quantile, percent in QUANTILES.items():
            found[f"{name}_{quantile}"] = float(np.percentile(values, percent)) if values else float("nan")
    return found


def latencies(good: Sequence[Sample]) -> dict[str, list[float]]:
    """Time to the first token, gaps between chunks, and time to the end; in seconds."""
    return {
        "ttft": [sample.first - sample.due for sample in good if sample.first is not None],
        "itl": [gap for sample in good for gap in sample.gaps],
        "e2e": [sample.end - sample.due for sample in good if sample.end is not None],
    }


def by_target(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of every target, in the order in which they were made."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.target, []).append(run)
    return found


def ratios(first: Sequence[Figures], second: Sequence[Figures]) -> dict[str, dict[str, Any]]:
    """The ratios of `second` to `first`, pair by pair, with their median, least and greatest."""
    found = {}
    for name in COMPARED:
        each = [b[name] / a[name] for a, b in zip(first, second, strict=True) if a.get(name)]
        if each:
            found[name] = {**spread(each), "pairs": each}
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, least and greatest of `values`."""
    return {"median": float(np.median(values)), "least": min(values), "greatest": max(values)}


def draw(
    runs: Mapping[str, Sequence[Run]], compared: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path, title: str
) -> None:
    """Draw the distributions of every server's latencies, and the ratios of every later server to the first by pair."""
    figure = Figure(figsize=(11, 6 if compared else 3.2), layout="constrained")
    figure.suptitle(title)
    grid = figure.add_gridspec(2 if compared else 1, 3)
    panels = {"ttft": "time to first token, s", "itl": "gap between chunks, s", "e2e": "whole answer, s"}
    for place, (name, label) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[0, place])
        for target, target_runs in runs.items():
            values = [
                value
                for run in target_runs
                for value in latencies([sample for sample in run.samples if sample.error is None])[name]
            ]
            if values:
                axes.ecdf(values, label=target)
        _spread_out(axes)
        axes.set_xlabel(label)
        axes.set_ylabel("share of requests" if name != "itl" else "share of gaps")
        axes.grid(alpha=0.3)
        if place == 0:
            axes.legend()
    if compared:
        _draw_ratios(figure.add_subplot(grid[1, :]), compared, next(iter(runs)))
    figure.savefig(path, dpi=120)


def _spread_out(axes: Any) -> None:
    """Make the axis logarithmic if its values span more than a decade; over less, its labels would overlap."""
    low, high = axes.get_xlim()
    least = min((float(np.min(line.get_xdata()[1:])) for line in axes.get_lines()), default=low)
    if high > _DECADE * max(least, 1e-9):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_ratios(axes: Any, compared: Mapping[str, Mapping[str, Mapping[str, Any]]], first: str) -> None:
    width = 0.8 / len(compared)
    for number, (name, by_figure) in enumerate(compared.items()):
        color = f"C{number + 1}"  # as the curves above
        for place, figure in enumerate(COMPARED):
            if (found := by_figure.get(figure)) is None:
                continue
            at = place + (number + 0.5) * width - 0.4
            axes.scatter([at] * len(found["pairs"]), found["pairs"], color=color, alpha=0.35, zorder=3)
            axes.hlines(found["median"], at - width / 2.5, at + width / 2.5, color=color, zorder=4)
            axes.annotate(
                f"{found['median']:.2f}", (at, found["median"]), (0, 4), textcoords="offset points", ha="center"
            )
        axes.hlines([], 0, 0, color=color, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(COMPARED)), [name.replace("_per_", " per\n").replace("_", " ") for name in COMPARED])
    axes.set_ylabel(f"ratio to {first}")
    axes.legend()
    axes.grid(axis="y", alpha=0.3)

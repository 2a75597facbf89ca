"""Pictures of an evaluation: accuracy against tokens, accuracy against coverage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from drr.evaluate.selective import Judged, coverage_curve

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator

_RED = 6
"""Index of the colour in the palette that is kept for DRR's lines."""

_MARKERS = "osD^vpXP<>h"
_COLOURS = [colour for place, colour in enumerate(mpl.color_sequences["tab20"]) if place != _RED]
_SHOWN_BELOW_FULL = 25.0
"""Points of accuracy below full thinking that are shown. Worse strategies would squeeze all others together."""


def draw_pareto(groups: Mapping[str, Sequence[dict[str, Any]]], path: Path) -> None:
    """One panel per group: accuracy against tokens, one line per family; DRR's own are the thick red ones."""
    columns = 1 if len(groups) == 1 else 2 if len(groups) <= 4 else 3
    rows = -(-len(groups) // columns)
    size = (10, 6.5) if len(groups) == 1 else (5.2 * columns + 2.5, 4.2 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    families = dict.fromkeys(row["family"] for figures in groups.values() for row in figures)
    ours_first = sorted(families, key=lambda family: not _ours(family))
    others = [family for family in families if not _ours(family)]
    colours = {family: _COLOURS[place % len(_COLOURS)] for place, family in enumerate(others)}
    markers = {family: _MARKERS[place % len(_MARKERS)] for place, family in enumerate(ours_first)} | {"full": "*"}
    for (name, figures), panel in zip(groups.items(), axes.flat, strict=False):
        for family in ours_first:
            points = sorted((row for row in figures if row["family"] == family), key=lambda row: float(row["tokens"]))
            ours = _ours(family)
            panel.plot(
                [point["tokens"] for point in points],
                [100 * point["accuracy"] for point in points],
                marker=markers[family],
                color="tab:red" if ours else "black" if family == "full" else colours[family],
                linestyle="--" if ours and "greedy" in family else "-",
                linewidth=2.2 if ours else 0.9,
                markersize=13 if family == "full" else 8 if ours else 4,
                zorder=3 if ours else 2,
                label=family,
            )
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set(title=name)
        full = [100 * row["accuracy"] for row in figures if row["family"] == "full"]
        panel.set_ylim(bottom=max(panel.get_ylim()[0], *(accuracy - _SHOWN_BELOW_FULL for accuracy in full)))
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(axes.flat)[len(groups) :]:
        panel.set_visible(False)
    figure.supxlabel("tokens per question, all of them (log scale)")
    figure.supylabel(f"right answers, % (down to {_SHOWN_BELOW_FULL:.0f} points below full thinking)")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _ours(family: str) -> bool:
    return family.endswith(": dm") and "in context" not in family


def draw_coverage(judges: Sequence[Judged], path: Path) -> None:
    """Draw each judge's accuracy on the answers that it believes most, against the share of questions answered."""
    figure, axes = plt.subplots(figsize=(7.5, 5), layout="constrained")
    for judge in judges:
        curve = coverage_curve(judge.belief, judge.right)
        share = 100 * np.arange(1, len(curve) + 1) / len(curve)
        seen = share >= 5
        axes.plot(share[seen], 100 * curve[seen], label=judge.name, linewidth=2.5 if judge.name == "dm" else 1.2)
    axes.set(xlabel="questions answered, %", ylabel="of these right, %")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)

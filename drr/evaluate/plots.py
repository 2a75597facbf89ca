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
"""Place of the colour that is DRR's own."""

_MARKERS = "osD^vpXP<>h"
_COLOURS = [colour for place, colour in enumerate(mpl.color_sequences["tab20"]) if place != _RED]
_SHOWN_BELOW_FULL = 25.0
"""Points: what is worse than full thinking by more would press everything else together."""


def draw_pareto(groups: Mapping[str, Sequence[dict[str, Any]]], path: Path) -> None:
    """One panel per group: accuracy against tokens, one line per family; DRR's own are the thick red ones."""
    columns = 1 if len(groups) == 1 else 2 if len(groups) <= 4 else 3
    rows = -(-len(groups) // columns)
    size = (10, 6.5) if len(groups) == 1 else (5.2 * columns + 2.5, 4.2 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    families = dict.fromkeys(own["family"] for figures in groups.values() for own in figures)
    ours_first = sorted(families, key=lambda family: not _ours(family))
    others = [family for family in families if not _ours(family)]
    colours = {family: _COLOURS[place % len(_COLOURS)] for place, family in enumerate(others)}
    markers = {family: _MARKERS[place % len(_MARKERS)] for place, family in enumerate(ours_first)} | {"full": "*"}
    for (name, figures), panel in zip(groups.items(), axes.flat, strict=False):
        for family in ours_first:
            points = sorted((own for own in figures if own["family"] == family), key=lambda own: float(own["tokens"]))
            ours = _ours(family)
            panel.plot(
                [own["tokens"] for own in points],
                [100 * own["accuracy"] for own in points],
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
        full = [100 * own["accuracy"] for own in figures if own["family"] == "full"]
        panel.set_ylim(bottom=max(panel.get_ylim()[0], *(own - _SHOWN_BELOW_FULL for own in full)))
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
    """Accuracy of the answers that each judge believes most, against the share of questions answered."""
    figure, axes = plt.subplots(figsize=(7.5, 5), layout="constrained")
    for own in judges:
        curve = coverage_curve(own.belief, own.right)
        share = 100 * np.arange(1, len(curve) + 1) / len(curve)
        seen = share >= 5
        axes.plot(share[seen], 100 * curve[seen], label=own.name, linewidth=2.5 if own.name == "dm" else 1.2)
    axes.set(xlabel="questions answered, %", ylabel="of these right, %")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)

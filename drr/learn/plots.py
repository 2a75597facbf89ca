"""Pictures of a DM: how well it ranks, how well it is calibrated, and how scores change along an attempt."""

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from sklearn.metrics import roc_curve

from drr.learn.arrays import Reals
from drr.learn.boundaries import Boundaries
from drr.learn.dm_card import PLOT_NAMES
from drr.learn.dm_metrics import auroc, phase_masks, reliability

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_STEPS_SHOWN = 30
_LEAST_PER_POINT = 20


def draw_dm(parts: Mapping[str, Reals], data: Boundaries, folder: Path) -> None:
    """Write PLOT_NAMES into `folder`. `parts` holds named probabilities [N] of `now`; the last are the whole DM's."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / PLOT_NAMES[0], lambda axes: _roc(axes, parts, data))
    _save(folder / PLOT_NAMES[1], lambda axes: _reliability(axes, list(parts.values())[-1], data))
    _save(folder / PLOT_NAMES[2], lambda axes: _steps(axes, list(parts.values())[-1], data))


def _save(path: Path, draw: Callable[[Axes], None]) -> None:
    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _roc(axes: Axes, parts: Mapping[str, Reals], data: Boundaries) -> None:
    masks = phase_masks(data)
    focus, title = ("first", "at the first stated answer") if masks["first"].any() else ("last", "at the last boundary")
    mask = masks[focus] & data.known
    for name, scores in parts.items():
        area = auroc(scores[mask], data.now[mask])
        if area is None:
            continue
        false, true, _ = roc_curve(data.now[mask], scores[mask])
        axes.plot(false, true, label=f"{name}: {area:.3f}")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="wrong ones accepted", ylabel="right ones accepted", title=f"ROC {title} ({mask.sum():,})")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(title="AUROC", frameon=False, loc="lower right")


def _reliability(axes: Axes, scores: Reals, data: Boundaries) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    for phase, mask in phase_masks(data).items():
        mask = mask & data.known
        if phase == "last" or mask.sum() < _LEAST_PER_POINT:
            continue
        predicted, observed, counts = reliability(scores[mask], data.now[mask])
        enough = counts >= _LEAST_PER_POINT
        axes.plot(predicted[enough], observed[enough], marker="o", markersize=4, label=f"{phase} ({mask.sum():,})")
    axes.set(xlabel="p_now", ylabel="share right", title="Reliability by phase", xlim=(0, 1), ylim=(0, 1))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(title="phase", frameon=False)


def _steps(axes: Axes, scores: Reals, data: Boundaries) -> None:
    for flag, name in ((True, "attempts that end right"), (False, "attempts that end wrong")):
        points = []
        for index in range(_STEPS_SHOWN):
            at_step = scores[(data.index == index) & (data.later == flag)]
            if len(at_step) >= _LEAST_PER_POINT:
                points.append((index, *np.quantile(at_step, (0.25, 0.5, 0.75))))
        if points:
            steps, low, middle, high = np.asarray(points).T
            axes.plot(steps, middle, label=name)
            axes.fill_between(steps, low, high, alpha=0.2)
    axes.set(xlabel="step index", ylabel="p_now (median, quartiles)", title="Score along the attempt", ylim=(0, 1))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)

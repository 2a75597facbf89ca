"""How good a score is: ranking, calibration, and both where it matters.

The phases of an attempt: `before` any answer is stated, `first` (the boundary that first states one), `after`.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, roc_auc_score

from drr.distill import Rollout
from drr.features import FEATURE_NAMES
from drr.train import Boundaries

PHASES = ("before", "first", "after")
_STATED, _COUNT = FEATURE_NAMES.index("answer_stated"), FEATURE_NAMES.index("log_answers_stated")


def auroc(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve; None where only one label occurs."""
    if labels.all() or not labels.any():
        return None
    return float(roc_auc_score(labels, scores))


def ece(probabilities: NDArray[np.float64], labels: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error over `bins` equally filled bins."""
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [len(part) * abs(probabilities[part].mean() - labels[part].mean()) for part in parts]
    return float(sum(gaps) / len(probabilities))


def within_question_auroc(
    scores: NDArray[np.float64], labels: NDArray[np.bool_], questions: Sequence[str]
) -> tuple[float | None, int]:
    """How often a right attempt outranks a wrong attempt of the same question, ties counting half.

    Pooled over all such pairs; also returns the number of questions with both kinds.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for position, question in enumerate(questions):
        groups[question].append(position)
    won, pairs, mixed = 0.0, 0, 0
    for members in groups.values():
        right, wrong = scores[[i for i in members if labels[i]]], scores[[i for i in members if not labels[i]]]
        if len(right) and len(wrong):
            difference = right[:, None] - wrong[None, :]
            won += float((difference > 0).sum() + 0.5 * (difference == 0).sum())
            pairs += difference.size
            mixed += 1
    return (won / pairs if pairs else None), mixed


def phase_masks(data: Boundaries) -> dict[str, NDArray[np.bool_]]:
    """Which boundaries belong to which phase."""
    stated = data.features[:, _STATED] > 0.5
    count = np.rint(np.expm1(data.features[:, _COUNT])).astype(int)
    first = np.zeros(len(stated), dtype=bool)
    seen: set[int] = set()
    for position in np.flatnonzero(stated & (count == 1)):
        if data.rollout[position] not in seen:
            seen.add(int(data.rollout[position]))
            first[position] = True
    return {"before": ~stated, "first": first, "after": stated & ~first}


def score_report(probabilities: NDArray[np.float64], data: Boundaries, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """AUROC, ECE and Brier score of `now` per phase and overall, and AUROC within question at first statements."""
    report: dict[str, Any] = {}
    masks = {"all": np.ones(len(data.now), dtype=bool), **phase_masks(data)}
    for phase, mask in masks.items():
        if mask.any():
            report[phase] = {
                "boundaries": int(mask.sum()),
                "right": round(float(data.now[mask].mean()), 4),
                "auroc": _rounded(auroc(probabilities[mask], data.now[mask])),
                "ece": round(ece(probabilities[mask], data.now[mask]), 4),
                "brier": round(float(brier_score_loss(data.now[mask], probabilities[mask])), 4),
            }
    first = masks["first"]
    questions = [rollouts[owner].question for owner in data.rollout[first]]
    within, mixed = within_question_auroc(probabilities[first], data.now[first], questions)
    report["within_question_first"] = {"auroc": _rounded(within), "mixed_questions": mixed}
    return report


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

"""How good a score is: how well it ranks and how well it is calibrated, by phase of the attempt; and the same for
signals that need no DM.

The phases: `before` any answer is stated, `first` (the boundary that first states one), and `after` that. `last` is an
attempt's last boundary, whatever was stated.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from drr.learn.arrays import Flags, Reals
from drr.learn.boundaries import Boundaries
from drr.learn.records import Rollout
from drr.loop.features import FEATURE_NAMES

PHASES = ("before", "first", "after")
_STEP_BANDS = ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 10**9))
_NEAR_ENOUGH = 1e-9


def auroc(scores: Reals, labels: Flags) -> float | None:
    """Area under the ROC curve; None if only one label occurs."""
    if labels.all() or not labels.any():
        return None
    return float(roc_auc_score(labels, scores))


def ece(probabilities: Reals, labels: Flags, bins: int = 15) -> float:
    """Expected calibration error over `bins` bins that hold equally many scores."""
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [len(part) * abs(probabilities[part].mean() - labels[part].mean()) for part in parts]
    return float(sum(gaps) / len(probabilities))


def within_question_auroc(scores: Reals, labels: Flags, questions: Sequence[str]) -> tuple[float | None, int]:
    """The share of pairs of a right and a wrong attempt at the same question in which the right one has the higher
    score; ties count half. None if there are no such pairs. Also the number of questions with both kinds."""
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


def phase_masks(data: Boundaries) -> dict[str, Flags]:
    """By phase, which boundaries [N] belong to it."""
    before = data.stated == 0
    if not len(data.rollout):
        return dict.fromkeys((*PHASES, "last"), before)
    changes = data.rollout[1:] != data.rollout[:-1]
    previous = np.r_[0, np.where(changes, 0, data.stated[:-1])]
    first = (data.stated > 0) & (previous == 0)
    return {"before": before, "first": first, "after": ~before & ~first, "last": np.r_[changes, True]}


def score_report(probabilities: Reals, data: Boundaries, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Figures of probabilities [N] of `now`: AUROC, ECE and Brier score over all boundaries, per phase and per step
    index; AUROC within questions at first statements and at last boundaries; accuracy of the best of k by score."""
    masks = {"all": np.ones(len(data.now), dtype=bool), **phase_masks(data)}
    report: dict[str, Any] = {}
    for phase, mask in masks.items():
        _add_figures(report, phase, probabilities, data, mask)
    steps: dict[str, Any] = {}
    for low, high in _STEP_BANDS:
        name = str(low) if low == high else f"{low}-{high}" if high < 10**9 else f"{low}+"
        _add_figures(steps, name, probabilities, data, (data.index >= low) & (data.index <= high))
    report["by_step"] = steps
    for phase in ("first", "last"):
        mask = masks[phase] & data.known
        questions = [rollouts[owner].identity for owner in data.rollout[mask]]
        within, mixed = within_question_auroc(probabilities[mask], data.now[mask], questions)
        report[f"within_question_{phase}"] = {"auroc": _rounded(within), "mixed_questions": mixed}
    report["best_of"] = best_of(probabilities[masks["last"]], rollouts)
    return report


def _add_figures(report: dict[str, Any], name: str, probabilities: Reals, data: Boundaries, mask: Flags) -> None:
    mask = mask & data.known
    if mask.any():
        labels, scores = data.now[mask], probabilities[mask]
        report[name] = {
            "boundaries": int(mask.sum()),
            "right": round(float(labels.mean()), 4),
            "auroc": _rounded(auroc(scores, labels)),
            "ece": round(ece(scores, labels), 4),
            "brier": round(float(brier_score_loss(labels, scores)), 4),
        }


def best_of(scores: Reals, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Accuracy if, of a question's attempts, the one with the highest score at its end is taken.

    For comparison the accuracy of a random attempt, of the majority answer, and of the best possible choice. Up to 4
    attempts of each question.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for number, rollout in enumerate(rollouts):
        if len(groups[rollout.identity]) < 4:
            groups[rollout.identity].append(number)
    chosen, random, majority, oracle = [], [], [], []
    for members in groups.values():
        if len(members) < 2:
            continue
        right = np.asarray([rollouts[i].later for i in members])
        answers = [rollouts[i].answer for i in members]
        votes = Counter(answers)
        leaders = [votes[answer] == max(votes.values()) for answer in answers]
        chosen.append(float(right[scores[members] >= scores[members].max() - _NEAR_ENOUGH].mean()))
        random.append(float(right.mean()))
        majority.append(float(right[leaders].mean()))
        oracle.append(float(right.any()))
    if not chosen:
        return {"questions": 0}
    means = {"by_score": chosen, "random": random, "majority": majority, "oracle": oracle}
    return {
        "questions": len(chosen),
        **{name: round(float(np.mean(accuracies)), 4) for name, accuracies in means.items()},
    }


def baselines(fitting: Boundaries, data: Boundaries) -> dict[str, Any]:
    """Figures of single numbers as predictors of `now`: the step's index, the length so far, the Reasoner's mean
    log-probability. Each is put through a logistic regression fitted on `fitting` and is measured on `data`."""
    columns = {"step_index": _column("log_step_index"), "length": _column("log_thinking_tokens")}
    columns["reasoner_confidence"] = _column("attempt_mean_logprob")
    report = {}
    for name, column in columns.items():
        fit_mask = fitting.known & fitting.featured
        mask = data.known & data.featured
        inputs, labels = fitting.features[fit_mask, column], fitting.now[fit_mask]
        if name == "step_index":
            fit_mask, mask = fitting.known, data.known
            inputs, labels = np.log1p(fitting.index[fit_mask]), fitting.now[fit_mask]
        if not mask.any() or not labels.any() or labels.all():
            continue
        signal = np.log1p(data.index[mask]) if name == "step_index" else data.features[mask, column]
        fit = LogisticRegression().fit(inputs[:, None], labels)
        predicted = fit.predict_proba(signal[:, None])[:, 1]
        report[name] = {
            "auroc": _rounded(auroc(predicted, data.now[mask])),
            "ece": round(ece(predicted, data.now[mask]), 4),
            "brier": round(float(brier_score_loss(data.now[mask], predicted)), 4),
        }
    return report


def _column(name: str) -> int:
    return FEATURE_NAMES.index(name)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def reliability(probabilities: Reals, labels: Flags, bins: int = 12) -> tuple[Reals, Reals, NDArray[np.int64]]:
    """Mean prediction, share right and number of scores, for those of `bins` equally wide bins that are not empty."""
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    counts = np.bincount(which, minlength=bins)
    filled = counts > 0
    predicted = np.bincount(which, probabilities, minlength=bins)[filled] / counts[filled]
    observed = np.bincount(which, labels.astype(float), minlength=bins)[filled] / counts[filled]
    return predicted, observed, counts[filled]

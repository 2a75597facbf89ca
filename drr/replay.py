"""Replay a stopping rule over recorded behaviour, to choose a threshold.

Every boundary of a recorded rollout already has its forced answer graded, so the rule's outcome is known exactly.
This chooses; it does not evaluate: reported figures come from the served loop.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drr.distill import Rollout
from drr.policy import PolicySettings, Score, Verdict, decide

_PATIENCES = (1, 2, 3)
_ONE_SIDED_95 = 1.645

ANSWER_TOKENS = 10
"""Tokens that a forced answer and its close cost in the replay."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a rule would have done: accuracy, mean tokens, and their values for full thinking."""

    threshold: float
    patience: int
    accuracy: float
    tokens: float
    full_accuracy: float
    full_tokens: float
    lost_at_most: float
    """Accuracy lost, in points, that is not exceeded with 95 % confidence (normal, questions drawn anew)."""

    @property
    def lost(self) -> float:
        """Accuracy lost against full thinking, in points of 100."""
        return 100 * (self.full_accuracy - self.accuracy)

    @property
    def saved(self) -> float:
        """Share of full thinking's tokens saved."""
        return 1 - self.tokens / self.full_tokens


def replay(rollouts: Sequence[Rollout], scores: Sequence[Sequence[Score]], settings: PolicySettings) -> Replayed:
    """Outcome of `settings` on `rollouts`, whose boundaries are scored by `scores`."""
    right, tokens = [], []
    lost_by_question: dict[str, list[float]] = defaultdict(list)
    for rollout, own in zip(rollouts, scores, strict=True):
        stop = next((i for i in range(len(own)) if decide(settings, own[: i + 1]).verdict is Verdict.STOP), None)
        if stop is None or stop == len(rollout.steps) - 1:
            right.append(rollout.later)
            tokens.append(rollout.total_tokens)
        else:
            right.append(rollout.now[stop])
            tokens.append(sum(rollout.step_tokens[: stop + 1]) + ANSWER_TOKENS)
        lost_by_question[rollout.question].append(float(rollout.later) - float(right[-1]))
    lost = 100 * np.asarray([np.mean(own) for own in lost_by_question.values()])
    return Replayed(
        settings.threshold,
        settings.patience,
        float(np.mean(right)),
        float(np.mean(tokens)),
        float(np.mean([rollout.later for rollout in rollouts])),
        float(np.mean([rollout.total_tokens for rollout in rollouts])),
        float(lost.mean() + _ONE_SIDED_95 * lost.std() / np.sqrt(len(lost))),
    )


def choose_rule(
    rollouts: Sequence[Rollout], scores: Sequence[Sequence[Score]], max_lost_points: float
) -> tuple[Replayed, list[Replayed]]:
    """The threshold and patience that save most while losing at most `max_lost_points` with 95 % confidence.

    Also returns every rule tried. Falls back to the one that is likely to lose least where none is good enough.
    """
    curve = [
        replay(rollouts, scores, PolicySettings(threshold=float(threshold), patience=patience))
        for patience in _PATIENCES
        for threshold in (*np.arange(0.30, 0.95, 0.02), *np.arange(0.95, 0.9999, 0.005))
    ]
    good = [point for point in curve if point.lost_at_most <= max_lost_points]
    best = max(good, key=lambda point: point.saved) if good else min(curve, key=lambda point: point.lost_at_most)
    return best, curve

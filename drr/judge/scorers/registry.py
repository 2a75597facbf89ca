"""The scorers that need no training, by name."""

from typing import Literal

from drr.judge.scorers.answer_probe import AnswerProbeScorer
from drr.judge.scorers.confidence import ConfidenceScorer
from drr.judge.scorers.controls import LogprobScorer, RandomScorer, StatedScorer, StepIndexScorer
from drr.judge.scorers.entropy import EntropyScorer
from drr.judge.scorers.self_critique import SelfCritiqueScorer
from drr.loop.scoring import Scorer

ScorerName = Literal[
    "dm",
    "prm",
    "confidence",
    "logprob",
    "entropy",
    "answer_probe",
    "self_critique",
    "critique",
    "random",
    "step_index",
    "stated",
]

THRESHOLDS: dict[str, float] = {
    "prm": 0.9,
    "confidence": 0.95,
    "logprob": 0.98,
    "entropy": 0.9,
    "answer_probe": 1.0,
    "self_critique": 0.9,
    "critique": 0.9,
    "random": 0.95,
    "step_index": 0.8,
    "stated": 1.0,
}
"""Default thresholds on p_now at which thinking stops. They come from the papers where those give one, and promise
nothing about the risk."""

NEED_NO_STEPS = ("confidence", "entropy", "self_critique", "critique")
"""Scorers whose score at the end of an attempt does not depend on the boundaries before it. Where only the end counts,
asking them there alone saves tokens."""

READ_LOGPROBS = ("confidence", "logprob", "entropy", "answer_probe", "self_critique", "critique")
"""Scorers that read log-probabilities, or probe with them."""

LEAST_ACCEPTED = 0.5
"""The default p_now below which an attempt is rejected."""

ACCEPTS: dict[str, float] = {"logprob": 0.98, "answer_probe": 0.75}
"""Replaces LEAST_ACCEPTED for scorers whose scores are far from probabilities."""


def training_free() -> dict[str, Scorer]:
    """One scorer of every kind that needs no DM, by name."""
    scorers: list[Scorer] = [
        ConfidenceScorer(),
        LogprobScorer(),
        EntropyScorer(),
        AnswerProbeScorer(),
        SelfCritiqueScorer(),
        SelfCritiqueScorer(thinks=True),
        RandomScorer(),
        StepIndexScorer(),
        StatedScorer(),
    ]
    return {scorer.id: scorer for scorer in scorers}

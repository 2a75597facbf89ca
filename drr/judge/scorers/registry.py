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
"""Scores that stop thinking where nobody says otherwise: the papers' own where they give one, and no promise."""

NEED_NO_STEPS = ("confidence", "entropy", "self_critique", "critique")
"""Scorers that say the same of the end of an attempt whatever came before: where nothing else counts, they can be asked
there only, and cost no more than they have to."""

LEAST_ACCEPTED = 0.5
"""The p_now below which an attempt is rejected where nobody says otherwise."""

ACCEPTS: dict[str, float] = {"logprob": 0.98, "answer_probe": 0.75}
"""The same, for scorers whose scores are far from probabilities."""


def training_free() -> dict[str, Scorer]:
    """One scorer of every kind that needs no DM."""
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

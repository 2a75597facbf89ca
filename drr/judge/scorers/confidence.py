"""Confidence: how probable the Reasoner finds the answer that it is forced to give (DEER, arXiv 2504.15895; CRew)."""

import math
from collections.abc import Sequence

from drr.judge.scorers.probed import ProbingScorer, ProbingSession
from drr.loop.probing import ProbedToken


class ConfidenceScorer(ProbingScorer):
    """The geometric mean of the forced answer's token probabilities."""

    id = "confidence"

    async def judge(self, session: ProbingSession, index: int, forced: Sequence[ProbedToken]) -> float:
        return math.exp(sum(token.logprob for token in forced) / len(forced))

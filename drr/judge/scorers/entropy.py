"""Entropy: how undecided the Reasoner is about the answer that it is forced to give (EAT, arXiv 2509.26522)."""

import math
from collections.abc import Sequence

from drr.judge.scorers.probed import ProbingScorer, ProbingSession
from drr.loop.probing import ProbedToken


class EntropyScorer(ProbingScorer):
    """exp(-H), where H is the greatest entropy, in nats, of any token of the forced answer.

    Engines report the likeliest tokens only; the rest of the probability counts as one more token.
    """

    id = "entropy"
    likeliest = 20

    async def judge(self, session: ProbingSession, index: int, forced: Sequence[ProbedToken]) -> float:
        return math.exp(-max(map(entropy, forced)))


def entropy(token: ProbedToken) -> float:
    """Entropy, in nats, of the distribution that the token was drawn from."""
    known = [math.exp(logprob) for logprob in token.likeliest.values()]
    rest = max(0.0, 1.0 - sum(known))
    return -sum(p * math.log(p) for p in (*known, rest) if p > 0)

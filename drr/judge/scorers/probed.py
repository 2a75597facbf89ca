"""The common part of the scorers that ask the Reasoner for an answer at every boundary."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

from drr.loop.policy import Score
from drr.loop.probing import Probe, ProbedToken, text_of
from drr.loop.scoring import Boundary, ScorerUnavailableError

ANSWER_TOKENS = 32
"""The most tokens of a forced answer; of a longer one only the beginning is judged."""


class ProbingScorer(ABC):
    """Scores a boundary by the answer forced there. `likeliest` is how many alternatives are fetched per token."""

    id: str
    likeliest = 0

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "ProbingSession":
        if probe is None:
            raise ScorerUnavailableError(f"{self.id} needs to ask the Reasoner")
        return ProbingSession(self, question, probe)

    @abstractmethod
    async def judge(self, session: "ProbingSession", index: int, forced: Sequence[ProbedToken]) -> float:
        """How far the answer forced at boundary `index` can be trusted, from 0 to 1."""


class ProbingSession:
    """Scores the boundaries of one attempt. `answers[i]` is a future of the answer forced at boundary i, cancelled if
    the probe fails."""

    def __init__(self, scorer: ProbingScorer, question: str, probe: Probe) -> None:
        self._scorer, self.question, self.probe = scorer, question, probe
        self.answers: dict[int, asyncio.Future[str]] = {}

    async def score(self, boundary: Boundary) -> Score:
        answer = self.answers[boundary.index] = asyncio.get_running_loop().create_future()
        try:
            form, context = self.probe.form, boundary.context()
            ids = [*context, *form.close_behind(context)[0]]
            stop = ("\n",) if form.answer_prefix else ()  # only the answer cue keeps it from thinking on
            forced = await self.probe.complete(ids, ANSWER_TOKENS, self._scorer.likeliest, stop)
            answer.set_result(form.answer_prefix + text_of(forced))
        finally:
            if not answer.done():
                answer.cancel()
        trust = await self._scorer.judge(self, boundary.index, forced) if forced else 0.0
        return Score(trust, trust)

"""Answer stability: has the forced answer stopped changing (Dynasor-CoT, arXiv 2412.20993)?"""

import asyncio
from collections.abc import Sequence

from drr.judge.scorers.probed import ProbingScorer, ProbingSession
from drr.loop.probing import ProbedToken
from drr.loop.stated import answer_in

_FULL_RUN = 4


class AnswerProbeScorer(ProbingScorer):
    """How many boundaries in a row, this one included, have forced the same answer, up to four, divided by four."""

    id = "answer_probe"

    async def judge(self, session: ProbingSession, index: int, forced: Sequence[ProbedToken]) -> float:
        answer, run = _plain(await session.answers[index]), 1
        while run < _FULL_RUN and index - run in session.answers:
            try:
                before = await asyncio.shield(session.answers[index - run])
            except asyncio.CancelledError:
                if not session.answers[index - run].cancelled():
                    raise
                break  # that boundary's probe failed, so its answer is unknown
            if _plain(before) != answer:
                break
            run += 1
        return run / _FULL_RUN


def _plain(answer: str) -> str:
    return " ".join(answer_in(answer).casefold().split())

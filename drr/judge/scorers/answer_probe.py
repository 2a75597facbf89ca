"""Answer stability: has the forced answer stopped changing (Dynasor-CoT, arXiv 2412.20993)?"""

import asyncio
from collections.abc import Sequence

from drr.judge.scorers.probed import ProbingScorer, ProbingSession
from drr.loop.probing import ProbedToken
from drr.loop.stated import answer_in

_WANTED = 4


class AnswerProbeScorer(ProbingScorer):
    """The share, of the last four boundaries, at whose end the same answer is forced in a row as now; 1 once it has
    been the same four times."""

    id = "answer_probe"

    async def judge(self, session: ProbingSession, index: int, forced: Sequence[ProbedToken]) -> float:
        own, run = _plain(await session.answers[index]), 1
        while run < _WANTED and index - run in session.answers:
            try:
                before = await asyncio.shield(session.answers[index - run])
            except asyncio.CancelledError:
                if not session.answers[index - run].cancelled():
                    raise
                break  # that boundary's probe failed: nothing is known of its answer
            if _plain(before) != own:
                break
            run += 1
        return run / _WANTED


def _plain(answer: str) -> str:
    return " ".join(answer_in(answer).casefold().split())

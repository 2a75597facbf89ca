"""The oracle: what stopping could save if one knew which answers are right. For evaluation; it is told them."""

import asyncio
from collections.abc import Sequence

from drr.grading import Grader
from drr.probing import ProbedToken, text_of
from drr.scorers.probed import ProbingScorer, ProbingSession


class OracleScorer(ProbingScorer):
    """1 where the answer forced at the boundary is right by `grade` against `gold`, else 0; for one question."""

    id = "oracle"

    def __init__(self, grade: Grader, gold: str) -> None:
        self._grade, self._gold = grade, gold

    async def judge(self, session: ProbingSession, index: int, forced: Sequence[ProbedToken]) -> float:
        return float(await asyncio.to_thread(self._grade, text_of(forced), self._gold))

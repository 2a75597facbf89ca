"""The oracle: what stopping could save if one knew which answers are right. For evaluation; it is told them."""

import asyncio
from collections.abc import Awaitable, Callable

from drr.loop.policy import Score
from drr.loop.probing import Probe
from drr.loop.scoring import Boundary
from drr.tasks.grading import Grader


class OracleScorer:
    """1 where the answer that a stop at the boundary would be followed by is right by `grade` against `gold`, else 0.

    For one question: `answer` gives that very answer, to a context in token ids.
    """

    id = "oracle"

    def __init__(self, answer: Callable[[list[int]], Awaitable[str]], grade: Grader, gold: str) -> None:
        self._answer, self._grade, self._gold = answer, grade, gold

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "OracleScorer":
        return self

    async def score(self, boundary: Boundary) -> Score:
        given = await self._answer(boundary.context())
        right = float(await asyncio.to_thread(self._grade, given, self._gold))
        return Score(right, right)

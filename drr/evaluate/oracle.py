"""The oracle, for evaluation only: it is given the gold answers, and shows how much perfect stopping would save."""

import asyncio
from collections.abc import Awaitable, Callable

from drr.loop.policy import Score
from drr.loop.probing import Probe
from drr.loop.scoring import Boundary
from drr.tasks.grading import Grader


class OracleScorer:
    """1 if the answer that a stop at the boundary would lead to is right, by `grade` against `gold`, else 0.

    An oracle is for one question. `answer` gives the answer that the loop would give after a context (token ids).
    """

    id = "oracle"

    def __init__(self, answer: Callable[[list[int]], Awaitable[str]], grade: Grader, gold: str) -> None:
        self._answer, self._grade, self._gold = answer, grade, gold

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "OracleScorer":
        return self

    async def score(self, boundary: Boundary) -> Score:
        answer = await self._answer(boundary.context())
        right = float(await asyncio.to_thread(self._grade, answer, self._gold))
        return Score(right, right)

"""The oracle, for evaluation only: it is given the gold answers, and shows how much perfect stopping would save."""

from collections.abc import Awaitable, Callable

from drr.loop.policy import Score
from drr.loop.probing import Probe
from drr.loop.scoring import Boundary


class OracleScorer:
    """1 if the answer that a stop at the boundary would lead to is right, else 0.

    An oracle is for one question. `answer` gives the answer that the loop would give after a context (token ids), and
    `is_right` says whether an answer is right.
    """

    id = "oracle"

    def __init__(
        self, answer: Callable[[list[int]], Awaitable[str]], is_right: Callable[[str], Awaitable[bool]]
    ) -> None:
        self._answer, self._is_right = answer, is_right

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "OracleScorer":
        return self

    async def score(self, boundary: Boundary) -> Score:
        answer = await self._answer(boundary.context())
        right = float(await self._is_right(answer))
        return Score(right, right)

"""Scores of one attempt's boundaries, each with a deadline; a judge that fails or is late ends no response."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from drr.loop.complaints import complain
from drr.loop.policy import Score
from drr.loop.scoring import Boundary, ScorerUnavailableError, ScoringSession


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of one boundary's scoring; `ms` is None where no score came in time."""

    score: Score | None
    ms: float | None = None
    late: bool = False
    failed: bool = False


class AttemptScores:
    """Asks the judge of one attempt. Without a `session` every boundary passes unjudged."""

    def __init__(self, session: ScoringSession | None, judge_id: str, deadline: float) -> None:
        self._session, self._id, self._deadline = session, judge_id, deadline
        self._tasks = set[asyncio.Task[Scored]]()

    @property
    def judged(self) -> bool:
        """Whether anybody judges."""
        return self._session is not None

    def submit(self, index: int, texts: Sequence[str]) -> "asyncio.Task[Scored]":
        """Begin to score the boundary behind these texts, which are new since the one before."""
        boundary = Boundary(index, "".join(texts), None, parts=tuple(texts))
        task = asyncio.create_task(self._score(boundary))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Give up whatever is still being scored."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _score(self, boundary: Boundary) -> Scored:
        if self._session is None:
            return Scored(None)
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(self._deadline):
                score = await self._session.score(boundary)
        except TimeoutError:
            return Scored(None, late=True)
        except ScorerUnavailableError:
            self._session = None  # later boundaries pass at once
            return Scored(None, failed=True)
        except Exception as error:
            complain(self._id, error)
            return Scored(None, failed=True)
        if not (math.isfinite(score.p_now) and math.isfinite(score.p_later)):
            complain(self._id, ValueError(f"{score} is no score"))
            return Scored(None, failed=True)
        return Scored(score, (time.perf_counter() - begun) * 1000)

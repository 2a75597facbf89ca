"""A process reward model as a scorer: attempts that are too long for it, and a model that is gone."""

import asyncio

import pytest

from drr.judge.scorers.process_reward import ProcessRewardScorer
from drr.loop.scoring import Boundary, ScorerUnavailableError


class FakeScorer(ProcessRewardScorer):
    """Rewards by the number of steps, the last scored first; reads at most three steps."""

    def __init__(self) -> None:
        self.max_tokens = 3
        self.cancelled = 0

    def render(self, question: str, steps: list[str]) -> list[int]:
        return [len(question)] * len(steps)

    async def rewards(self, ids: list[int]) -> list[float]:
        try:
            await asyncio.sleep(0.05 / len(ids))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [1.0, 0.9, 0.7][: len(ids)]


async def test_boundaries_scored_at_once_keep_the_last_score_that_fitted() -> None:
    session = FakeScorer().session("q")
    found = await asyncio.gather(*(session.score(Boundary(index, "a", None)) for index in range(5)))
    assert [score.p_now for score in found] == [1.0, 0.9, 0.7, 0.7, 0.7]


async def test_an_attempt_that_never_fits_has_no_score_and_a_given_up_one_is_freed() -> None:
    scorer = FakeScorer()
    session = scorer.session("q")
    first = asyncio.ensure_future(session.score(Boundary(0, "a", None)))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert scorer.cancelled == 1
    scorer.max_tokens = 0
    with pytest.raises(ValueError, match="too few for this attempt"):
        await session.score(Boundary(1, "a", None))


async def test_a_model_that_is_gone_is_not_asked_again() -> None:
    asked = 0

    async def gone(ids: list[int]) -> list[float]:
        nonlocal asked
        asked += 1
        raise ScorerUnavailableError("its engine is gone")

    scorer = ProcessRewardScorer(gone, None, 8)
    for _ in range(2):
        with pytest.raises(ScorerUnavailableError):
            await scorer.rewards([1])
    assert (scorer.dead, asked) == (True, 1)

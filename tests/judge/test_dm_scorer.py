"""The DM judges one input of an attempt at a time, and stays unavailable once its classifier is gone."""

import asyncio
from collections.abc import Sequence

import pytest
from transformers import AutoTokenizer

from drr.judge.dm_folder import load_dm_head
from drr.judge.scorers.dm import Classified, DmScorer
from drr.loop.policy import Score
from drr.loop.scoring import Boundary, ScorerUnavailableError
from tests.dm_logits import FOLDER, QUESTION, STEPS, inputs


class SlowClassifier:
    """Gives as logit the length of the input up to each end, as soon as its gate is open."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[int]]] = []
        self.gate = asyncio.Event()

    async def __call__(self, ids: list[int], ends: Sequence[int], cache_salt: str | None = None) -> Classified:
        self.asked.append((len(ids), list(ends)))
        await self.gate.wait()
        return Classified([(end / 100, 0.0) for end in ends])


def scorer_on(classify: SlowClassifier, max_tokens: int = 1024) -> DmScorer:
    return DmScorer("dm", classify, AutoTokenizer.from_pretrained(FOLDER), load_dm_head(FOLDER), max_tokens)


def lengths(max_tokens: int = 1024) -> list[int]:
    return [len(ids) for ids in inputs(max_tokens)]


def expected(length: int) -> Score:
    return load_dm_head(FOLDER).score((length / 100, 0.0), None)


def started(scorer: DmScorer) -> "list[asyncio.Task[Score]]":
    session = scorer.session(QUESTION)

    async def score(index: int, step: str) -> Score:
        return await session.score(Boundary(index, step, None))

    return [asyncio.create_task(score(index, step)) for index, step in enumerate(STEPS)]


async def test_boundaries_that_close_meanwhile_are_judged_together_afterwards() -> None:
    classify = SlowClassifier()
    tasks = started(scorer_on(classify))
    await asyncio.sleep(0.01)
    input_lengths = lengths()
    assert classify.asked == [(input_lengths[0], input_lengths[:1])]
    classify.gate.set()
    assert await asyncio.gather(*tasks) == [expected(length) for length in input_lengths]
    assert len(classify.asked) <= 2
    assert classify.asked[-1] == (input_lengths[-1], input_lengths[1:])


async def test_a_boundary_that_is_given_up_does_not_hold_the_others_up() -> None:
    classify = SlowClassifier()
    tasks = started(scorer_on(classify))
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    tasks[2].cancel()
    await asyncio.sleep(0.01)
    classify.gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    input_lengths = lengths()
    kept = [index for index in range(len(STEPS)) if index not in (0, 2)]
    assert [found[index] for index in kept] == [expected(input_lengths[index]) for index in kept]
    assert all(isinstance(found[index], asyncio.CancelledError) for index in (0, 2))


async def test_where_old_steps_are_dropped_each_boundary_is_judged_on_its_own_input() -> None:
    input_lengths = lengths(max_tokens=96)
    assert input_lengths != sorted(input_lengths), "the room is too small for all steps"
    classify = SlowClassifier()
    tasks = started(scorer_on(classify, max_tokens=96))
    classify.gate.set()
    assert await asyncio.gather(*tasks) == [expected(length) for length in input_lengths]
    assert all(ends == sorted(ends) and ends[-1] == length for length, ends in classify.asked)


async def test_the_death_of_the_classifier_is_told_once_and_it_is_not_asked_again() -> None:
    asked, told = 0, []

    async def dead(ids: list[int], ends: Sequence[int], cache_salt: str | None = None) -> Classified:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        raise ScorerUnavailableError("its engine is gone")

    scorer = DmScorer("dm", dead, AutoTokenizer.from_pretrained(FOLDER), load_dm_head(FOLDER), 1024, told.append)
    found = await asyncio.gather(scorer.logits([1], [1]), scorer.logits([2], [1]), return_exceptions=True)
    assert [type(error) for error in found] == [ScorerUnavailableError] * 2
    assert (scorer.dead, [str(error) for error in told]) == (True, ["its engine is gone"])
    with pytest.raises(ScorerUnavailableError):
        await scorer.logits([3], [1])
    assert asked == 2

"""The DM's turn-taking within an attempt, and one pass over several boundaries on a real engine."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence

import pytest
from transformers import AutoTokenizer

from drr.dm import load_dm_head
from drr.policy import Score
from drr.scorers import Boundary
from drr.scorers.dm import Classified, DmScorer

from .dm_logits import FOLDER, QUESTION, STEPS, inputs


class SlowClassifier:
    """Says how long the input is up to each end; answers when told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[int]]] = []
        self.gate = asyncio.Event()

    async def __call__(self, ids: list[int], ends: Sequence[int]) -> Classified:
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
    own = lengths()
    assert classify.asked == [(own[0], own[:1])]
    classify.gate.set()
    assert await asyncio.gather(*tasks) == [expected(length) for length in own]
    assert len(classify.asked) <= 2
    assert classify.asked[-1] == (own[-1], own[1:])


async def test_a_boundary_that_is_given_up_does_not_hold_the_others_up() -> None:
    classify = SlowClassifier()
    tasks = started(scorer_on(classify))
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    tasks[2].cancel()
    await asyncio.sleep(0.01)
    classify.gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    own = lengths()
    kept = [index for index in range(len(STEPS)) if index not in (0, 2)]
    assert [found[index] for index in kept] == [expected(own[index]) for index in kept]
    assert all(isinstance(found[index], asyncio.CancelledError) for index in (0, 2))


async def test_where_old_steps_are_dropped_each_boundary_is_judged_on_its_own_input() -> None:
    own = lengths(max_tokens=96)
    assert own != sorted(own), "the room is too small for all steps"
    classify = SlowClassifier()
    tasks = started(scorer_on(classify, max_tokens=96))
    classify.gate.set()
    assert await asyncio.gather(*tasks) == [expected(length) for length in own]
    assert all(ends == sorted(ends) and ends[-1] == length for length, ends in classify.asked)


def test_one_pass_gives_every_boundary_the_logits_that_it_has_alone() -> None:
    command = [sys.executable, "-m", "tests.dm_logits"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    for together, alone in zip(found["together"], found["alone"], strict=True):
        assert [pytest.approx(logits, abs=1e-4) for logits in alone] == together
        assert len({tuple(logits) for logits in alone}) == len(STEPS)
    block = 32  # of a CPU's cache, the larger one
    assert found["computed"] <= lengths()[-1] + block, "no token but the rest of a block is computed twice"

"""What a response says depends on token positions, and not on how long an engine or a judge takes."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drr.loop.allowance import Share
from drr.loop.policy import PolicySettings
from drr.loop.race import Race
from drr.loop.response import Fate, LoopSettings, Used
from drr.loop.rethink import RethinkSettings
from tests.fakes import Response, respond
from tests.loop.test_rethink import Bench, thinking

WORDS = ("a", "b", "\n\n", "c", "\n\n", "d", " ", "\n\n")


def drawn_script(rng: random.Random, name: str) -> list[str]:
    """Steps, a close (mostly) and an answer."""
    words = [name, *rng.choices(WORDS, k=rng.randint(1, 40))]
    return [*words, *(["</think>"] if rng.random() < 0.8 else []), *(f" {name}{place}" for place in range(9)), ""]


def run(rng: random.Random, scripts: Any, scores: Any, rethink: RethinkSettings, given: LoopSettings) -> Response:
    """A response of these attempts; `rng` draws how long everything takes."""
    bench = Bench(scripts, scores)

    async def made() -> Response:
        make = bench.reasoner

        def reasoner(number: int) -> Any:
            reasoner, probe = make(number)
            reasoner.group = rng.randint(1, 5)
            pauses = [rng.choice((0.0, 0.0, 0.0, 0.001)) for _ in range(100)]
            reasoner.pace = lambda: asyncio.ensure_future(asyncio.sleep(pauses.pop() if pauses else 0.0))
            return reasoner, probe

        bench.reasoner = reasoner  # type: ignore[method-assign]
        bench.delays = [rng.choice((0.0, 0.0, 0.002, 0.006)) for _ in range(9)]
        return await respond(bench.loop(rethink, given))

    return asyncio.run(made())


def said(response: Response) -> Any:
    outcome = response.outcome
    standing = [(own.fate, own.thinking_tokens) for own in outcome.attempts if own.fate is not Fate.ABANDONED]
    return response.text, response.ids, response.finish_reason, outcome.stop_cause, outcome.thinking_tokens, standing


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    parallel=st.integers(1, 4),
    kind=st.sampled_from(["best", "last", "abstain"]),
    max_tokens=st.sampled_from([120, 200, 400, 1000]),
    budget=st.none() | st.integers(1, 60),
    max_steps=st.none() | st.integers(1, 12),
    nudge=st.integers(0, 1),
    separate=st.booleans(),
)
@example(0, 3, "best", 1000, None, None, 0, False)
def test_time_changes_nothing(
    seed: int,
    parallel: int,
    kind: Any,
    max_tokens: int,
    budget: int | None,
    max_steps: int | None,
    nudge: int,
    separate: bool,
) -> None:
    rng = random.Random(seed)
    scripts = [drawn_script(rng, name) for name in "pqrs"]
    scores = [[rng.choice((0.05, 0.3, 0.4, 0.6, 0.95)) for _ in range(50)] for _ in scripts]
    policy = PolicySettings(threshold=0.9, accept=0.5, hopeless=0.1, max_steps=max_steps, nudge=nudge)
    given = LoopSettings(
        policy,
        max_tokens=max_tokens,
        answer_tokens=50,
        deadline=30.0,
        max_thinking_tokens=budget,
        nudge_cue="Wait,",
        nudge_cue_ids=(7,),
        separate_answer=separate,
    )
    rethink = RethinkSettings(max_rethinks=3, parallel=parallel, on_exhausted=kind)
    answers = [run(random.Random(f"{seed}/{time}"), scripts, scores, rethink, given) for time in range(3)]
    for response in answers:
        outcome = response.outcome
        assert outcome.generated_tokens <= max_tokens
        assert outcome.answer_tokens >= 0
        assert budget is None or parallel > 1 or sum(own.thinking_tokens for own in outcome.attempts) <= budget
        assert max_steps is None or parallel > 1 or len(outcome.steps) <= max_steps + outcome.nudges
    if max(own.outcome.discarded_tokens for own in answers) <= given.lookahead:
        assert said(answers[0]) == said(answers[1]) == said(answers[2])


@pytest.mark.parametrize("slow", [0, 1])
async def test_the_attempt_that_stands_after_the_fewest_tokens_wins_however_slow_its_judge(slow: int) -> None:
    short, long = thinking("a"), ("b", "b", "b", "\n\n", "b", "\n\n", "</think>", " answer b", "")
    delays = [0.05 if place == slow else 0.0 for place in range(2)]
    bench = Bench([long, short], [[0.95], [0.95]], delays)
    settings = LoopSettings(PolicySettings(threshold=0.9, accept=0.5), max_tokens=1000, answer_tokens=50, deadline=30.0)
    response = await respond(bench.loop(RethinkSettings(max_rethinks=1, parallel=2), settings))
    assert response.text == "a\n\n</think> forced a"
    assert [own.fate for own in response.outcome.attempts] == [Fate.ABANDONED, Fate.ACCEPTED]


async def test_what_nobody_judged_is_not_called_accepted() -> None:
    bench = Bench([thinking("a")], [[ValueError("broken")]])
    settings = LoopSettings(PolicySettings(threshold=0.9, accept=0.5), max_tokens=1000, answer_tokens=50, deadline=30.0)
    response = await respond(bench.loop(RethinkSettings(max_rethinks=1), settings))
    assert [own.fate for own in response.outcome.attempts] == [Fate.UNJUDGED]


def test_a_race_is_open_until_no_other_can_be_earlier() -> None:
    race = Race(3, Share(90, 30), lambda winner: None)
    assert [(share.generated, share.thought) for share in race.shares] == [(30, 10)] * 3
    race._standing[1] = 8
    for number, position in ((0, 8), (2, 7)):
        race.passed(number, position)
    assert race.winner is None, "attempt 0 may still stand at 8, and it began first"
    race.passed(0, 9)
    assert race.winner is None
    race.passed(2, 8)
    assert race.winner == 1
    assert race.used_beside(1) == {0: Used(8, 8, 8), 2: Used(8, 8, 8)}


async def test_room_is_shared_out_once_all_that_are_left_wait_for_it() -> None:
    race = Race(3, Share(90, None), lambda winner: None)
    first = asyncio.create_task(race.more(0, Used(30, 30, 30)))
    await asyncio.sleep(0)
    race.over(2, Used(10, 12, 10))
    await asyncio.sleep(0)
    assert not first.done()
    second = asyncio.create_task(race.more(1, Used(30, 30, 30)))
    await asyncio.wait([first, second])
    assert [share.generated for share in race.shares] == [39, 39, 30]

"""Attempts at one response, against scripted Reasoners and scores."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drr.loop.policy import PolicySettings, StopCause, Verdict
from drr.loop.probing import Probe
from drr.loop.reasoner import Phase, Token
from drr.loop.response import Fate, LoopSettings
from drr.loop.rethink import RethinkLoop, RethinkSettings
from drr.loop.steps import StepRule
from tests.fakes import CLOSE, FORM, OPEN, PROMPT, FakeReasoner, FakeScorer, Response, Vocabulary, respond

SETTINGS = LoopSettings(PolicySettings(threshold=0.9, accept=0.5), max_tokens=1000, answer_tokens=50, deadline=30.0)
VOCABULARY = Vocabulary()
CUE = (Token(902, "Again: ", injected=True),)
RETHINK = RethinkSettings(max_rethinks=3, separator="|2|", cue=CUE, refusal="I do not know.")


def thinking(name: str) -> tuple[str, ...]:
    return (name, "\n\n", name + "!", "\n\n", "</think>", f" answer {name}", "")


@dataclass
class Bench:
    """Attempt i thinks `scripts[i]` and is scored with `scores[i]`, boundary by boundary."""

    scripts: Sequence[Sequence[str]]
    scores: Sequence[Sequence[float | Exception | None]]
    delays: Sequence[float] = (0.0,) * 9
    at_once: bool = False
    id: str = "fake"
    reasoners: list[FakeReasoner] = field(default_factory=list)
    scorers: list[FakeScorer] = field(default_factory=list)

    def reasoner(self, number: int) -> tuple[FakeReasoner, None]:
        assert number == len(self.reasoners)
        name = self.scripts[number][0]
        answer = (f" forced {name}", "")
        made = FakeReasoner(self.scripts[number], answer, vocabulary=VOCABULARY, at_once=self.at_once)
        self.reasoners.append(made)
        return made, None

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> FakeScorer:
        number = len(self.scorers)
        self.scorers.append(FakeScorer(self.scores[number], delay=self.delays[number]))
        return self.scorers[-1]

    def loop(self, rethink: RethinkSettings = RETHINK, given: LoopSettings = SETTINGS) -> RethinkLoop:
        return RethinkLoop(self.reasoner, self, FORM, StepRule(), given, rethink, (PROMPT, OPEN), "question")

    @property
    def running(self) -> int:
        return sum(own.running for own in (*self.reasoners, *self.scorers))


def check_account(response: Response, bench: Bench) -> None:
    outcome = response.outcome
    assert outcome.generated_tokens == sum(own.generated for own in bench.reasoners)
    assert outcome.generated_tokens == sum(own.generated_tokens for own in outcome.attempts)
    assert outcome.thinking_tokens + outcome.discarded_tokens <= outcome.generated_tokens + outcome.injected_tokens
    assert outcome.steps == sorted(response.steps, key=lambda step: (step.attempt, step.index))
    assert outcome.discarded_tokens == sum(own.discarded_tokens for own in outcome.attempts)
    assert bench.running == 0


THREE = [thinking("a"), thinking("b"), thinking("c"), thinking("d")]


async def test_an_accepted_first_attempt_is_all_there_is() -> None:
    bench = Bench(THREE, [[0.6]])
    response = await respond(bench.loop())
    assert response.text == "a\n\na!\n\n</think> answer a"
    assert response.outcome.stop_cause is StopCause.NATURAL
    assert [own.fate for own in response.outcome.attempts] == [Fate.ACCEPTED]
    check_account(response, bench)


async def test_rejected_attempts_are_shown_apart_and_only_the_accepted_one_answers() -> None:
    bench = Bench(THREE, [[0.1, 0.2], [0.3, 0.4], [0.6, 0.95]])
    response = await respond(bench.loop())
    assert response.text == "a\n\na!\n\n|2|b\n\nb!\n\n|2|c\n\nc!\n\n</think> answer c"
    assert [own.fate for own in response.outcome.attempts] == [Fate.REJECTED, Fate.REJECTED, Fate.ACCEPTED]
    assert [step.attempt for step in response.steps] == [0, 0, 1, 1, 2, 2]
    assert [own.p_now for own in response.outcome.attempts] == [0.2, 0.4, 0.95]
    assert response.outcome.thinking_tokens == 4
    assert all(list(own.segments[0].ids) == [PROMPT, OPEN] for own in bench.reasoners)
    check_account(response, bench)


async def test_an_attempt_may_stop_early_and_still_be_the_one() -> None:
    bench = Bench(THREE, [[0.1, 0.2], [0.95]])
    response = await respond(bench.loop())
    assert response.text == "a\n\na!\n\n|2|b\n\n</think> forced b"
    assert response.outcome.stop_cause is StopCause.SURE


async def test_in_context_the_next_attempt_sees_the_rejected_one() -> None:
    bench = Bench(THREE, [[0.1], [0.2], [0.8]])
    response = await respond(bench.loop(replace(RETHINK, kind="in_context")))
    assert response.text == "a\n\na!\n\nAgain: b\n\nb!\n\nAgain: c\n\nc!\n\n</think> answer c"
    context = list(bench.reasoners[2].segments[0].ids)
    shown = [token.id for token in response.tokens]
    assert context == [PROMPT, OPEN, *shown[: len(context) - 2]]
    assert response.outcome.thinking_tokens == 12, "what the answer rests on"
    check_account(response, bench)


async def test_hopeless_attempts_end_before_their_end() -> None:
    bench = Bench(THREE, [[0.05], [0.6, 0.95]])
    given = replace(SETTINGS, policy=replace(SETTINGS.policy, hopeless=0.1))
    response = await respond(bench.loop(given=given))
    assert response.text == "a\n\n|2|b\n\nb!\n\n</think> answer b"
    assert response.steps[0].verdict is Verdict.RETHINK
    check_account(response, bench)


@pytest.mark.parametrize(
    ("on_exhausted", "said", "cause"),
    [
        ("best", "</think> forced b", StopCause.RETHINK_LIMIT),
        ("last", "</think> forced d", StopCause.RETHINK_LIMIT),
        ("abstain", "I do not know.", StopCause.ABSTAINED),
    ],
)
async def test_when_every_attempt_is_rejected(on_exhausted: str, said: str, cause: StopCause) -> None:
    bench = Bench(THREE, [[0.1], [0.4], [0.3], [0.2]])
    response = await respond(bench.loop(replace(RETHINK, on_exhausted=on_exhausted)))  # type: ignore[arg-type]
    assert response.text == "a\n\na!\n\n|2|b\n\nb!\n\n|2|c\n\nc!\n\n|2|d\n\nd!\n\n" + said
    assert response.outcome.stop_cause is cause
    assert response.finish_reason == "stop"
    assert response.outcome.thinking_tokens == (0 if on_exhausted == "abstain" else 4)
    chosen = {"best": 1, "last": 3}.get(on_exhausted)
    if chosen is not None:
        answer = bench.reasoners[chosen].segments[-1]
        assert VOCABULARY.text(answer.ids[2:-1]) == "".join(THREE[chosen][:4])
        assert answer.ids[-1] == CLOSE
    check_account(response, bench)


async def test_the_first_accepted_of_parallel_attempts_wins_and_the_others_end() -> None:
    bench = Bench(THREE, [[0.1], [0.95], [0.95], [0.1]], delays=(0.0, 0.02, 0.2, 0.0))
    response = await respond(bench.loop(replace(RETHINK, parallel=4)))
    assert response.text == "b\n\n</think> forced b"
    fates = [own.fate for own in response.outcome.attempts]
    assert fates[1] is Fate.ACCEPTED
    assert fates[2] is Fate.ABANDONED
    check_account(response, bench)


async def test_parallel_attempts_that_are_all_rejected_leave_the_best() -> None:
    bench = Bench(THREE, [[0.1], [0.2], [0.4], [0.3]])
    response = await respond(bench.loop(replace(RETHINK, parallel=2)))
    assert response.text == "c\n\nc!\n\n</think> forced c"
    assert len(response.outcome.attempts) == 4
    check_account(response, bench)


@pytest.mark.parametrize(
    ("change", "attempts"),
    [
        ({"max_thinking_tokens": 12}, 2),
        ({"max_tokens": 40, "answer_tokens": 25}, 2),
        ({"policy": replace(SETTINGS.policy, max_steps=3)}, 2),
        ({}, 4),
    ],
)
async def test_limits_hold_across_attempts(change: dict[str, object], attempts: int) -> None:
    bench = Bench(THREE, [[0.1]] * 4)
    given = replace(SETTINGS, **change)  # type: ignore[arg-type]
    response = await respond(bench.loop(given=given))
    assert len(response.outcome.attempts) == attempts
    assert response.outcome.generated_tokens <= given.max_tokens
    if given.policy.max_steps is not None:
        assert len(response.steps) <= given.policy.max_steps
    assert "forced" in response.text
    check_account(response, bench)


async def test_an_answer_begun_before_its_thinking_was_judged_leaves_room_for_another() -> None:
    long = ("a", "\n\n", "a!", "\n\n", "</think>", *("w",) * 20, "")
    tight = replace(SETTINGS, max_tokens=32, answer_tokens=16)
    bench = Bench([long], [[0.1]], delays=(0.05,))
    response = await respond(bench.loop(given=tight))
    assert response.text == "a\n\na!\n\n</think> forced a"
    assert response.outcome.stop_cause is StopCause.RETHINK_ROOM
    assert response.outcome.generated_tokens <= tight.max_tokens
    check_account(response, bench)


SHORT, ENDLESS = thinking("b"), ("a", *(f"{place} " for place in range(40)), "\n\n", "</think>", " answer a", "")
SHARED = replace(SETTINGS, max_tokens=120, answer_tokens=20)
TWO = replace(RETHINK, max_rethinks=1, parallel=2)


async def test_an_attempt_thinks_on_in_the_room_that_a_rejected_one_left() -> None:
    bench = Bench([(*ENDLESS[:30], *ENDLESS), SHORT], [[0.9], [0.1]])
    response = await respond(bench.loop(TWO, SHARED))
    assert response.outcome.stop_cause is StopCause.NATURAL
    assert response.text == "".join((*ENDLESS[:30], *ENDLESS))
    first, rest = bench.reasoners[0].segments
    assert (first.max_tokens, rest.max_tokens) == (50, 100 - 50 - 4 - SHARED.lookahead)
    assert [token.text for token in response.tokens] == [*ENDLESS[:30], *ENDLESS]
    check_account(response, bench)


def endless(name: str, *first: str) -> tuple[str, ...]:
    return (*first, *(f"{name}{place} " for place in range(300)))


@pytest.mark.parametrize(
    ("scripts", "scores", "delays"),
    [
        ([endless("a"), endless("b"), thinking("c")], [[0.9], [0.9], [0.1]], (0.0,) * 3),
        (
            [(*endless("a")[:33], "\n\n", "</think>", " answer a", ""), endless("b", "b", "\n\n"), thinking("c")],
            [[0.1], [0.6], [0.1]],
            (0.0, 0.1, 0.0),
        ),
    ],
)
async def test_what_an_attempt_left_is_shared_out_and_all_that_end_have_an_answer(
    scripts: list[tuple[str, ...]], scores: list[list[float]], delays: tuple[float, ...]
) -> None:
    bench = Bench(scripts, scores, delays)
    given = replace(SHARED, max_tokens=140, answer_tokens=50)
    response = await respond(bench.loop(replace(RETHINK, max_rethinks=2, parallel=3), given))
    assert [
        [segment.max_tokens for segment in own.segments if segment.phase is Phase.THINK] for own in bench.reasoners
    ] == [
        [30, 4],
        [30, 4],
        [30],
    ], "what is left is 90 - 30 - 30 - 4 - 17, the last of which may have been generated in vain"
    assert (response.outcome.stop_cause, response.finish_reason) == (StopCause.ANSWER_RESERVE, "stop")
    assert response.text.endswith(f"</think> forced {scripts[0 if scores[0] == [0.9] else 1][0]}")
    check_account(response, bench)


@pytest.mark.parametrize("late", [False, True])
async def test_a_doubted_close_that_cannot_be_nudged_is_rejected(late: bool) -> None:
    words = (*endless("a")[: 30 if late else 44], "\n\n", "</think>", *(f" answer{place}" for place in range(40)), "")
    bench = Bench([words], [[0.1]], at_once=late)
    cue = {"nudge_cue": "Wait,", "nudge_cue_ids": (7, 8, 9, 11, 12, 13, 14)}
    given = replace(SETTINGS, max_tokens=100, **cue, policy=replace(SETTINGS.policy, nudge=1))  # type: ignore[arg-type]
    response = await respond(bench.loop(replace(RETHINK, max_rethinks=0, on_exhausted="abstain"), given))
    assert response.outcome.stop_cause is StopCause.ABSTAINED
    assert [own.fate for own in response.outcome.attempts] == [Fate.REJECTED]
    assert response.outcome.nudges == 0
    check_account(response, bench)


@pytest.mark.parametrize("turns", range(1, 20))
async def test_a_client_that_goes_while_attempts_are_ended_leaves_nothing(turns: int) -> None:
    bench = Bench([SHORT, endless("a", "a", "\n\n")], [[0.6], [None]])
    task = asyncio.create_task(respond(bench.loop(TWO)))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert bench.running == 0


async def test_a_natural_answer_has_the_room_of_the_attempts_that_it_ended() -> None:
    long = (*SHORT[:5], *(f"w{place}" for place in range(200)))
    bench = Bench([long, ENDLESS], [[0.6], [0.1]])
    response = await respond(bench.loop(TWO, SHARED))
    winner, other = bench.reasoners
    assert response.text == "".join(long[: winner.generated])
    assert winner.generated == SHARED.max_tokens - 4 - SHARED.lookahead > 50
    assert other.generated <= 4 + SHARED.lookahead
    assert response.finish_reason == "length"
    check_account(response, bench)


async def test_an_answer_of_its_own_is_one_request_with_all_the_room() -> None:
    bench = Bench([SHORT, ENDLESS], [[0.6], [0.1]])
    response = await respond(bench.loop(TWO, replace(SHARED, separate_answer=True)))
    winner, other = bench.reasoners
    assert [segment.phase for segment in winner.segments] == [Phase.THINK, Phase.ANSWER]
    assert winner.segments[1].max_tokens == SHARED.max_tokens - 5 - 4 - 2 * SHARED.lookahead
    assert winner.generated + other.generated <= SHARED.max_tokens
    check_account(response, bench)


async def test_a_prompt_that_closes_the_thinking_has_one_answer() -> None:
    bench = Bench(THREE, [[0.1]] * 3)
    loop = RethinkLoop(bench.reasoner, bench, FORM, StepRule(), SHARED, TWO, (PROMPT, OPEN, CLOSE), "question")
    response = await respond(loop)
    assert (response.text, response.finish_reason) == (" forced a", "stop")
    assert len(bench.reasoners) == 1


@pytest.mark.parametrize(("max_tokens", "attempts"), [(40, 3), (34, 2), (20, 1)])
async def test_attempts_at_once_share_the_room_and_no_smaller_ones_begin(max_tokens: int, attempts: int) -> None:
    bench = Bench(THREE, [[0.1], [0.95], [0.1]], delays=(0.0, 0.01, 0.0))
    given = replace(SETTINGS, max_tokens=max_tokens, answer_tokens=16)
    response = await respond(bench.loop(replace(RETHINK, max_rethinks=2, parallel=3), given))
    first = [reasoner.segments[0].max_tokens for reasoner in bench.reasoners[:attempts]]
    assert sum(first) == given.thinking_room
    assert max(first) - min(first) <= 1
    assert sum(own.generated for own in bench.reasoners) <= max_tokens
    check_account(response, bench)


async def test_without_scores_nothing_is_rejected() -> None:
    bench = Bench(THREE, [[ValueError("dead")]])
    response = await respond(bench.loop())
    assert response.text == "a\n\na!\n\n</think> answer a"
    assert len(response.outcome.attempts) == 1


@pytest.mark.parametrize("parallel", [1, 3])
async def test_engine_errors_are_raised_and_nothing_is_left(parallel: int) -> None:
    bench = Bench(THREE, [[0.1], [0.1], [0.1]], delays=(0.01,) * 9)
    loop = bench.loop(replace(RETHINK, parallel=parallel))
    made = bench.reasoner

    def failing(number: int) -> tuple[FakeReasoner, None]:
        reasoner, _ = made(number)
        reasoner.fails_after = 3 if number == 1 else None
        return reasoner, None

    loop._make_reasoner = failing
    with pytest.raises(RuntimeError, match="engine died"):
        await respond(loop)
    await asyncio.sleep(0)
    assert bench.running == 0


@settings(max_examples=120, deadline=None)
@given(
    scores=st.lists(
        st.lists(st.sampled_from([0.1, 0.4, 0.6, 0.95, None, ValueError("x")]), min_size=1, max_size=3),
        min_size=4,
        max_size=4,
    ),
    delays=st.lists(st.sampled_from([0.0, 0.001, 0.003]), min_size=4, max_size=4),
    parallel=st.integers(1, 4),
    kind=st.sampled_from(["fresh", "in_context"]),
    on_exhausted=st.sampled_from(["best", "last", "abstain"]),
    budget=st.none() | st.integers(0, 30),
    hopeless=st.sampled_from([None, 0.2]),
    max_tokens=st.integers(1, 40) | st.just(1000),
    at_once=st.booleans(),
    separate=st.booleans(),
    stop_after=st.none() | st.integers(1, 12),
)
def test_nothing_is_lost_or_left_running_whatever_happens(
    scores: list[list[float | Exception | None]],
    delays: list[float],
    parallel: int,
    kind: str,
    on_exhausted: str,
    budget: int | None,
    hopeless: float | None,
    max_tokens: int,
    at_once: bool,
    separate: bool,
    stop_after: int | None,
) -> None:
    bench = Bench(THREE, scores, delays, at_once=at_once)
    given = replace(
        SETTINGS,
        max_tokens=max_tokens,
        answer_tokens=2,
        separate_answer=separate,
        max_thinking_tokens=budget,
        deadline=0.01,
        policy=replace(SETTINGS.policy, hopeless=hopeless),
    )
    rethink = replace(RETHINK, parallel=parallel, kind=kind, on_exhausted=on_exhausted)  # type: ignore[arg-type]

    async def leave_early() -> None:
        assert stop_after is not None
        async with contextlib.aclosing(bench.loop(rethink, given).run()) as run:
            for _ in range(stop_after):
                if await anext(run, None) is None:
                    return

    if stop_after is not None:
        asyncio.run(leave_early())
        assert bench.running == 0
        return
    response = asyncio.run(respond(bench.loop(rethink, given)))
    check_account(response, bench)
    assert 1 <= len(response.outcome.attempts) <= 4
    assert sum(own.generated for own in bench.reasoners) <= max_tokens
    closes = [token.id for token in response.tokens].count(CLOSE)
    assert closes == (response.outcome.stop_cause is not StopCause.ABSTAINED), "thinking is closed exactly once"
    if budget is not None:
        thought = sum(own.thinking_tokens for own in response.outcome.attempts)
        assert thought <= budget


async def test_an_attempt_that_was_cut_off_is_judged_before_it_answers() -> None:
    endless = ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l")
    bench = Bench([endless, thinking("b")], [[0.1], [0.2, 0.9]])
    given = replace(SETTINGS, max_thinking_tokens=None, context_limit=2 + 16, answer_tokens=6)
    response = await respond(bench.loop(given=given))
    assert response.text == "abcdefghi|2|b\n\nb!\n\n</think> answer b"
    assert [own.fate for own in response.outcome.attempts] == [Fate.REJECTED, Fate.ACCEPTED]
    assert response.steps[0].tokens == 9
    check_account(response, bench)


@given(
    limit=st.integers(4, 60),
    answer_tokens=st.integers(1, 20),
    kind=st.sampled_from(["fresh", "in_context"]),
    length=st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_no_request_is_longer_than_the_context(limit: int, answer_tokens: int, kind: Any, length: int) -> None:
    async def run() -> None:
        words = [f"w{place}" for place in range(length)]
        bench = Bench([[*words, "\n\n", "</think>", " answer", ""]] * 4, [[0.1, 0.1]] * 4)
        given = replace(SETTINGS, context_limit=limit, answer_tokens=answer_tokens)
        response = await respond(bench.loop(replace(RETHINK, kind=kind), given))
        for reasoner in bench.reasoners:
            for segment in reasoner.segments:
                assert len(segment.ids) < limit
                assert len(segment.ids) + segment.max_tokens <= limit
        check_account(response, bench)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("rethink", "scores"),
    [
        (RETHINK, [[0.4], [0.2], [0.1], [0.1]]),
        (replace(RETHINK, kind="in_context"), [[0.1], [0.4], [0.2], [0.1]]),
        (replace(RETHINK, parallel=3), [[0.9], [0.2], [0.1]]),
        (replace(RETHINK, parallel=3), [[0.4], [0.2], [0.1], [0.1]]),
    ],
)
async def test_the_answer_counts_as_such_while_it_is_given(
    rethink: RethinkSettings, scores: list[list[float | Exception | None]]
) -> None:
    loop = Bench(THREE, scores).loop(rethink)
    other_than_answer = list[int]()
    async for _ in loop.run():
        other_than_answer.append(loop.outcome.generated_tokens - loop.outcome.answer_tokens)
    assert other_than_answer == sorted(other_than_answer)
    assert loop.outcome.answer_tokens > 0


async def test_thinking_in_whose_context_the_answer_was_given_is_told_apart() -> None:
    loop = Bench(THREE, [[0.1], [0.2], [0.8]]).loop(replace(RETHINK, kind="in_context"))
    response = await respond(loop)
    earlier = [own.thinking_tokens for own in response.outcome.attempts[:2]]
    assert response.outcome.earlier_tokens == sum(earlier) > 0
    assert (await respond(Bench(THREE, [[0.1], [0.2], [0.8]]).loop())).outcome.earlier_tokens == 0


def saying(answer: str) -> tuple[str, ...]:
    return (f"So the answer is {answer}.", "\n\n", "</think>", f" answer {answer}", "")


VOTE = replace(RETHINK, on_exhausted="vote")


async def test_an_attempt_that_agrees_with_an_earlier_one_is_accepted_sooner() -> None:
    scripts, scores = [saying("3"), saying("5"), saying("3"), saying("9")], [[0.3], [0.2], [0.3], [0.4]]
    voted = await respond(Bench(scripts, scores).loop(VOTE))
    assert [own.fate for own in voted.outcome.attempts] == [Fate.REJECTED, Fate.REJECTED, Fate.ACCEPTED]
    assert voted.text.endswith(" answer 3"), "1 - 0.7 * 0.7 is as sure as 0.5"
    assert [own.p_now for own in voted.outcome.attempts] == [0.3, 0.2, 0.3], "what the judge said is told"
    alone = await respond(Bench(scripts, scores).loop())
    assert [own.fate for own in alone.outcome.attempts] == [Fate.REJECTED] * 3 + [Fate.ANSWERED]
    assert alone.text.endswith(" forced So the answer is 9."), "the best of four, with nobody's help"


async def test_where_all_are_rejected_the_most_believed_answer_is_given() -> None:
    given = replace(SETTINGS, policy=PolicySettings(threshold=0.95, accept=0.9))
    bench = Bench([saying("3"), saying("5"), saying("3"), saying("9")], [[0.3], [0.5], [0.4], [0.2]])
    response = await respond(bench.loop(VOTE, given))
    assert [own.fate for own in response.outcome.attempts][2] is Fate.ANSWERED
    assert response.outcome.stop_cause is StopCause.RETHINK_LIMIT
    check_account(response, bench)


async def test_attempts_at_once_vote_once_all_of_them_are_known() -> None:
    given = replace(SETTINGS, policy=PolicySettings(threshold=0.95, accept=0.9))
    bench = Bench([saying("3"), saying("5"), saying("3"), saying("9")], [[0.3], [0.5], [0.4], [0.2]], at_once=True)
    response = await respond(bench.loop(replace(VOTE, parallel=4), given))
    assert [own.fate for own in response.outcome.attempts].index(Fate.ANSWERED) == 2
    assert bench.running == 0

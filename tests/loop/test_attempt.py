"""The loop, against a scripted Reasoner and DM."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drr.loop.attempt import ThinkingLoop
from drr.loop.formats import MarkerTokens
from drr.loop.policy import PolicySettings, Score, StopCause, Verdict
from drr.loop.reasoner import Delta, Phase, Segment
from drr.loop.response import Emit, LoopSettings
from drr.loop.scoring import Boundary, ScorerUnavailableError
from drr.loop.steps import StepRule
from tests.fakes import CLOSE, END, FORM, OPEN, PROMPT, FakeReasoner, FakeScorer, Response, Vocabulary, respond

THOUGHT = ("a", "b", "\n\n", "c", "d", "\n\n", "e", "\n\n")
WHOLE = (*THOUGHT, "</think>", "The", " end", "")
SETTINGS = LoopSettings(PolicySettings(threshold=0.9), max_tokens=1000, answer_tokens=50, deadline=30.0)


def loop_of(
    reasoner: FakeReasoner,
    scorer: FakeScorer | None,
    given: LoopSettings = SETTINGS,
    prompt: Sequence[int] = (PROMPT, OPEN),
) -> ThinkingLoop:
    return ThinkingLoop(reasoner, scorer, FORM, StepRule(), given, prompt, "question")


def check_account(response: Response, reasoner: FakeReasoner) -> None:
    """Every token that was generated is accounted for, and nothing is left running."""
    outcome = response.outcome
    visible = sum(not token.injected for token in response.tokens)
    assert outcome.generated_tokens == visible + outcome.discarded_tokens
    assert outcome.injected_tokens == sum(token.injected for token in response.tokens)
    assert reasoner.running == 0


def policy(**changes: object) -> LoopSettings:
    return replace(SETTINGS, policy=replace(SETTINGS.policy, **changes))


async def test_natural_end_is_one_uninterrupted_request() -> None:
    reasoner = FakeReasoner(WHOLE)
    response = await respond(loop_of(reasoner, FakeScorer([0.1])))
    assert response.text == "ab\n\ncd\n\ne\n\n</think>The end"
    assert response.outcome.stop_cause is StopCause.NATURAL
    assert (response.outcome.thinking_tokens, response.outcome.discarded_tokens) == (8, 0)
    assert len(reasoner.segments) == 1
    assert [step.tokens for step in response.steps] == [3, 3, 2]
    assert response.finish_reason == "stop"
    check_account(response, reasoner)


async def test_stop_cuts_back_to_the_boundary_and_closes_with_the_exact_ids() -> None:
    reasoner = FakeReasoner(WHOLE)
    response = await respond(loop_of(reasoner, FakeScorer([0.1, 0.95])))
    assert response.text == "ab\n\ncd\n\n</think>The answer is 4"
    assert response.outcome.stop_cause is StopCause.SURE
    assert response.outcome.thinking_tokens == 6
    answer = reasoner.segments[-1]
    assert answer.phase is Phase.ANSWER
    assert answer.ids[:2] == [PROMPT, OPEN]
    assert answer.ids[2:] == response.ids[: len(answer.ids) - 2]
    assert answer.ids[-1] == CLOSE
    assert answer.carried == answer.ids[2:]
    assert [step.verdict for step in response.steps] == [Verdict.CONTINUE, Verdict.STOP]
    check_account(response, reasoner)


async def test_scores_out_of_order_are_decided_in_order() -> None:
    reasoner = FakeReasoner(WHOLE)
    scorer = FakeScorer([0.1, 0.95, 0.99], delay=[0.06, 0.03, 0.0])
    response = await respond(loop_of(reasoner, scorer))
    assert response.text == "ab\n\ncd\n\n</think>The answer is 4"
    check_account(response, reasoner)


async def test_stream_is_not_paused_while_scores_are_awaited() -> None:
    reasoner = FakeReasoner(WHOLE)
    scorer = FakeScorer([None])
    run = loop_of(reasoner, scorer).run()
    first = await anext(run)
    assert isinstance(first, Emit)
    for _ in range(200):
        await asyncio.sleep(0)
    assert reasoner.generated == len(WHOLE), "the engine went on while the first score was out"
    await run.aclose()


async def test_nothing_behind_an_undecided_boundary_is_shown() -> None:
    reasoner = FakeReasoner(WHOLE)
    shown = ""

    async def watch() -> None:
        nonlocal shown
        async with contextlib.aclosing(loop_of(reasoner, FakeScorer([None])).run()) as run:
            async for event in run:
                shown += event.text if isinstance(event, Emit) else ""

    task = asyncio.create_task(watch())
    for _ in range(200):
        await asyncio.sleep(0)
    assert reasoner.generated == len(WHOLE)
    assert shown == "ab\n\n"
    task.cancel()
    await asyncio.wait([task])
    assert reasoner.running == 0


@pytest.mark.parametrize("acts", [True, False])
async def test_late_scores_fail_open_and_are_counted(acts: bool) -> None:
    reasoner = FakeReasoner(WHOLE)
    given = replace(policy(acts=acts), deadline=0.02)
    response = await respond(loop_of(reasoner, FakeScorer([None]), given))
    assert response.text == "".join(WHOLE)
    assert response.outcome.late == 3
    assert all(step.late and step.p_now is None for step in response.steps)
    assert response.outcome.stop_cause is StopCause.NATURAL
    check_account(response, reasoner)


async def test_dead_scorer_fails_open_and_says_so() -> None:
    reasoner = FakeReasoner(WHOLE)
    scorer = FakeScorer([0.1, ScorerUnavailableError("dead")])
    response = await respond(loop_of(reasoner, scorer))
    assert response.text == "".join(WHOLE)
    assert response.outcome.stop_cause is StopCause.JUDGE_UNAVAILABLE
    check_account(response, reasoner)


async def test_a_failed_score_is_no_reason_to_stop_scoring() -> None:
    reasoner = FakeReasoner(WHOLE)
    response = await respond(loop_of(reasoner, FakeScorer([ValueError("once"), 0.95])))
    assert response.outcome.stop_cause is StopCause.SURE
    assert response.outcome.failed == 1
    check_account(response, reasoner)


@pytest.mark.parametrize("score", [math.nan, math.inf])
async def test_a_score_that_is_no_number_has_failed(score: float) -> None:
    reasoner = FakeReasoner(WHOLE)
    response = await respond(loop_of(reasoner, FakeScorer([score, 0.95])))
    assert response.outcome.stop_cause is StopCause.SURE
    assert response.outcome.failed == 1
    assert response.steps[0].p_now is None


async def test_shadow_scores_and_never_acts() -> None:
    reasoner = FakeReasoner(WHOLE)
    response = await respond(loop_of(reasoner, FakeScorer([0.99]), policy(acts=False)))
    assert response.text == "".join(WHOLE)
    assert [step.verdict for step in response.steps] == [Verdict.STOP, Verdict.STOP, Verdict.CONTINUE]
    assert response.outcome.stop_cause is StopCause.NATURAL


async def test_boundaries_too_close_to_the_last_judged_one_are_passed_over() -> None:
    reasoner, scorer = FakeReasoner(WHOLE), FakeScorer([0.1, 0.2])
    response = await respond(loop_of(reasoner, scorer, replace(SETTINGS, min_step_tokens=6)))
    assert response.text == "".join(WHOLE)
    assert [step.tokens for step in response.steps] == [6, 2]
    assert [(seen.index, seen.text, seen.steps) for seen in scorer.seen] == [
        (0, "ab\n\ncd\n\n", ("ab\n\n", "cd\n\n")),
        (1, "e\n\n", ("e\n\n",)),
    ]
    assert [len(seen.logprobs) for seen in scorer.seen] == [6, 2]
    assert [len(seen.context()) for seen in scorer.seen] == [2 + 6, 2 + 8]
    check_account(response, reasoner)


async def test_a_close_is_judged_however_little_was_thought() -> None:
    scorer = FakeScorer([0.1])
    given = replace(policy(nudge=1), nudge_cue="Wait,", nudge_cue_ids=(7, 8), min_step_tokens=100)
    response = await respond(loop_of(FakeReasoner(WHOLE), scorer, given))
    assert response.outcome.nudges == 1
    assert [seen.steps for seen in scorer.seen] == [("ab\n\n", "cd\n\n", "e\n\n"), ("Wait,more\n\n",)]


async def test_behaviour_at_a_boundary_is_the_same_whether_or_not_others_were_passed_over() -> None:
    every, few = FakeScorer([0.1]), FakeScorer([0.1])
    await respond(loop_of(FakeReasoner(WHOLE), every))
    await respond(loop_of(FakeReasoner(WHOLE), few, replace(SETTINGS, min_step_tokens=6)))
    assert few.seen[0].features == every.seen[1].features
    assert few.seen[0].features is not None


@pytest.mark.parametrize(("thinking", "reason"), [(THOUGHT, "length"), ((*THOUGHT, ""), "stop")])
async def test_shadow_leaves_thinking_that_the_engine_ends_as_it_is(thinking: Sequence[str], reason: str) -> None:
    reasoner = FakeReasoner(thinking)
    given = replace(policy(acts=False), max_tokens=len(thinking), answer_tokens=0, context_limit=len(thinking) + 2)
    response = await respond(loop_of(reasoner, FakeScorer([0.99]), given))
    assert response.text == "".join(THOUGHT)
    assert response.finish_reason == reason
    assert len(reasoner.segments) == 1
    assert (response.outcome.injected_tokens, response.outcome.discarded_tokens) == (0, 0)
    check_account(response, reasoner)


async def test_stop_at_the_last_boundary_keeps_a_natural_close() -> None:
    reasoner = FakeReasoner(WHOLE)
    scorer = FakeScorer([0.1, 0.1, 0.99], delay=0.02)
    response = await respond(loop_of(reasoner, scorer))
    assert response.outcome.stop_cause is StopCause.NATURAL
    assert response.outcome.discarded_tokens == 0
    assert len(reasoner.segments) == 1


async def test_nudge_refuses_an_early_close_once() -> None:
    reasoner = FakeReasoner(WHOLE)
    given = replace(policy(nudge=1), nudge_cue="Wait,", nudge_cue_ids=(7, 8))
    response = await respond(loop_of(reasoner, FakeScorer([0.1]), given))
    assert response.text == "".join(THOUGHT) + "Wait,more\n\n</think>again"
    assert response.outcome.nudges == 1
    assert response.outcome.injected_tokens == 2
    assert reasoner.segments[1].phase is Phase.THINK
    assert list(reasoner.segments[1].ids[-2:]) == [7, 8]
    check_account(response, reasoner)


async def test_a_nudge_whose_room_was_used_up_meanwhile_is_an_answer() -> None:
    judged = asyncio.get_running_loop().create_future()
    nothing = asyncio.get_running_loop().create_future()
    nothing.set_result(None)

    class LastMinute(FakeScorer):
        async def score(self, boundary: Boundary) -> Score:
            if boundary.index == 0:
                asyncio.get_running_loop().call_soon(judged.set_result, None)
            return Score(0.1, 0.1)

    def pace() -> "asyncio.Future[None]":
        return judged if reasoner.generated == len(THOUGHT) + 1 else nothing

    reasoner = FakeReasoner(LONG, pace=pace)
    given = replace(TIGHT, max_tokens=23, answer_tokens=10, nudge_cue="Wait,", nudge_cue_ids=(7, 8))
    given = replace(given, policy=replace(given.policy, nudge=1))
    response = await respond(loop_of(reasoner, LastMinute([]), given))
    assert reasoner.segments[0].max_tokens == 13
    assert response.text == "".join(THOUGHT) + "</think>The answer is 4"
    assert (response.outcome.stop_cause, response.outcome.nudges) == (StopCause.ANSWER_RESERVE, 0)
    assert response.outcome.discarded_tokens == 1 + 4, "the close, and the answer behind it"
    check_account(response, reasoner)


async def test_a_close_at_a_boundary_that_would_have_stopped_is_not_refused() -> None:
    given = replace(policy(nudge=1, hopeless=0.2), nudge_cue="Wait,", nudge_cue_ids=(7,))
    response = await respond(loop_of(FakeReasoner(("a", "\n\n", *WHOLE[-4:]), at_once=True), FakeScorer([0.1]), given))
    assert response.text == "a\n\n</think>The end"
    assert (response.outcome.stop_cause, response.outcome.nudges) == (StopCause.NATURAL, 0)


@pytest.mark.parametrize("delay", [0.0, 0.05])
async def test_an_answer_begun_meanwhile_takes_no_room_from_a_nudge(delay: float) -> None:
    reasoner = FakeReasoner((*LONG[:-1], *("w",) * 30, ""), at_once=delay > 0)
    limits = replace(policy(nudge=1), nudge_cue="Wait,", nudge_cue_ids=(7,), context_limit=45, answer_tokens=10)
    response = await respond(loop_of(reasoner, FakeScorer([0.1], delay=delay), limits))
    assert response.outcome.nudges == 1


@pytest.mark.parametrize("nudge", [0, 1])
async def test_white_space_behind_the_last_step_is_kept_where_its_judging_was_put_off(nudge: int) -> None:
    reasoner = FakeReasoner(("a", "\n\n", " ", "</think>", "The", " end", ""))
    limits = replace(policy(nudge=nudge), nudge_cue="Wait,", nudge_cue_ids=(7,), min_step_tokens=3)
    response = await respond(loop_of(reasoner, FakeScorer([0.1]), limits))
    nudged = "a\n\n Wait,more\n\n</think>again"
    assert response.text == (nudged if nudge else "a\n\n </think>The end")
    assert [list(segment.carried) for segment in reasoner.segments[1:]] == [response.ids[:4]] * nudge
    check_account(response, reasoner)


async def test_what_may_become_a_close_of_several_tokens_is_not_shown_before() -> None:
    words = Vocabulary()
    close = tuple(words.token(word).id for word in ("<", "/", "think>"))
    form = MarkerTokens(open_ids=(OPEN,), close_ids=close, close_text="</think>")
    thinking = ("a", "<", "b", "\n\n", *"cdefghijkl", "<", "/", "think>", "The", " end", "")
    reasoner = FakeReasoner(thinking, rethought=("c", "<", "/", "x", "<", "/", "think>", "again", ""), vocabulary=words)
    given = replace(policy(nudge=1), nudge_cue="Wait,", nudge_cue_ids=(7,))
    loop = ThinkingLoop(reasoner, FakeScorer([0.1]), form, StepRule(), given, (PROMPT, OPEN), "question")
    response = await respond(loop)
    assert response.text == "a<b\n\ncdefghijklWait,c</x</think>again"
    assert list(reasoner.segments[1].carried) == response.ids[:15]
    check_account(response, reasoner)


@pytest.mark.parametrize("turns", range(1, 30))
async def test_who_goes_while_a_request_is_being_ended_waits_for_its_end(turns: int) -> None:
    class SlowToEnd(FakeReasoner):
        async def stream(self, segment: Segment) -> AsyncGenerator[Delta, None]:
            try:
                async for delta in super().stream(segment):
                    yield delta
            finally:
                self.running += 1
                try:
                    for _ in range(4):
                        await asyncio.sleep(0)
                finally:
                    self.running -= 1

    reasoner = SlowToEnd(THOUGHT * 5)

    async def consume() -> None:
        async with contextlib.aclosing(loop_of(reasoner, FakeScorer([0.95])).run()) as run:
            async for _ in run:
                pass

    task = asyncio.create_task(consume())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert reasoner.running == 0


async def test_what_cannot_be_nudged_goes_its_way() -> None:
    given = replace(TIGHT, nudge_cue="Wait,", nudge_cue_ids=(7,) * 9, policy=replace(SETTINGS.policy, nudge=1))
    response = await respond(loop_of(FakeReasoner(LONG), FakeScorer([0.1]), given))
    assert response.text == "".join(LONG)
    assert (response.outcome.stop_cause, response.outcome.nudges) == (StopCause.NATURAL, 0)


async def test_no_nudge_when_the_close_is_believed() -> None:
    reasoner = FakeReasoner(WHOLE)
    response = await respond(loop_of(reasoner, FakeScorer([0.8]), policy(nudge=3)))
    assert response.outcome.nudges == 0
    assert len(reasoner.segments) == 1


async def test_budget_is_hard_and_an_answer_follows() -> None:
    reasoner = FakeReasoner(WHOLE)
    response = await respond(loop_of(reasoner, FakeScorer([0.1]), replace(SETTINGS, max_thinking_tokens=4)))
    assert response.text == "ab\n\nc</think>The answer is 4"
    assert response.outcome.stop_cause is StopCause.MAX_THINKING_TOKENS
    assert response.outcome.thinking_tokens == 4
    check_account(response, reasoner)


async def test_step_longer_than_the_budget() -> None:
    reasoner = FakeReasoner(("x",) * 50)
    response = await respond(loop_of(reasoner, FakeScorer([0.99]), replace(SETTINGS, max_thinking_tokens=10)))
    assert response.text == "x" * 10 + "</think>The answer is 4"
    assert response.steps == []


async def test_what_a_budget_cut_off_is_judged_and_kept_where_a_judge_only_looks_on() -> None:
    reasoner = FakeReasoner(("x",) * 50)
    given = replace(policy(threshold=None, acts=False, accept=0.0), max_thinking_tokens=10)
    response = await respond(loop_of(reasoner, FakeScorer([0.2]), given))
    assert response.text == "x" * 10 + "</think>The answer is 4"
    assert [(step.tokens, step.p_now) for step in response.steps] == [(10, 0.2)]
    assert response.outcome.stop_cause is StopCause.MAX_THINKING_TOKENS


async def test_close_exactly_at_the_budget_is_natural() -> None:
    reasoner = FakeReasoner(WHOLE)
    response = await respond(loop_of(reasoner, None, replace(SETTINGS, max_thinking_tokens=len(THOUGHT))))
    assert response.outcome.stop_cause is StopCause.NATURAL
    assert response.outcome.discarded_tokens == 0


async def test_zero_budget_asks_for_the_answer_at_once() -> None:
    reasoner = FakeReasoner(WHOLE)
    response = await respond(loop_of(reasoner, None, replace(SETTINGS, max_thinking_tokens=0)))
    assert response.text == "</think>The answer is 4"
    assert [segment.phase for segment in reasoner.segments] == [Phase.ANSWER]
    unopened = await respond(
        loop_of(FakeReasoner(WHOLE), None, replace(SETTINGS, max_thinking_tokens=0), prompt=(PROMPT,))
    )
    assert unopened.ids[:2] == [OPEN, CLOSE]


async def test_thinking_that_never_closes_still_gets_an_answer() -> None:
    reasoner = FakeReasoner((*THOUGHT, ""))
    response = await respond(loop_of(reasoner, FakeScorer([0.1])))
    assert response.text == "".join(THOUGHT) + "</think>The answer is 4"
    assert END not in response.ids[: len(THOUGHT) + 1]
    check_account(response, reasoner)


async def test_endless_thinking_leaves_the_answer_its_reserve() -> None:
    reasoner = FakeReasoner(("x",) * 1000)
    response = await respond(loop_of(reasoner, None, replace(SETTINGS, max_tokens=60, answer_tokens=50)))
    assert response.outcome.thinking_tokens == 30, "half, where max_tokens is smaller than twice the reserve"
    assert [segment.max_tokens for segment in reasoner.segments] == [30, 30]
    assert response.outcome.discarded_tokens == 0, "the engine was not allowed any more"
    roomy = await respond(loop_of(FakeReasoner(("x",) * 1000), None, replace(SETTINGS, max_tokens=200)))
    assert roomy.outcome.thinking_tokens == 150


async def test_max_tokens_of_one_is_an_answer_of_one_token() -> None:
    reasoner = FakeReasoner(WHOLE)
    response = await respond(loop_of(reasoner, FakeScorer([0.5]), replace(SETTINGS, max_tokens=1)))
    assert response.text == "</think>The answer"
    assert response.finish_reason == "length"
    assert response.outcome.generated_tokens == 1


LONG = (*THOUGHT, "</think>", *(f"w{place}" for place in range(20)), "")
TIGHT = replace(SETTINGS, max_tokens=32, answer_tokens=16)


@pytest.mark.parametrize("delay", [0.0, 0.05])
async def test_a_slow_judge_stops_where_a_fast_one_does(delay: float) -> None:
    reasoner = FakeReasoner(LONG, at_once=delay > 0)
    response = await respond(loop_of(reasoner, FakeScorer([0.95, 0.1], delay=delay), TIGHT))
    assert response.text == "ab\n\n</think>The answer is 4"
    assert response.outcome.stop_cause is StopCause.SURE
    assert response.outcome.generated_tokens <= TIGHT.max_tokens


@pytest.mark.parametrize("max_tokens", [32, 31, 26, 22])
async def test_a_natural_answer_goes_on_into_its_reserve(max_tokens: int) -> None:
    reasoner = FakeReasoner(LONG)
    response = await respond(loop_of(reasoner, FakeScorer([0.1]), replace(TIGHT, max_tokens=max_tokens)))
    assert response.ids == [reasoner.vocabulary.token(word).id for word in LONG[:max_tokens]]
    assert response.text == "".join(LONG[:max_tokens])
    assert response.finish_reason == ("stop" if max_tokens >= len(LONG) else "length")
    thinking, answer = reasoner.segments
    assert (thinking.phase, answer.phase) == (Phase.THINK, Phase.THINK), "both are decoded token by token"
    assert thinking.max_tokens + answer.max_tokens == max_tokens
    assert response.outcome.stop_cause is StopCause.NATURAL
    check_account(response, reasoner)


@pytest.mark.parametrize(("context_limit", "count"), [(None, 31), (20, 19)])
async def test_an_output_without_thinking_goes_on_into_its_reserve(context_limit: int | None, count: int) -> None:
    reasoner = FakeReasoner(("Just", *(f" w{place}" for place in range(30))))
    limits = replace(TIGHT, context_limit=context_limit)
    response = await respond(loop_of(reasoner, FakeScorer([0.1]), limits, prompt=(PROMPT,)))
    assert response.text == "".join(reasoner.thinking[:count])
    assert response.finish_reason == "length"
    assert len(reasoner.segments) == 2
    check_account(response, reasoner)


async def test_thinking_that_closes_with_the_last_token_has_no_answer_in_shadow() -> None:
    reasoner = FakeReasoner(WHOLE)
    given = replace(policy(acts=False), max_tokens=len(THOUGHT) + 1, answer_tokens=0, separate_answer=True)
    response = await respond(loop_of(reasoner, FakeScorer([0.1]), given))
    assert response.text == "".join(THOUGHT) + "</think>"
    assert response.finish_reason == "length"
    assert response.outcome.generated_tokens == given.max_tokens


async def test_answer_without_thinking() -> None:
    reasoner = FakeReasoner(("Just", " this", ""))
    response = await respond(loop_of(reasoner, FakeScorer([0.99]), prompt=(PROMPT,)))
    assert response.text == "Just this"
    assert response.outcome.thinking_tokens == 0
    assert response.steps == []


async def test_thinking_switched_off_in_the_prompt() -> None:
    reasoner = FakeReasoner(WHOLE)
    response = await respond(loop_of(reasoner, FakeScorer([0.99]), prompt=(PROMPT, OPEN, CLOSE)))
    assert [segment.phase for segment in reasoner.segments] == [Phase.ANSWER]
    assert response.text == "The answer is 4"


async def test_thinking_opened_by_the_reasoner_itself() -> None:
    reasoner = FakeReasoner(("<think>", *WHOLE))
    response = await respond(loop_of(reasoner, FakeScorer([0.1, 0.95]), prompt=(PROMPT,)))
    assert response.text == "<think>ab\n\ncd\n\n</think>The answer is 4"
    assert response.outcome.thinking_tokens == 6


async def test_separate_answer_gets_its_own_request_after_a_natural_close() -> None:
    reasoner = FakeReasoner(WHOLE)
    response = await respond(loop_of(reasoner, FakeScorer([0.1]), replace(SETTINGS, separate_answer=True)))
    assert response.text == "".join(THOUGHT) + "</think>The answer is 4"
    assert [segment.phase for segment in reasoner.segments] == [Phase.THINK, Phase.ANSWER]
    unthought = FakeReasoner(("Just", " this", ""))
    await respond(loop_of(unthought, None, replace(SETTINGS, separate_answer=True), prompt=(PROMPT,)))
    assert [segment.phase for segment in unthought.segments] == [Phase.THINK, Phase.ANSWER]


async def test_max_steps_needs_no_scorer() -> None:
    reasoner = FakeReasoner(WHOLE)
    response = await respond(loop_of(reasoner, None, policy(max_steps=2)))
    assert response.outcome.stop_cause is StopCause.MAX_STEPS
    assert response.outcome.thinking_tokens == 6


async def test_engine_errors_are_raised_and_nothing_is_left() -> None:
    reasoner = FakeReasoner(WHOLE, fails_after=4)
    scorer = FakeScorer([None])
    with pytest.raises(RuntimeError, match="engine died"):
        await respond(loop_of(reasoner, scorer))
    await asyncio.sleep(0)
    assert (reasoner.running, scorer.running) == (0, 0)


async def test_a_stream_without_a_finish_reason_is_an_error() -> None:
    reasoner = FakeReasoner(())
    with pytest.raises(RuntimeError, match="without a finish reason"):
        await respond(loop_of(reasoner, None))


@pytest.mark.parametrize("after", range(12))
async def test_cancellation_anywhere_frees_everything(after: int) -> None:
    reasoner = FakeReasoner(WHOLE)
    scorer = FakeScorer([0.1, 0.1, 0.95], delay=0.002)
    count = 0

    async def consume() -> None:
        nonlocal count
        async with contextlib.aclosing(loop_of(reasoner, scorer, policy(nudge=1)).run()) as run:
            async for _ in run:
                count += 1
                if count == after:
                    raise asyncio.CancelledError

    task = asyncio.create_task(consume())
    if after == 0:
        await asyncio.sleep(0)
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.01)
    assert (reasoner.running, scorer.running) == (0, 0)


WORDS = st.lists(st.sampled_from(["a", "b", " ", "\n\n", ".\n\n", "\n", "c"]), max_size=24)


@settings(max_examples=150, deadline=None)
@given(
    words=WORDS,
    group=st.integers(1, 7),
    scores=st.lists(st.sampled_from([0.1, 0.6, 0.95, None, ValueError("x")]), min_size=1, max_size=6),
    delays=st.lists(st.sampled_from([0.0, 0.0, 0.001, 0.003]), min_size=30, max_size=30),
    closes=st.booleans(),
    nudge=st.integers(0, 2),
    budget=st.none() | st.integers(0, 20),
    patience=st.integers(1, 3),
    max_tokens=st.integers(1, 30) | st.just(1000),
    answer_tokens=st.integers(1, 12),
    at_once=st.booleans(),
    separate=st.booleans(),
)
@example(["a"] * 24, 1, [0.1], [0.0] * 30, True, 0, None, 1, 20, 1, True, False)
def test_client_sees_exactly_what_the_context_holds(
    words: list[str],
    group: int,
    scores: list[float | Exception | None],
    delays: list[float],
    closes: bool,
    nudge: int,
    budget: int | None,
    patience: int,
    max_tokens: int,
    answer_tokens: int,
    at_once: bool,
    separate: bool,
) -> None:
    """The hold-back rule: what was shown before the last request is what that request's context holds. No limit is
    overrun, however fast the engine is and however slow the loop."""
    reasoner = FakeReasoner(
        (*words, *(("</think>", "The", " end") if closes else ()), ""), group=group, at_once=at_once
    )
    given = replace(
        policy(nudge=nudge, patience=patience),
        max_thinking_tokens=budget,
        nudge_cue="Wait,",
        nudge_cue_ids=(7,),
        deadline=0.01,
        max_tokens=max_tokens,
        answer_tokens=answer_tokens,
        separate_answer=separate,
    )
    response = asyncio.run(respond(loop_of(reasoner, FakeScorer(scores, delays), given)))
    check_account(response, reasoner)
    assert reasoner.generated <= max_tokens
    assert response.outcome.generated_tokens <= max_tokens
    for segment in reasoner.segments:
        shown = response.ids[: len(segment.carried)]
        assert shown == list(segment.carried)
        assert list(segment.ids) == [PROMPT, OPEN, *shown]
    assert response.ids.count(CLOSE) == 1, "thinking is closed exactly once"
    thinking = response.tokens[: response.ids.index(CLOSE)]
    assert response.outcome.thinking_tokens == sum(not token.injected for token in thinking)
    if budget is not None:
        assert response.outcome.thinking_tokens <= max(budget, 0) + response.outcome.injected_tokens

"""The loop with a judge whose scores come with the Reasoner's own tokens, against a scripted Reasoner and head."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drr.loop.attempt import ThinkingLoop
from drr.loop.formats import Part, PlainChain, ReasoningFormat, TextMarkers
from drr.loop.judging import Judge, PendingBoundary
from drr.loop.policy import PolicySettings, Score, StopCause, Verdict
from drr.loop.probing import Probe
from drr.loop.reasoner import Segment
from drr.loop.response import Emit, LoopSettings, StepReport
from drr.loop.rethink import RethinkLoop, RethinkSettings
from drr.loop.scoring import Boundary
from drr.loop.steps import StepRule
from tests.fakes import CLOSE, FORM, OPEN, PROMPT, FakeHead, FakeHeadSession, FakeProbe, FakeReasoner, told
from tests.loop.shown import Shown, shown

WHOLE = ("a", "b", "\n\n", "c", "d", "\n\n", "e", "\n\n", "</think>", "The", " end", "")
SETTINGS = LoopSettings(PolicySettings(threshold=0.9), max_tokens=1000, answer_tokens=50, deadline=0.0)
"""A deadline that no score keeps which has to be waited for."""
PATIENT = replace(SETTINGS, deadline=30.0)
RULES = ("blank_line", "marker", "tokens:1", "tokens:3", "sentence", "line", "attempt")
CUE = "\n\nThe answer is"
PLAIN = PlainChain(close_ids=(8, 9), close_text=CUE)
TEXT = TextMarkers(
    open_text="<think>",
    open_ids=(6,),
    close_ids=(7, 8),
    close_text="</think>",
    skip_ids=(6, 7, 8),
    decode=lambda ids: "",
)


@dataclass
class Played:
    """A response, and those who made it."""

    found: Shown
    reasoner: FakeReasoner
    head: FakeHead
    probe: FakeProbe


async def play(
    words: Sequence[str],
    scores: Sequence[float] = (0.1,),
    settings: LoopSettings = SETTINGS,
    *,
    group: int = 1,
    form: ReasoningFormat = FORM,
    prompt: Sequence[int] = (PROMPT, OPEN),
    rule: str = "blank_line",
    probe: FakeProbe | None = None,
    rethought: Sequence[str] = ("more", "\n\n", "</think>", "again", ""),
    tells: bool = True,
) -> Played:
    """Run a response to its end, and check its account: every token in one count, nothing left running."""
    reasoner = FakeReasoner(words, rethought=rethought, group=group, at_once=group > 1, tells=tells)
    head, probe = FakeHead(scores), probe or FakeProbe(form)
    loop = ThinkingLoop(reasoner, head, form, StepRule.parse(rule), settings, prompt, "question", probe=probe)
    found = await asyncio.wait_for(shown(loop, may_be_rejected=True), 20)
    outcome = found.outcome
    if found.finish is not None:
        assert outcome.generated_tokens == found.generated + outcome.discarded_tokens
    assert outcome.generated_tokens == outcome.thinking_tokens + outcome.answer_tokens + outcome.discarded_tokens
    assert outcome.probe_tokens == probe.tokens
    assert (reasoner.running, probe.running) == (0, 0)
    assert [boundary.index for boundary in head.seen] == sorted(boundary.index for boundary in head.seen)
    return Played(found, reasoner, head, probe)


# With the next token ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [1, 3, 8])
async def test_scores_come_with_the_tokens_and_are_never_late(group: int) -> None:
    played = await play(WHOLE, [0.1], group=group)
    found = played.found
    assert found.text() == "ab\n\ncd\n\ne\n\n</think>The end"
    assert [(step.tokens, step.p_now, step.late) for step in found.steps] == [
        (3, 0.1, False),
        (3, 0.1, False),
        (2, 0.1, False),
    ]
    assert all(step.ms is not None for step in found.steps)
    assert (found.outcome.late, found.outcome.failed) == (0, 0)
    assert (len(played.reasoner.segments), played.probe.asked) == (1, []), "nobody was asked"
    assert played.head.at_once == 3


@pytest.mark.parametrize("group", [1, 3, 8])
async def test_a_stop_cuts_back_to_the_boundary(group: int) -> None:
    played = await play(WHOLE, [0.1, 0.95], group=group)
    assert played.found.text() == "ab\n\ncd\n\n</think>The answer is 4"
    assert played.found.outcome.stop_cause is StopCause.SURE
    assert played.reasoner.segments[-1].ids[-1] == CLOSE
    assert played.probe.asked == []


@pytest.mark.parametrize("score", [0.1, 0.95])
async def test_a_boundary_waits_for_one_token_and_no_longer(score: float) -> None:
    for ready in range(1, len(WHOLE)):
        reasoner = FakeReasoner(WHOLE[:ready], tells=True)
        stuck = _NeverEnding(reasoner)
        loop = ThinkingLoop(stuck, FakeHead([score]), FORM, StepRule(), SETTINGS, (PROMPT, OPEN), "question")
        events: list[Emit | StepReport] = []

        async def watch(loop: ThinkingLoop = loop, events: list[Emit | StepReport] = events) -> None:
            async with contextlib.aclosing(loop.run()) as run:
                async for event in run:
                    events.extend([event] if isinstance(event, Emit | StepReport) else [])

        task = asyncio.create_task(watch())
        for _ in range(50):
            await asyncio.sleep(0)
        text = "".join(event.text for event in events if isinstance(event, Emit))
        reports = [event for event in events if isinstance(event, StepReport)]
        if score == 0.1:
            decided = sum(place + 1 < ready for place, word in enumerate(WHOLE[:ready]) if word == "\n\n")
            assert len(reports) == decided, "a step is judged with the token behind it"
            assert text == "".join(WHOLE[:ready]), "and the text up to the boundary is shown at once"
        else:
            assert "c" not in text, "nothing behind the first boundary was ever shown"
        task.cancel()
        await asyncio.wait([task])


class _NeverEnding(FakeReasoner):
    """Plays another's tokens, and is then silent."""

    def __init__(self, played: FakeReasoner) -> None:
        super().__init__(played.thinking, tells=True)

    async def stream(self, segment: Segment):  # type: ignore[no-untyped-def]
        async for delta in super().stream(segment):
            yield replace(delta, finish_reason=None)
        await asyncio.Event().wait()


ROOM_FOR_A_STEP = replace(PATIENT, max_tokens=6, answer_tokens=5)
"""The thinking's request may generate the first step and nothing else."""

# Where thinking ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [1, 8])
@pytest.mark.parametrize("rule", RULES)
async def test_a_close_by_a_marker(group: int, rule: str) -> None:
    played = await play(("a.", " b", "\n\n", "Wait", " c.", "</think>", "The", " end", ""), group=group, rule=rule)
    assert played.found.text() == "a. b\n\nWait c.</think>The end"
    assert sum(step.tokens for step in played.found.steps) == 5
    assert played.probe.asked == []


@pytest.mark.parametrize("group", [1, 2, 8])
@pytest.mark.parametrize("rule", ["blank_line", "marker", "sentence", "line", "attempt"])
async def test_a_close_by_a_marker_of_several_tokens_that_are_merged_with_others(group: int, rule: str) -> None:
    words = ("<", "think", ">\n", "a", "b.", "\n\n", "c", ".</", "think", ">\n\n", "It is", " 4", "")
    played = await play(words, form=TEXT, prompt=(PROMPT,), group=group, rule=rule)
    assert [text for part, text in played.found.parts if part is Part.ANSWER] == ["\n\nIt is 4"]
    assert played.probe.asked == []
    assert played.head.seen[-1].text.endswith("c.")


@pytest.mark.parametrize("group", [1, 8])
@pytest.mark.parametrize("rule", RULES)
async def test_a_chain_that_ends_with_its_turn(group: int, rule: str) -> None:
    played = await play(
        ("a", "b", "\n\n", "c", "\n\n", "So it is 4.", ""), form=PLAIN, prompt=(PROMPT,), group=group, rule=rule
    )
    assert played.found.text() == "ab\n\nc\n\nSo it is 4."
    assert len(played.reasoner.segments) == 1
    assert played.probe.asked == []
    assert played.found.steps[-1].p_now == 0.1


@pytest.mark.parametrize("group", [1, 8])
@pytest.mark.parametrize("rule", RULES)
async def test_a_turn_that_ends_in_the_middle_of_marked_thinking(group: int, rule: str) -> None:
    played = await play(("a", "b", "\n\n", "c.", ""), group=group, rule=rule)
    assert played.found.text() == "ab\n\nc.</think>The answer is 4"
    assert played.found.outcome.stop_cause is StopCause.NATURAL
    assert played.probe.asked == [], "the end of the turn came behind the last boundary"


@pytest.mark.parametrize("group", [1, 2, 8])
async def test_a_chain_that_ends_with_a_tool_call(group: int) -> None:
    form = replace(PLAIN, tool_texts=("<tool",))
    words = ("a", "\n\n", "b", " <to", "ol", '>{"x"}', "")
    played = await play(words, form=form, prompt=(PROMPT,), group=group)
    assert played.found.outcome.stop_cause is StopCause.TOOL_CALL
    assert [boundary.text for boundary in played.head.seen] == ["a\n\n", "b "]
    assert played.probe.asked == []


@pytest.mark.parametrize("group", [1, 2, 8])
async def test_a_chain_that_ends_with_a_stop_text(group: int) -> None:
    form = replace(PLAIN, stops=("STOP",))
    words = ("a", "\n\n", "b", " ST", "OP", " never", "")
    played = await play(words, form=form, prompt=(PROMPT,), group=group)
    assert played.found.outcome.stop_cause is StopCause.STOP_STRING
    assert played.found.finish == ("stop", "STOP")
    assert [boundary.text for boundary in played.head.seen] == ["a\n\n", "b "]
    assert played.probe.asked == []


@pytest.mark.parametrize("group", [1, 3, 8])
@pytest.mark.parametrize("budget", range(1, 9))
@pytest.mark.parametrize("rule", RULES)
async def test_a_budget_that_ends_the_thinking(budget: int, rule: str, group: int) -> None:
    given_settings = replace(PATIENT, max_thinking_tokens=budget)
    played = await play(WHOLE, [0.1], given_settings, rule=rule, group=group)
    natural = budget == 8
    expected = StopCause.NATURAL if natural else StopCause.MAX_THINKING_TOKENS
    assert played.found.outcome.stop_cause is expected
    assert played.found.outcome.thinking_tokens == budget
    assert len(played.probe.asked) <= 1, "only the last token that was allowed is not followed by another"
    assert played.found.outcome.probe_tokens == len(played.probe.asked)
    assert all(step.p_now == 0.1 for step in played.found.steps)


@pytest.mark.parametrize("group", [1, 2, 8])
@pytest.mark.parametrize("rule", ["blank_line", "tokens:3", "line"])
@pytest.mark.parametrize("score", [0.1, 0.95])
async def test_the_end_of_the_room_asks_once_and_counts_it(rule: str, score: float, group: int) -> None:
    played = await play(WHOLE, [score], ROOM_FOR_A_STEP, rule=rule, group=group)
    assert len(played.probe.asked) == 1
    assert len(played.probe.asked[0]) == 2 + 3, "the context up to the last boundary"
    assert played.found.outcome.probe_tokens == 1
    assert played.found.outcome.thinking_tokens == 3
    assert played.found.outcome.stop_cause is (StopCause.SURE if score > 0.9 else StopCause.ANSWER_RESERVE)


async def test_thinking_without_an_answers_reserve_that_is_cut_off() -> None:
    room = replace(PATIENT, max_tokens=3, answer_tokens=0)
    played = await play(WHOLE, [0.1], room)
    assert played.found.finish[0] == "length"
    assert played.found.outcome.stop_cause is StopCause.MAX_TOKENS
    assert len(played.probe.asked) == 1


# Failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [{"fails": RuntimeError("gone")}, {"silent": True}])
async def test_a_probe_that_fails_stops_nothing(trouble: dict[str, Any]) -> None:
    probe = FakeProbe(**trouble)
    played = await play(WHOLE, [0.95], ROOM_FOR_A_STEP, probe=probe)
    assert played.found.text() == "ab\n\n</think>The answer is 4"
    assert played.found.outcome.stop_cause is StopCause.ANSWER_RESERVE
    assert (played.found.outcome.failed, played.found.outcome.late) == (1, 0)
    assert [(step.p_now, step.verdict) for step in played.found.steps] == [(None, Verdict.CONTINUE)]


@pytest.mark.parametrize("group", [1, 8])
async def test_where_no_token_tells_anything_every_boundary_is_asked_for(group: int) -> None:
    played = await play(WHOLE, [0.1], PATIENT, tells=False, group=group)
    assert played.found.text() == "".join(WHOLE)
    assert len(played.probe.asked) == played.found.outcome.probe_tokens == 3
    assert [step.p_now for step in played.found.steps] == [0.1, 0.1, 0.1]


@pytest.mark.parametrize("group", [1, 8])
async def test_where_nobody_can_be_asked_thinking_goes_on(group: int) -> None:
    reasoner = FakeReasoner(WHOLE, group=group)
    loop = ThinkingLoop(reasoner, FakeHead([0.95]), FORM, StepRule(), PATIENT, (PROMPT, OPEN), "question")
    found = await asyncio.wait_for(shown(loop), 20)
    assert found.text() == "".join(WHOLE)
    assert found.outcome.failed == 3


class BrokenHead(FakeHead):
    """A head that fails where it should score at once."""

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> FakeHeadSession:
        return _BrokenSession(self, probe)


class _BrokenSession(FakeHeadSession):
    def score_at_once(self, boundary: Boundary) -> Score | None:
        raise ValueError("a head of kind head reads 2 logits, not 0")


@pytest.mark.parametrize("acts", [True, False])
async def test_a_head_that_fails_at_once_stops_nothing(acts: bool) -> None:
    reasoner, given_settings = FakeReasoner(WHOLE, tells=True), replace(SETTINGS, policy=PolicySettings(acts=acts))
    loop = ThinkingLoop(reasoner, BrokenHead(), FORM, StepRule(), given_settings, (PROMPT, OPEN), "question")
    found = await asyncio.wait_for(shown(loop), 20)
    assert found.text() == "".join(WHOLE)
    assert found.outcome.failed == 3
    assert [(step.p_now, step.ms) for step in found.steps] == [(None, None)] * 3


async def test_a_boundary_that_is_scored_at_once_starts_nothing() -> None:
    told_to: list[PendingBoundary] = []
    judge = Judge(FakeHead([0.5]), "question", 30.0, told_to.append)
    assert judge.reads_states
    pending = PendingBoundary(3, 3)
    judge.submit(pending, Boundary(0, "ab", None, context=lambda: [1, 2, 3], states=told([1, 2, 3])))
    assert pending.resolved
    assert pending.score == Score(0.5, 0.5)
    assert (pending.task, pending.timer, told_to) == (None, None, [])


# Nudges -------------------------------------------------------------------------------------------------------

NUDGING = replace(
    SETTINGS,
    policy=PolicySettings(threshold=0.9, nudge=1, nudge_below=0.5),
    nudge_cue="Wait,",
    nudge_cue_ids=(70, 71),
)


@pytest.mark.parametrize("group", [1, 2, 8])
@pytest.mark.parametrize("rule", RULES)
async def test_a_refused_close_goes_on_behind_the_cue(rule: str, group: int) -> None:
    probe = FakeProbe()
    played = await play(WHOLE, [0.1], replace(NUDGING, deadline=30.0), rule=rule, group=group, probe=probe)
    assert played.found.text() == "ab\n\ncd\n\ne\n\nWait,more\n\n</think>again"
    assert played.found.outcome.nudges == 1
    asked = [ids for ids in probe.asked if ids[-1] in (70, 71)]
    assert len(asked) <= 1, "only behind a token of the cue that another follows does no token tell anything"
    assert len(probe.asked) == len(asked)
    assert all(step.p_now == 0.1 for step in played.found.steps)


async def test_a_boundary_inside_the_cue_does_not_hold_the_thinking_up() -> None:
    """What follows it is injected, and tells nothing."""
    rethought = ("m", "o", "r", "e", "s", "o", "</think>", "again", "")
    played = await play(
        WHOLE, [0.1] * 5 + [0.95], replace(NUDGING, deadline=30.0), rule="tokens:1", rethought=rethought
    )
    assert played.found.outcome.stop_cause is StopCause.SURE
    assert played.found.text() == "ab\n\ncd\n\ne\n\nWait,</think>The answer is 4"
    assert played.found.outcome.discarded_tokens < len(rethought)


async def test_what_was_said_of_a_context_that_was_cut_away_is_forgotten() -> None:
    """The marker that closed the thinking is as long as the cue that takes its place."""
    words = ("<think>", "a", "b.", "</", "think", ">", "It", "")
    cued = replace(NUDGING, nudge_cue_ids=(70, 71), deadline=30.0)
    played = await play(
        words, [0.1], cued, form=TEXT, prompt=(PROMPT,), rule="tokens:1", rethought=("c.", "</", "think", ">", "so", "")
    )
    assert played.found.outcome.nudges == 1
    assert played.found.outcome.failed == 0
    contexts = [boundary.context() for boundary in played.head.seen]
    assert len(contexts) == len(played.found.steps)


# Rethinking ---------------------------------------------------------------------------------------------------


def rethinking(
    scripts: Sequence[Sequence[str]], head: FakeHead, settings: RethinkSettings, *, group: int = 1
) -> tuple[RethinkLoop, list[FakeReasoner], list[FakeProbe]]:
    reasoners = [FakeReasoner(script, group=group, at_once=group > 1, tells=True) for script in scripts]
    probes = [FakeProbe() for _ in scripts]
    loop_settings = replace(PATIENT, policy=PolicySettings(threshold=None, accept=0.5), max_tokens=2000)
    loop = RethinkLoop(
        lambda number: (reasoners[number], probes[number]),
        head,
        FORM,
        StepRule(),
        loop_settings,
        settings,
        (PROMPT, OPEN),
        "question",
    )
    return loop, reasoners, probes


SECOND = ("x", "\n\n", "y", "</think>", "Two", "")


class TwoMinds(FakeHead):
    """Believes attempts that begin with `x` only."""

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> FakeHeadSession:
        return _TwoMinds(self, probe)


class _TwoMinds(FakeHeadSession):
    believes = False

    def _score(self, boundary: Boundary, states: tuple[float, ...]) -> Score:
        super()._score(boundary, states)
        self.believes = self.believes or boundary.text.startswith("x")
        return Score(0.9, 0.9) if self.believes else Score(0.2, 0.2)


@pytest.mark.parametrize("group", [1, 8])
@pytest.mark.parametrize("kind", ["fresh", "in_context"])
async def test_a_rejected_attempt_is_made_again(kind: str, group: int) -> None:
    settings = RethinkSettings(1, kind, separator="--")  # type: ignore[arg-type]
    loop, reasoners, probes = rethinking([WHOLE, SECOND], TwoMinds(), settings, group=group)
    found = await asyncio.wait_for(shown(loop), 20)
    assert found.text().endswith("x\n\ny</think>Two")
    assert [attempt.p_now for attempt in found.outcome.attempts] == [0.2, 0.9]
    assert [reasoner.running for reasoner in reasoners] == [0, 0]
    assert [probe.asked for probe in probes] == [[], []]
    assert (found.outcome.late, found.outcome.failed) == (0, 0)


@pytest.mark.parametrize("group", [1, 8])
async def test_attempts_at_the_same_time(group: int) -> None:
    scripts = [WHOLE, SECOND, WHOLE]
    loop, reasoners, _ = rethinking(scripts, TwoMinds(), RethinkSettings(2, parallel=3), group=group)
    found = await asyncio.wait_for(shown(loop), 20)
    assert found.text() == "x\n\ny</think>Two"
    assert [reasoner.running for reasoner in reasoners] == [0, 0, 0]
    assert found.outcome.failed == 0


@pytest.mark.parametrize("group", [1, 8])
async def test_where_no_attempt_is_believed_there_is_an_honest_refusal(group: int) -> None:
    settings = RethinkSettings(1, on_exhausted="abstain", refusal="I do not know.")
    loop, reasoners, _ = rethinking([WHOLE, WHOLE], TwoMinds(), settings, group=group)
    found = await asyncio.wait_for(shown(loop), 20)
    assert found.outcome.stop_cause is StopCause.ABSTAINED
    assert found.text().endswith("I do not know.")
    assert [reasoner.running for reasoner in reasoners] == [0, 0]


# Whatever comes -----------------------------------------------------------------------------------------------

PIECES = ("a", "b.", " c", "\n", "\n\n", ".\n\n", " Wait", "Wait", ", d", "1.", "")
scripts = st.lists(st.sampled_from(PIECES[:-1]), max_size=14)
policies = st.builds(
    PolicySettings,
    threshold=st.sampled_from([None, 0.5, 0.9]),
    min_steps=st.integers(0, 2),
    max_steps=st.sampled_from([None, 1, 3]),
    patience=st.integers(1, 2),
    nudge=st.integers(0, 1),
    nudge_below=st.sampled_from([0.3, 0.8]),
    acts=st.sampled_from([True, True, False]),
    hopeless=st.sampled_from([None, 0.1]),
    accept=st.sampled_from([None, None, 0.4]),
)
limits = st.fixed_dictionaries(
    {
        "max_thinking_tokens": st.sampled_from([None, None, 1, 4, 7]),
        "max_tokens": st.sampled_from([1000, 1000, 64, 20, 12]),
        "answer_tokens": st.sampled_from([0, 5]),
        "min_step_tokens": st.sampled_from([0, 0, 2, 5]),
        "separate_answer": st.booleans(),
    }
)
ENDS: dict[str, tuple[str, ...]] = {
    "close": ("</think>", "The", " end", ""),
    "turn": ("",),
    "none": (),
}


@settings(max_examples=300)
@given(
    scripts,
    st.sampled_from(list(ENDS)),
    st.sampled_from([FORM, PLAIN]),
    st.sampled_from(RULES),
    policies,
    limits,
    st.integers(2, 9),
    st.sampled_from([(70,), (70, 71), (70, 71, 72)]),
)
@example(["a", "\n\n"] * 3, "close", FORM, "tokens:1", NUDGING.policy, {}, 8, (70, 71))
@example([".\n\n"], "close", PLAIN, "blank_line", PolicySettings(None, max_steps=1, accept=0.4), {}, 5, (70,))
async def test_scores_are_those_of_the_own_context_however_tokens_are_grouped(
    words: list[str],
    end: str,
    form: ReasoningFormat,
    rule: str,
    policy: PolicySettings,
    limit: dict[str, Any],
    group: int,
    cue: tuple[int, ...],
) -> None:
    """That the scores are those of the own context, and that counts add up, is checked by `play` and the head."""
    given_settings = replace(PATIENT, policy=policy, nudge_cue="Wait,", nudge_cue_ids=cue, **limit)
    prompt = (PROMPT, OPEN) if form is FORM else (PROMPT,)
    script = [*words, *ENDS[end]] or [""]
    one, many = [
        await play(script, (), given_settings, group=size, form=form, prompt=prompt, rule=rule) for size in (1, group)
    ]
    meanwhile = max(own.found.outcome.discarded_tokens for own in (one, many))
    if meanwhile <= given_settings.lookahead:  # else more was generated in vain than is set aside for that
        assert one.found.decided == many.found.decided
    assert one.found.outcome.failed == 0


@given(scripts, st.sampled_from(list(ENDS)), st.sampled_from(RULES), st.integers(1, 9), st.booleans())
async def test_attempts_are_judged_alike_however_tokens_are_grouped(
    words: list[str], end: str, rule: str, group: int, parallel: bool
) -> None:
    script = [*words, *ENDS[end]] or [""]
    for size in (1, group):
        head = FakeHead()
        loop, reasoners, _ = rethinking(
            [script, SECOND, WHOLE], head, RethinkSettings(2, parallel=3 if parallel else 1), group=size
        )
        loop._rule = StepRule.parse(rule)
        found = await asyncio.wait_for(shown(loop), 20)
        assert found.outcome.failed == 0
        assert [reasoner.running for reasoner in reasoners] == [0, 0, 0]

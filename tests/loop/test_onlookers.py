"""A canary: what a rule would have done is noted, the response thinks in full, and the answer that would have been is
the one that the rule gives."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drr.loop.attempt import ThinkingLoop
from drr.loop.onlookers import Onlooker, Watch
from drr.loop.policy import PolicySettings, Score, StopCause, Verdict
from drr.loop.probing import Probe
from drr.loop.reasoner import Segment
from drr.loop.response import LoopSettings
from drr.loop.rule import Rule
from drr.loop.scoring import Boundary, Scorer
from drr.loop.steps import StepRule
from tests.fakes import (
    FORM,
    OPEN,
    PROMPT,
    FakeHead,
    FakeHeadSession,
    FakeReasoner,
    FakeScorer,
    Response,
    Vocabulary,
    respond,
)

WHOLE = ("a", "b", "\n\n", "c", "d", "\n\n", "e", "\n\n", "f", "</think>", "The", " end", "")
ACTS = LoopSettings(PolicySettings(threshold=0.9), max_tokens=1000, answer_tokens=50, deadline=30.0)


def known(words: Sequence[str]) -> Vocabulary:
    """A vocabulary in which all of it has the same ids, whatever is asked for first."""
    vocabulary = Vocabulary()
    for word in (*words, "The answer", " is 4"):
        vocabulary.token(word)
    return vocabulary


def spared(given: LoopSettings) -> LoopSettings:
    return replace(given, policy=replace(given.policy, stops=False))


def loop_of(
    reasoner: FakeReasoner,
    scorer: Scorer | None,
    given: LoopSettings,
    watch: Watch | None = None,
    prompt: Sequence[int] = (PROMPT, OPEN),
) -> ThinkingLoop:
    return ThinkingLoop(reasoner, scorer, FORM, StepRule(), given, prompt, "question", watch=watch)


async def canary(
    scores: Sequence[float], given: LoopSettings = ACTS, words: Sequence[str] = WHOLE, group: int = 1
) -> tuple[Response, Watch, FakeReasoner]:
    reasoner, watch = FakeReasoner(words, group=group, vocabulary=known(words)), Watch()
    response = await respond(loop_of(reasoner, FakeScorer(scores), spared(given), watch))
    return response, watch, reasoner


async def test_a_canary_thinks_in_full_and_says_where_the_rule_stops() -> None:
    response, watch, reasoner = await canary([0.1, 0.95])
    assert response.text == "ab\n\ncd\n\ne\n\nf</think>The end"
    assert response.outcome.stop_cause is StopCause.NATURAL
    assert (response.outcome.discarded_tokens, len(reasoner.segments)) == (0, 1)
    assert [step.verdict for step in response.steps][:2] == [Verdict.CONTINUE, Verdict.STOP]
    assert watch.stop is not None
    assert [token.text for token in watch.stop.thought] == ["a", "b", "\n\n", "c", "d", "\n\n"]
    assert (watch.stop.cause, watch.stop.score.p_now, watch.stop.generated) == (StopCause.SURE, 0.95, 6)
    assert watch.last is not None
    assert watch.last.p_now == 0.95


@pytest.mark.parametrize("scores", [[0.1], [0.1, 0.2, 0.3, 0.99]])
async def test_a_rule_that_would_not_have_stopped_leaves_nothing(scores: list[float]) -> None:
    _, watch, _ = await canary(scores)
    assert watch.stop is None, "the last score is that of the Reasoner's own close"


async def test_where_the_reasoner_closes_by_itself_nobody_would_have_stopped_it() -> None:
    _, watch, _ = await canary([0.1, 0.95], words=("a", "\n\n", "c", "\n\n", "</think>", "The", " end", ""))
    assert watch.stop is None


async def test_a_limit_at_the_same_boundary_is_no_stop_of_the_judge() -> None:
    given = replace(ACTS, policy=replace(ACTS.policy, max_steps=2))
    response, watch, _ = await canary([0.1, 0.95], given)
    assert response.outcome.stop_cause is StopCause.MAX_STEPS
    assert watch.stop is None


async def test_a_close_is_refused_as_without_a_canary() -> None:
    given = replace(ACTS, policy=replace(ACTS.policy, nudge=1, nudge_below=0.5), nudge_cue_ids=(77,))
    acting = FakeReasoner(WHOLE)
    expected = await respond(loop_of(acting, FakeScorer([0.1]), given))
    response, watch, _ = await canary([0.1], given)
    assert response.outcome.nudges == expected.outcome.nudges == 1
    assert response.text == expected.text
    assert watch.stop is None


async def replayed(watch: Watch, given: LoopSettings, words: Sequence[str]) -> tuple[Response, FakeReasoner]:
    assert watch.stop is not None
    reasoner = FakeReasoner(words, vocabulary=known(words))
    loop = loop_of(reasoner, None, given)
    loop.run = lambda: loop.stopped(watch.stop)  # type: ignore[method-assign, assignment, arg-type, return-value]
    return await respond(loop), reasoner


def asked(segment: Segment) -> tuple[object, ...]:
    return segment.phase, segment.number, list(segment.ids), list(segment.carried), segment.max_tokens, segment.cut


STEPS = st.lists(st.sampled_from([("a",), ("b", "c"), ("d", "e", "f", "g")]), min_size=2, max_size=6)


@settings(deadline=None, max_examples=80)
@given(
    steps=STEPS,
    scores=st.lists(st.sampled_from([0.1, 0.5, 0.92]), min_size=1, max_size=6),
    group=st.sampled_from([1, 3, 8]),
    max_tokens=st.sampled_from([40, 1000]),
    separate=st.booleans(),
    patience=st.sampled_from([1, 2]),
)
async def test_the_answer_that_would_have_been_is_asked_for_as_the_rule_asks(
    steps: list[tuple[str, ...]],
    scores: list[float],
    group: int,
    max_tokens: int,
    separate: bool,
    patience: int,
) -> None:
    words = [word for step in steps for word in (*step, "\n\n")] + ["end", "</think>", "The", " end", ""]
    policy = replace(ACTS.policy, patience=patience)
    given = replace(ACTS, policy=policy, max_tokens=max_tokens, answer_tokens=10, separate_answer=separate)
    acting = FakeReasoner(words, group=group, vocabulary=known(words))
    expected = await respond(loop_of(acting, FakeScorer(scores), given))
    _, watch, _ = await canary(scores, given, words, group)
    stops = expected.outcome.stop_cause is StopCause.SURE
    assert (watch.stop is not None) == stops
    if watch.stop is None:
        return
    found, reasoner = await replayed(watch, given, words)
    assert found.text == expected.text
    assert found.ids == expected.ids
    assert asked(reasoner.segments[-1]) == asked(acting.segments[-1])
    assert reasoner.running == 0
    for count in ("generated_tokens", "thinking_tokens", "discarded_tokens", "answer_tokens", "injected_tokens"):
        assert getattr(found.outcome, count) == getattr(expected.outcome, count), "what stopping would have taken"


# Onlookers ----------------------------------------------------------------------------------------------------


async def looked_on(
    rule: Rule, scores: Sequence[float], *, tells: bool = True, acting: bool = False
) -> tuple[Onlooker, FakeHead]:
    head = FakeHead(scores)
    onlooker = Onlooker("dm:new", head, rule)
    given = ACTS if acting else spared(ACTS)
    reasoner = FakeReasoner(WHOLE, tells=tells)
    await respond(loop_of(reasoner, FakeScorer([0.1]), given, Watch([onlooker])))
    return onlooker, head


async def test_an_onlooker_scores_the_same_boundaries_and_has_a_rule_of_its_own() -> None:
    onlooker, head = await looked_on(Rule(0.6), [0.3, 0.7, 0.8])
    assert [boundary.index for boundary in head.seen] == [0, 1, 2, 3]
    assert onlooker.stop is not None
    assert len(onlooker.stop.thought) == 6
    assert onlooker.last_score is not None
    assert not onlooker.blind


async def test_an_onlooker_with_patience_stops_later() -> None:
    onlooker, _ = await looked_on(Rule(0.6, patience=2), [0.3, 0.7, 0.8])
    assert onlooker.stop is not None
    assert len(onlooker.stop.thought) == 8


async def test_an_onlooker_that_is_told_nothing_is_blind() -> None:
    onlooker, head = await looked_on(Rule(0.6), [0.3, 0.7, 0.8], tells=False)
    assert onlooker.blind
    assert onlooker.stop is None
    assert head.seen == []


async def test_an_onlooker_that_fails_ends_no_response() -> None:
    class Broken(FakeHead):
        def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> FakeHeadSession:
            class Session(FakeHeadSession):
                def score_at_once(self, boundary: Boundary) -> Score | None:
                    raise RuntimeError("no such head")

            return Session(self, probe)

    onlooker = Onlooker("dm:new", Broken(), Rule(0.6))
    response = await respond(
        loop_of(FakeReasoner(WHOLE, tells=True), FakeScorer([0.1]), spared(ACTS), Watch([onlooker]))
    )
    assert response.finish_reason == "stop"
    assert onlooker.blind

"""A DM that is a head in the Reasoner's engine: which numbers it reads, alone and fused with a text classifier."""

from collections.abc import Sequence

import pytest
from transformers import AutoTokenizer

from drr.judge.scorers.dm import Classified, DmScorer
from drr.judge.scorers.state import StateScorer
from drr.loop.attempt import ThinkingLoop
from drr.loop.features import FEATURE_NAMES
from drr.loop.policy import PolicySettings, StopCause
from drr.loop.response import LoopSettings
from drr.loop.scoring import Boundary, ScorerUnavailableError, StateSession
from drr.loop.steps import StepRule
from tests.dm_logits import FOLDER, QUESTION
from tests.fakes import FORM, OPEN, PROMPT, FakeProbe, FakeReasoner, respond, told
from tests.judge.test_head import head_of

FEATURES = [0.1] * len(FEATURE_NAMES)
WHOLE = ("a", "b", "\n\n", "c", "d", "\n\n", "</think>", "The", " end", "")
SETTINGS = LoopSettings(PolicySettings(threshold=1.0), max_tokens=1000, answer_tokens=50, deadline=30.0)


class Classifier:
    """Gives the same logits every time, until it is dead."""

    def __init__(self, *, dies_after: int = 1000) -> None:
        self.asked = 0
        self.dies_after = dies_after

    async def __call__(self, ids: list[int], ends: Sequence[int], cache_salt: str | None = None) -> Classified:
        self.asked += 1
        if self.asked > self.dies_after:
            raise ScorerUnavailableError("the engine is gone")
        return Classified([(0.5, -0.25) for _ in ends])


def text_scorer(classify: Classifier) -> DmScorer:
    return DmScorer("fused", classify, AutoTokenizer.from_pretrained(FOLDER), head_of("fused"), 1024)


def boundary(states: tuple[float, ...] | None, features: list[float] | None = FEATURES) -> Boundary:
    return Boundary(0, "1 + 1 is 2.\n\n", features, context=lambda: [1, 2, 3], states=states)


@pytest.mark.parametrize("features", [None, FEATURES])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_head_reads_the_two_numbers_of_its_place(place: int, features: list[float] | None) -> None:
    said = (1.0, 2.0, -0.5, 0.25, 3.0, -3.0)
    session = StateScorer("head", head_of("head"), place).session(QUESTION)
    assert isinstance(session, StateSession)
    expected = head_of("head").score(said[2 * place : 2 * place + 2], features)
    assert session.score_at_once(boundary(said, features)) == expected


async def test_a_head_asks_only_where_nothing_was_said() -> None:
    probe = FakeProbe()
    session = StateScorer("head", head_of("head")).session(QUESTION, probe)
    assert session.score_at_once(boundary(None)) is None
    assert await session.score(boundary(None)) == head_of("head").score(told([1, 2, 3]), FEATURES)
    assert probe.asked == [[1, 2, 3]]
    assert await session.score(boundary((1.0, 2.0))) == head_of("head").score((1.0, 2.0), FEATURES)
    assert len(probe.asked) == 1


@pytest.mark.parametrize("probe", [None, FakeProbe(silent=True)])
async def test_what_nobody_says_is_an_error_in_one_sentence(probe: FakeProbe | None) -> None:
    session = StateScorer("head", head_of("head")).session(QUESTION, probe)
    with pytest.raises(ValueError, match="the Reasoner's engine does not tell what its heads say"):
        await session.score(boundary(None))


def test_fewer_numbers_than_its_place_needs_are_an_error() -> None:
    session = StateScorer("head", head_of("head"), 1).session(QUESTION)
    with pytest.raises(ValueError, match="reads 2 logits, not 0"):
        session.score_at_once(boundary((1.0, 2.0)))


@pytest.mark.parametrize("features", [None, FEATURES])
async def test_a_fused_dm_reads_the_text_first_and_then_the_head(features: list[float] | None) -> None:
    said = (9.0, 9.0, 0.75, -0.125)
    session = StateScorer("fused", head_of("fused"), 1, text_scorer(Classifier())).session(QUESTION)
    assert session.score_at_once(boundary(said, features)) is None, "the classifier has to be waited for"
    expected = head_of("fused").score((0.5, -0.25, 0.75, -0.125), features)
    assert await session.score(boundary(said, features)) == expected
    swapped = head_of("fused").score((0.75, -0.125, 0.5, -0.25), features)
    assert expected != swapped


async def test_a_fused_dm_asks_for_what_was_not_said() -> None:
    probe = FakeProbe()
    session = StateScorer("fused", head_of("fused"), 0, text_scorer(Classifier())).session(QUESTION, probe)
    expected = head_of("fused").score((0.5, -0.25, *told([1, 2, 3])), FEATURES)
    assert await session.score(boundary(None)) == expected
    assert probe.tokens == 1


@pytest.mark.parametrize("dies_after", [0, 1])
async def test_a_fused_dm_whose_classifier_dies_is_unavailable(dies_after: int) -> None:
    classify = Classifier(dies_after=dies_after)
    scorer = StateScorer("fused", head_of("fused"), 0, text_scorer(classify))
    assert not scorer.dead
    reasoner = FakeReasoner(WHOLE, tells=True)
    loop = ThinkingLoop(reasoner, scorer, FORM, StepRule(), SETTINGS, (PROMPT, OPEN), QUESTION, probe=FakeProbe())
    response = await respond(loop)
    assert response.text == "".join(WHOLE)
    assert response.outcome.stop_cause is StopCause.JUDGE_UNAVAILABLE
    assert response.outcome.failed == 1
    assert scorer.dead
    with pytest.raises(ScorerUnavailableError):
        await scorer.session(QUESTION).score(boundary((1.0, 2.0)))


async def test_a_head_alone_and_a_fused_dm_judge_every_boundary_of_a_response() -> None:
    for scorer in (
        StateScorer("head", head_of("head")),
        StateScorer("fused", head_of("fused"), 0, text_scorer(Classifier())),
    ):
        reasoner, probe = FakeReasoner(WHOLE, tells=True), FakeProbe()
        loop = ThinkingLoop(reasoner, scorer, FORM, StepRule(), SETTINGS, (PROMPT, OPEN), QUESTION, probe=probe)
        response = await respond(loop)
        logits = () if scorer.text is None else (0.5, -0.25)
        ids = [PROMPT, OPEN, *response.ids]
        now = [step.p_now for step in response.steps]
        assert len(now) == 2
        assert None not in now
        assert not scorer.dead
        assert probe.asked == []
        assert len(logits) + len(told(ids)) == len(scorer.head.judge_weight[0])


def test_a_head_alone_never_dies() -> None:
    assert not StateScorer("head", head_of("head")).dead

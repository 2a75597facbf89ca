"""Scorers that need no training, against a scripted probe."""

import asyncio
import math
from collections.abc import Sequence

import pytest

from drr.judge.scorers.entropy import entropy
from drr.judge.scorers.registry import THRESHOLDS, training_free
from drr.judge.scorers.self_critique import yes_share
from drr.loop.formats import MarkerTokens, PlainChain, ReasoningFormat
from drr.loop.probing import ProbedToken
from drr.loop.scoring import Boundary, Scorer, ScorerUnavailableError

SCORERS = training_free()


def token(text: str, p: float = 1.0, others: dict[str, float] | None = None) -> ProbedToken:
    likeliest = {text: math.log(p), **{other: math.log(probability) for other, probability in (others or {}).items()}}
    return ProbedToken(text, math.log(p), likeliest, 2 if text == "</think>" else 50)


class FakeProbe:
    """Returns its replies one after the other: critiques for contexts that end in 99, else answers."""

    form: ReasoningFormat = MarkerTokens(open_ids=(1,), close_ids=(2,), close_text="</think>")

    def __init__(self, answers: Sequence[list[ProbedToken]], critiques: Sequence[list[ProbedToken]] = ()) -> None:
        self._answers, self._critiques = iter(answers), iter(critiques)
        self.contexts: list[list[int]] = []
        self.asked: list[tuple[str, bool]] = []
        self.tokens = 0

    async def complete(
        self, ids: Sequence[int], max_tokens: int, likeliest: int = 0, stop: Sequence[str] = ()
    ) -> list[ProbedToken]:
        self.contexts.append(list(ids))
        reply = next(self._critiques if ids[-1] == 99 else self._answers)
        await asyncio.sleep(0)
        self.tokens += len(reply)
        return reply[:max_tokens]

    def ask(self, message: str, *, think: bool) -> list[int]:
        self.asked.append((message, think))
        return [99]


async def scores(scorer: Scorer, probe: FakeProbe | None, count: int = 1) -> list[float]:
    session = scorer.session("What is 1 + 2?", probe)
    boundaries = [Boundary(i, f"step {i}", None, [math.log(0.5)] * 2, lambda i=i: [7, i]) for i in range(count)]  # type: ignore[misc]
    found = await asyncio.gather(*(session.score(boundary) for boundary in boundaries))
    return [score.p_now for score in found]


async def test_confidence_is_the_mean_probability_of_the_forced_answer() -> None:
    probe = FakeProbe([[token("The answer is ", 1.0), token("3", 0.25)]])
    assert await scores(SCORERS["confidence"], probe) == [pytest.approx(0.5)]
    assert probe.contexts == [[7, 0, 2]], "forced at the boundary, behind the closing marker"
    assert await scores(SCORERS["confidence"], FakeProbe([[]])) == [0.0]


async def test_entropy_is_that_of_the_most_open_token() -> None:
    even = token("3", 0.5, {"4": 0.5})
    assert entropy(even) == pytest.approx(math.log(2))
    assert entropy(token("3", 0.5)) == pytest.approx(math.log(2)), "what is not listed counts, too"
    probe = FakeProbe([[token("x"), even]])
    assert await scores(SCORERS["entropy"], probe) == [pytest.approx(0.5)]


async def test_answers_that_stay_the_same_are_trusted_more() -> None:
    said = ["5", "3", "3", "3", "3", "4"]
    probe = FakeProbe([[token(f"The answer is {answer}.")] for answer in said])
    assert await scores(SCORERS["answer_probe"], probe, 6) == [0.25, 0.25, 0.5, 0.75, 1.0, 0.25]


@pytest.mark.parametrize(
    ("verdict", "share"),
    [
        ([token("The answer is"), token(" yes", 0.6, {" no": 0.2})], 0.75),
        ([token(" No", 0.9, {" Yes": 0.1}), token(" yes")], 0.1),
        ([token("maybe")], 0.5),
        ([], 0.5),
    ],
)
async def test_self_critique_is_the_share_of_yes(verdict: list[ProbedToken], share: float) -> None:
    assert yes_share(verdict) == pytest.approx(share)
    probe = FakeProbe([[token("The answer is 3.")]], [verdict])
    assert await scores(SCORERS["self_critique"], probe) == [pytest.approx(share)]
    ((message, think),) = probe.asked
    assert message.startswith("What is 1 + 2?")
    assert "Proposed answer: 3\n" in message
    assert not think
    assert probe.tokens == 1 + len(verdict)


async def test_a_thought_critique_counts_only_its_verdict() -> None:
    thought = [token("no, wait"), token("</think>"), token(" yes", 0.8, {" no": 0.2})]
    probe = FakeProbe([[token("The answer is 3.")]] * 2, [thought, thought[:1]])
    assert await scores(SCORERS["critique"], probe, 2) == [pytest.approx(0.8), 0.5]
    assert [think for _, think in probe.asked] == [True, True]


async def test_a_reasoner_without_thinking_markers_writes_its_critique_down() -> None:
    reply = [token("Yes", 0.9), token(" but 1 + 2 is not 4."), token(" No", 0.7, {" Yes": 0.3})]
    probe = FakeProbe([[token("The answer is 3.")]] * 2, [reply, reply[-1:]])
    probe.form = PlainChain(open_ids=(), close_ids=(2,), close_text="The answer is")
    assert await scores(SCORERS["critique"], probe) == [pytest.approx(0.3)], "the last word counts"
    assert await scores(SCORERS["self_critique"], probe) == [pytest.approx(0.3)]
    written, short = (message for message, _ in probe.asked)
    assert "step by step" in written
    assert "step by step" not in short


async def test_controls_know_nothing() -> None:
    assert len(set(await scores(SCORERS["random"], None, 20))) == 20
    steps = await scores(SCORERS["step_index"], None, 5)
    assert steps == sorted(steps)
    assert await scores(SCORERS["logprob"], None, 3) == [pytest.approx(0.5)] * 3


def test_scorers_that_must_ask_say_so() -> None:
    assert {*SCORERS, "prm"} == set(THRESHOLDS)
    for name in ("confidence", "entropy", "answer_probe", "self_critique", "critique"):
        with pytest.raises(ScorerUnavailableError, match=name):
            SCORERS[name].session("question")

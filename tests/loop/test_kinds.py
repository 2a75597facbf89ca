"""The loop with every kind of reasoning format, against scripted Reasoners."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drr.loop.attempt import ThinkingLoop
from drr.loop.formats import Channels, MarkerTokens, Part, PlainChain, ReasoningFormat, TextMarkers
from drr.loop.policy import PolicySettings, StopCause, Verdict
from drr.loop.reasoner import Phase
from drr.loop.response import LoopSettings
from drr.loop.rethink import RethinkLoop, RethinkSettings
from drr.loop.steps import StepRule
from tests.fakes import PROMPT, FakeReasoner, FakeScorer, Vocabulary
from tests.loop.shown import Shown, shown

SETTINGS = LoopSettings(PolicySettings(threshold=0.9), max_tokens=1000, answer_tokens=50, deadline=30.0)
CUE = "\n\nThe answer is"


def loop_of(
    reasoner: FakeReasoner,
    scorer: FakeScorer | None,
    form: ReasoningFormat,
    given_settings: LoopSettings = SETTINGS,
    prompt: Sequence[int] = (PROMPT,),
) -> ThinkingLoop:
    return ThinkingLoop(reasoner, scorer, form, StepRule(), given_settings, prompt, "question")


def policy(**changes: object) -> LoopSettings:
    return replace(SETTINGS, policy=replace(SETTINGS.policy, **changes))


def check(found: Shown, reasoner: FakeReasoner) -> None:
    assert reasoner.running == 0
    assert found.outcome.generated_tokens == found.generated + found.outcome.discarded_tokens


# Text markers --------------------------------------------------------------------------------------------------

TEXT = TextMarkers(
    open_text="<think>",
    open_ids=(6,),
    close_ids=(7, 8),
    close_text="</think>",
    skip_ids=(6, 7, 8),
    decode=lambda ids: "",
)
MERGED = ("<", "think", ">\n", "a", "b.", "\n\n", "c", ".</", "think", ">\n\n", "It is", " 4", "")
"""Markers that are merged with their neighbours."""


async def test_markers_that_a_tokenizer_merges_are_seen_and_never_shown() -> None:
    reasoner = FakeReasoner(MERGED)
    found = await shown(loop_of(reasoner, FakeScorer([0.1]), TEXT))
    assert found.text(Part.THINKING) == "\nab.\n\nc."
    assert found.text(Part.ANSWER) == "\n\nIt is 4"
    assert found.outcome.stop_cause is StopCause.NATURAL
    assert len(reasoner.segments) == 1
    check(found, reasoner)


async def test_a_stop_closes_merged_markers_from_outside() -> None:
    reasoner = FakeReasoner(MERGED)
    found = await shown(loop_of(reasoner, FakeScorer([0.95]), TEXT))
    assert found.text(Part.THINKING) == "\nab.\n\n"
    assert found.text(Part.ANSWER) == "The answer is 4"
    assert reasoner.segments[-1].ids[-2:] == [7, 8]
    check(found, reasoner)


@given(st.lists(st.integers(0, 60), max_size=30), st.integers(1, 5))
async def test_what_is_shown_does_not_depend_on_how_text_is_cut(cuts: list[int], group: int) -> None:
    text = "<think>\nab.\n\nc.</think>\n\nIt is 4"
    places = sorted({*range(0, len(text), 6), len(text), *(cut % (len(text) + 1) for cut in cuts)})
    words = [text[a:b] for a, b in itertools.pairwise(places)]
    reasoner = FakeReasoner([*words, ""], group=group)
    found = await shown(loop_of(reasoner, None, TEXT))
    assert found.text(Part.THINKING).strip() == "ab.\n\nc."
    assert found.text(Part.ANSWER) == "\n\nIt is 4"
    check(found, reasoner)


async def test_an_empty_thought_whose_markers_are_merged_is_empty() -> None:
    reasoner = FakeReasoner(("<", "think", "></", "think", ">\n", "It is 4", ""))
    found = await shown(loop_of(reasoner, FakeScorer([0.1]), TEXT))
    assert found.text(Part.THINKING) == ""
    assert found.text(Part.ANSWER) == "\nIt is 4"
    assert found.outcome.thinking_tokens == 0
    check(found, reasoner)


@pytest.mark.parametrize("budget", [5, 6, 7])
async def test_a_budget_that_runs_out_inside_a_marker_leaves_no_half_of_it(budget: int) -> None:
    reasoner = FakeReasoner(("<", "think", ">", "a", "b.", "\n\n", "c.", "</", "think", ">", "no", ""))
    found = await shown(loop_of(reasoner, None, TEXT, replace(SETTINGS, max_thinking_tokens=budget)))
    assert "</" not in found.text(Part.THINKING)
    assert found.text(Part.ANSWER) in ("The answer is 4", "no")
    if found.outcome.stop_cause is StopCause.MAX_THINKING_TOKENS:
        assert reasoner.segments[-1].ids[-2:] == [7, 8]
        assert reasoner.segments[-1].ids[-3] == reasoner.vocabulary.token("c.").id
    check(found, reasoner)


# Plain chain of thought ----------------------------------------------------------------------------------------

PLAIN = PlainChain(close_ids=(8, 9), close_text=CUE)
CHAIN = ("a", "b", "\n\n", "c", "\n\n", "So it is 4.", "")


async def test_a_chain_that_ends_by_itself_is_one_request_and_holds_its_answer() -> None:
    reasoner = FakeReasoner(CHAIN)
    found = await shown(loop_of(reasoner, FakeScorer([0.1]), PLAIN))
    assert found.text(Part.THINKING, Part.ANSWER) == "ab\n\nc\n\nSo it is 4."
    assert (found.outcome.stop_cause, found.finish) == (StopCause.NATURAL, ("stop", None))
    assert (found.outcome.thinking_tokens, found.outcome.injected_tokens) == (6, 0)
    assert len(reasoner.segments) == 1
    check(found, reasoner)


async def test_a_stopped_chain_is_finished_by_the_answer_cue() -> None:
    reasoner = FakeReasoner(CHAIN, answer=(" 4", ".", ""))
    found = await shown(loop_of(reasoner, FakeScorer([0.1, 0.95]), PLAIN))
    assert found.parts == [(Part.THINKING, "ab\n\nc\n\n"), (Part.ANSWER, CUE + " 4.")]
    assert found.outcome.stop_cause is StopCause.SURE
    assert reasoner.segments[-1].phase is Phase.ANSWER
    assert reasoner.segments[-1].ids[-2:] == [8, 9]
    assert reasoner.segments[-1].cut
    check(found, reasoner)


async def test_a_chain_that_is_stopped_where_it_states_its_answer_is_asked_for_nothing() -> None:
    reasoner = FakeReasoner(("a", "\n\n", "The answer is 4.", "\n\n", "Let", " me", " check", ""))
    found = await shown(loop_of(reasoner, FakeScorer([0.1, 0.95]), PLAIN))
    assert found.text(Part.THINKING, Part.ANSWER) == "a\n\nThe answer is 4.\n\n"
    assert (found.outcome.stop_cause, found.finish) == (StopCause.SURE, ("stop", None))
    assert found.outcome.injected_tokens == 0
    assert len(reasoner.segments) == 1
    check(found, reasoner)


async def test_a_placeholder_is_no_answer() -> None:
    reasoner = FakeReasoner(("The answer is N.", "\n\n", "b", ""), answer=(" 4", ""))
    found = await shown(loop_of(reasoner, FakeScorer([0.95]), PLAIN))
    assert found.text(Part.ANSWER) == CUE + " 4"


async def test_the_cue_does_not_double_a_line_break() -> None:
    reasoner = FakeReasoner(CHAIN, answer=(" 4", ""))
    words = reasoner.vocabulary
    form = replace(PLAIN, joined_ids=(9,), decode=lambda ids: words.text([own for own in ids if own >= 10]))
    found = await shown(loop_of(reasoner, FakeScorer([0.95]), form))
    assert found.parts == [(Part.THINKING, "ab\n\n"), (Part.ANSWER, CUE.lstrip("\n") + " 4")]
    assert reasoner.segments[-1].ids[-1] == 9
    assert reasoner.segments[-1].ids[-2] == words.token("\n\n").id


async def test_a_chain_without_room_is_finished_by_the_cue() -> None:
    reasoner = FakeReasoner(CHAIN, answer=(" 4", ""))
    found = await shown(loop_of(reasoner, None, PLAIN, replace(SETTINGS, max_thinking_tokens=4)))
    assert found.text(Part.THINKING) == "ab\n\nc"
    assert found.outcome.stop_cause is StopCause.MAX_THINKING_TOKENS
    assert found.text(Part.ANSWER) == CUE + " 4"
    check(found, reasoner)


async def test_a_watched_chain_is_never_touched() -> None:
    reasoner = FakeReasoner(CHAIN)
    watched = replace(policy(acts=False), answer_tokens=0)
    found = await shown(loop_of(reasoner, FakeScorer([0.99]), PLAIN, watched))
    assert found.text(Part.THINKING, Part.ANSWER) == "ab\n\nc\n\nSo it is 4."
    assert [step.verdict for step in found.steps] == [Verdict.STOP, Verdict.STOP, Verdict.CONTINUE]
    cut = FakeReasoner(CHAIN)
    found = await shown(loop_of(cut, FakeScorer([0.99]), PLAIN, replace(watched, max_tokens=4)))
    assert found.text(Part.THINKING, Part.ANSWER) == "ab\n\nc"
    assert (found.outcome.stop_cause, found.finish[0]) == (StopCause.MAX_TOKENS, "length")


async def test_a_doubted_end_is_nudged_on() -> None:
    reasoner = FakeReasoner(CHAIN, rethought=("no", "\n\n", "it is 5", ""))
    nudging = replace(policy(nudge=1), nudge_cue="Wait,", nudge_cue_ids=(11,))
    found = await shown(loop_of(reasoner, FakeScorer([0.1, 0.1, 0.1, 0.1, 0.95]), PLAIN, nudging))
    assert found.text(Part.THINKING, Part.ANSWER) == "ab\n\nc\n\nSo it is 4.Wait,no\n\nit is 5"
    assert found.outcome.nudges == 1
    check(found, reasoner)


async def test_an_answer_apart_is_asked_for_when_the_turn_ends() -> None:
    reasoner = FakeReasoner(CHAIN, answer=(" 4", ""))
    found = await shown(loop_of(reasoner, None, replace(PLAIN, answer_apart=True)))
    assert found.parts == [(Part.THINKING, "ab\n\nc\n\nSo it is 4."), (Part.ANSWER, CUE + " 4")]
    assert found.outcome.stop_cause is StopCause.NATURAL
    check(found, reasoner)


async def test_a_stop_text_ends_a_chain_that_is_content() -> None:
    reasoner = FakeReasoner(("a", "b\n", "Ques", "tion: what", " now", ""))
    found = await shown(loop_of(reasoner, None, replace(PLAIN, stops=("Question:",))))
    assert found.text(Part.THINKING, Part.ANSWER) == "ab\n"
    assert found.finish == ("stop", "Question:")
    assert reasoner.running == 0


async def test_a_tool_call_ends_a_chain_and_nothing_is_put_into_its_arguments() -> None:
    words = ("a", "\n\n", "<tool", "_call>", "{", "\n\n", "}", "</tool_call>", "")
    reasoner = FakeReasoner(words)
    scorer = FakeScorer([0.1, 0.95])
    found = await shown(loop_of(reasoner, scorer, replace(PLAIN, tool_texts=("<tool_call>",))))
    assert found.text(Part.ANSWER) == "<tool_call>{\n\n}</tool_call>"
    assert found.outcome.injected_tokens == 0
    assert len(reasoner.segments) == 1
    check(found, reasoner)


async def test_a_tool_call_ends_marked_thinking_too() -> None:
    form = MarkerTokens(open_ids=(1,), close_ids=(2,), close_text="</think>", tool_ids=((20,),))
    vocabulary = Vocabulary()
    vocabulary._words["<tool_call>"] = 20
    reasoner = FakeReasoner(("<think>", "a", "\n\n", "<tool_call>", "{", "\n\n", "}", ""), vocabulary=vocabulary)
    found = await shown(loop_of(reasoner, FakeScorer([0.1, 0.95]), form))
    assert found.text(Part.THINKING) == "a\n\n"
    assert found.text(Part.ANSWER) == "<tool_call>{\n\n}"
    assert found.outcome.injected_tokens == 0
    check(found, reasoner)


def attempts(scorers: FakeScorer, *chains: Sequence[str], **options: object) -> tuple[RethinkLoop, list[FakeReasoner]]:
    reasoners = [FakeReasoner(chain, answer=(" 7", "")) for chain in chains]
    settings = RethinkSettings(
        max_rethinks=len(chains) - 1,
        thinking_is_content=True,
        separator="[again]",
        refusal="I do not know.",
        **options,  # type: ignore[arg-type]
    )
    loop = RethinkLoop(
        lambda number: (reasoners[number], None),
        scorers,
        PLAIN,
        StepRule(),
        policy(threshold=None, accept=0.5),
        settings,
        [PROMPT],
        "question",
    )
    return loop, reasoners


async def test_rejected_chains_are_reasoning_and_the_accepted_one_is_content() -> None:
    scorer = _PerAttempt([[0.1], [0.9]])
    loop, _ = attempts(scorer, ("wrong", ""), ("right", ""))
    found = await shown(loop)
    assert found.parts == [(Part.REJECTED, "wrong[again]"), (Part.THINKING, "right"), (Part.ANSWER, "")]
    assert [own.fate for own in found.outcome.attempts] == ["rejected", "accepted"]


async def test_the_best_of_rejected_chains_answers_with_what_it_says() -> None:
    loop, _ = attempts(_PerAttempt([[0.4], [0.1]]), ("better", ""), ("worse", ""))
    found = await shown(loop)
    assert found.parts == [(Part.REJECTED, "better[again]worse"), (Part.THINKING, "better"), (Part.ANSWER, "")]
    assert found.outcome.stop_cause is StopCause.RETHINK_LIMIT
    assert found.outcome.injected_tokens == 0, "nothing is forced: the chain holds its answer"


async def test_nobody_answers_where_all_chains_are_rejected_and_abstaining_is_asked_for() -> None:
    loop, reasoners = attempts(_PerAttempt([[0.4], [0.1]]), ("one", ""), ("two", ""), on_exhausted="abstain")
    found = await shown(loop)
    assert (found.text(Part.ANSWER), found.text(Part.REFUSAL)) == ("", "I do not know.")
    assert found.text(Part.REJECTED) == "one[again]two"
    assert found.outcome.stop_cause is StopCause.ABSTAINED
    assert all(reasoner.running == 0 for reasoner in reasoners)


class _PerAttempt(FakeScorer):
    """Scores of each attempt in turn."""

    def __init__(self, scores: list[list[float]]) -> None:
        super().__init__([])
        self._turns = iter(scores)

    def session(self, question: str, probe: object = None, cache_salt: str | None = None) -> FakeScorer:
        return FakeScorer(next(self._turns))


# Channels ------------------------------------------------------------------------------------------------------

IDS = {"start": 40, "channel": 41, "message": 42, "end": 43}
NAMES = {40: "<|start|>", 41: "<|channel|>", 42: "<|message|>", 43: "<|end|>"}
HARMONY_VOCABULARY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")


HARMONY_PROMPT = (40, 44)


def harmony() -> tuple[Channels, Vocabulary]:
    vocabulary = Vocabulary()
    vocabulary._words["assistant"] = 44
    for name, token_id in zip(HARMONY_VOCABULARY, (40, 41, 42, 43), strict=True):
        vocabulary._words[name] = token_id
    form = Channels(
        close_ids=(43, 40, 41, 42),
        close_text="",
        skip_ids=(41, 42),
        ids=IDS,
        decode=lambda ids: vocabulary.text(list(ids)),
        header=HARMONY_PROMPT,
    )
    return form, vocabulary


ANALYSIS = ("<|channel|>", "analysis", "<|message|>", "a", "\n\n", "b", "<|end|>", "<|start|>", "assistant")


async def test_a_change_of_channel_ends_the_thinking() -> None:
    form, vocabulary = harmony()
    words = (*ANALYSIS, "<|channel|>", "final", "<|message|>", "It is 4", "")
    reasoner = FakeReasoner(words, vocabulary=vocabulary)
    found = await shown(loop_of(reasoner, FakeScorer([0.1]), form, prompt=HARMONY_PROMPT))
    assert found.text(Part.THINKING) == "a\n\nb"
    assert found.text(Part.ANSWER) == "It is 4"
    assert len(reasoner.segments) == 1
    check(found, reasoner)


async def test_a_stop_opens_the_final_channel() -> None:
    form, vocabulary = harmony()
    reasoner = FakeReasoner((*ANALYSIS, "<|channel|>", "final", "<|message|>", "no", ""), vocabulary=vocabulary)
    found = await shown(loop_of(reasoner, FakeScorer([0.95]), form, prompt=HARMONY_PROMPT))
    assert found.text(Part.THINKING) == "a\n\n"
    assert found.text(Part.ANSWER) == "The answer is 4"
    assert reasoner.segments[-1].ids[-4:] == [43, 40, 41, 42]
    check(found, reasoner)


@pytest.mark.parametrize(
    ("header", "text"), [((" to=f", "<|channel|>", "commentary"), "{}"), (("<|channel|>", "final"), "4")]
)
async def test_an_answer_without_thinking_is_an_answer(header: tuple[str, ...], text: str) -> None:
    form, vocabulary = harmony()
    reasoner = FakeReasoner((*header, "<|message|>", text, ""), vocabulary=vocabulary)
    found = await shown(loop_of(reasoner, FakeScorer([0.1]), form, prompt=HARMONY_PROMPT))
    assert found.text(Part.THINKING) == ""
    assert found.text(Part.ANSWER).endswith(text)


@pytest.mark.parametrize(
    "header",
    [
        ("<|channel|>", "commentary", " to=functions.f", " json"),
        (" to=functions.f", "<|channel|>", "commentary", " json"),
        ("<|channel|>", "analysis", " to=functions.f", " json"),
    ],
)
async def test_a_call_behind_the_thinking_ends_it_and_its_header_is_a_marker(header: tuple[str, ...]) -> None:
    form, vocabulary = harmony()
    reasoner = FakeReasoner((*ANALYSIS, *header, "<|message|>", "{}", ""), vocabulary=vocabulary)
    found = await shown(loop_of(reasoner, FakeScorer([0.1]), form, prompt=HARMONY_PROMPT))
    assert (found.text(Part.THINKING), found.text(Part.ANSWER)) == ("a\n\nb", "{}")
    assert found.text(Part.MARKER).endswith("".join(header) + "<|message|>")
    assert (len(reasoner.segments), found.outcome.injected_tokens) == (1, 0)
    check(found, reasoner)


@pytest.mark.parametrize("recipient", ["", " to=python"])
async def test_headers_inside_the_thinking_are_markers_and_nobody_judges_them(recipient: str) -> None:
    form, vocabulary = harmony()
    more = ("<|channel|>", "analysis", recipient or " ", "<|message|>", "c", "\n\n", "d", *ANALYSIS[6:])
    words = (*ANALYSIS, *more, "<|channel|>", "final", "<|message|>", "It is 4", "")
    reasoner, scorer = FakeReasoner(words, vocabulary=vocabulary), FakeScorer([0.1])
    found = await shown(loop_of(reasoner, scorer, form, prompt=HARMONY_PROMPT))
    assert (found.text(Part.THINKING), found.text(Part.ANSWER)) == ("a\n\nbc\n\nd", "It is 4")
    assert [boundary.text for boundary in scorer.seen] == ["a\n\n", "bc\n\n", "d"]
    check(found, reasoner)


# Lateness ------------------------------------------------------------------------------------------------------


async def test_what_lateness_may_have_cost_is_told() -> None:
    form = MarkerTokens(open_ids=(1,), close_ids=(2,), close_text="</think>")
    words = ("<think>", "a", "\n\n", "b", "c", "\n\n", "d", "\n\n", "</think>", "4", "")
    late = replace(SETTINGS, deadline=0.01)
    found = await shown(loop_of(FakeReasoner(words), FakeScorer([None, 0.1, 0.1, 0.1]), form, late))
    assert found.outcome.late == 1
    assert found.outcome.late_tokens == 5, "what was thought behind the boundary whose verdict came too late"
    in_time = await shown(loop_of(FakeReasoner(words), FakeScorer([0.1]), form))
    assert in_time.outcome.late_tokens == 0


# Given thinking ------------------------------------------------------------------------------------------------


async def test_thinking_that_the_client_gives_is_judged_with_what_follows() -> None:
    texts = {60: "12 + 24", 61: " = 36.\n\n", 1: "<think>"}
    form = MarkerTokens(
        open_ids=(1,),
        close_ids=(2,),
        close_text="</think>",
        header=(PROMPT,),
        decode=lambda ids: "".join(texts.get(own, "") for own in ids),
    )
    scorer = FakeScorer([0.1])
    reasoner = FakeReasoner(("a", "\n\n", "</think>", "4", ""))
    found = await shown(loop_of(reasoner, scorer, form, prompt=[PROMPT, 1, 60, 61]))
    assert scorer.seen[0].steps == ("12 + 24 = 36.\n\n", "a\n\n")
    assert scorer.seen[0].features is None, "the given thinking's probabilities are not known"
    assert found.outcome.thinking_tokens == 2, "what is given was not thought here"


async def test_white_space_before_the_answer_comes_without_stop_texts() -> None:
    form = MarkerTokens(open_ids=(1,), close_ids=(2,), close_text="</think>")
    reasoner = FakeReasoner(
        ("<think>", "a", "\n\n", "b", ""), rethought=("\n\n", "The", " end", ""), answer=("The end", "")
    )
    careful = replace(SETTINGS, separate_answer=True, blank_before_answer=True)
    found = await shown(loop_of(reasoner, FakeScorer([0.95]), form, careful))
    phases = [segment.phase for segment in reasoner.segments]
    assert phases == [Phase.THINK, Phase.THINK, Phase.ANSWER]
    assert found.text(Part.ANSWER) == "\n\nThe end"
    assert reasoner.segments[-1].ids[-1] == reasoner.vocabulary.token("\n\n").id
    check(found, reasoner)


@pytest.mark.parametrize("most", range(1, 12))
@pytest.mark.parametrize("group", [1, 3, 8])
def test_words_that_come_with_the_blank_are_within_max_tokens(most: int, group: int) -> None:
    form = MarkerTokens(open_ids=(1,), close_ids=(2,), close_text="</think>")
    thinking = ("<think>", "a", "b", "c", "d", "e", "f", "g", "h")
    blank = ("\n\n", "The", " end", " of", " it", " all", "")
    reasoner = FakeReasoner(thinking, rethought=blank, answer=("The end", " of", " it", " all", ""), group=group)
    careful = replace(SETTINGS, max_tokens=most, separate_answer=True, blank_before_answer=True)
    found = asyncio.run(shown(loop_of(reasoner, FakeScorer([0.1]), form, careful)))
    assert found.outcome.generated_tokens <= most
    assert found.outcome.answer_tokens > 0
    check(found, reasoner)

"""Reasoning formats: where a turn stands, and how its markers are found whatever the tokens cut."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drr.loop.formats import MarkerTokens, Part, PlainChain, ReasoningFormat, TextMarkers, TurnState
from drr.loop.reasoner import Token
from drr.loop.scanners import Found, IdScanner, Mark, Scanner, TextScanner

HEADER, OPEN, CLOSE, WORD, BLANK, USER, TOOL, RESULT = 100, 1, 2, 50, 51, 101, 3, 102
_TEXTS = {HEADER: "<|assistant|>", OPEN: "<think>", CLOSE: "</think>", WORD: "word", BLANK: "\n", USER: "<|user|>"}


def decode(ids: object) -> str:
    return "".join(_TEXTS.get(own, "?") for own in ids)  # type: ignore[attr-defined]


MARKERS = MarkerTokens(
    open_ids=(OPEN,), close_ids=(CLOSE,), close_text="</think>", header=(HEADER,), decode=decode, tool_ids=((TOOL,),)
)
TEXT = TextMarkers(
    open_text="<think>",
    open_ids=(OPEN,),
    close_ids=(CLOSE,),
    close_text="</think>",
    skip_ids=(OPEN, CLOSE),
    header=(HEADER,),
    decode=decode,
)
PLAIN = PlainChain(close_ids=(7,), close_text="\n\nThe answer is", header=(HEADER,), decode=decode)


@pytest.mark.parametrize("form", [MARKERS, TEXT])
@pytest.mark.parametrize(
    ("prompt", "state", "prefilled"),
    [
        ([USER, WORD, HEADER], TurnState.UNDECIDED, ()),
        ([USER, WORD, HEADER, BLANK], TurnState.UNDECIDED, ()),
        ([USER, WORD, HEADER, OPEN, BLANK], TurnState.OPEN, ()),
        ([USER, WORD, HEADER, OPEN, BLANK, CLOSE], TurnState.CLOSED, ()),
        ([USER, WORD, HEADER, OPEN, WORD, BLANK], TurnState.OPEN, (WORD, BLANK)),
        ([USER, WORD, HEADER, WORD], TurnState.CLOSED, ()),
        # Earlier turns and quoted markers say nothing of this one.
        ([USER, OPEN, WORD, CLOSE, HEADER], TurnState.UNDECIDED, ()),
        ([HEADER, OPEN, WORD, CLOSE, WORD, USER, WORD, HEADER], TurnState.UNDECIDED, ()),
        ([HEADER, OPEN, WORD, CLOSE, WORD, USER, OPEN, HEADER, OPEN], TurnState.OPEN, ()),
        ([USER, CLOSE, HEADER, OPEN], TurnState.OPEN, ()),
    ],
)
def test_the_state_is_read_from_the_last_assistant_turn(
    form: ReasoningFormat, prompt: list[int], state: TurnState, prefilled: tuple[int, ...]
) -> None:
    start = form.start(prompt)
    assert (start.state, start.prefilled) == (state, prefilled)


def test_without_a_known_turn_the_last_marker_decides_and_text_does_not() -> None:
    form = MarkerTokens(open_ids=(OPEN,), close_ids=(CLOSE,), close_text="</think>", decode=decode)
    assert form.start([WORD]).state is TurnState.UNDECIDED
    assert form.start([WORD, OPEN, WORD]).state is TurnState.OPEN
    assert form.start([OPEN, WORD, CLOSE, WORD]).state is TurnState.CLOSED


@pytest.mark.parametrize("form", [MARKERS, TEXT, PLAIN])
def test_a_turn_may_begin_behind_a_tools_result_without_a_header(form: ReasoningFormat) -> None:
    form = replace(form, tool_header=(RESULT, USER))
    known = TurnState.OPEN if isinstance(form, PlainChain) else TurnState.UNDECIDED
    prompt = [USER, WORD, HEADER, OPEN, WORD, CLOSE, WORD, CLOSE, RESULT, USER]
    assert (form.start(prompt).state, form.start(prompt).prefilled) == (known, ())
    assert form.start([*prompt, OPEN]).state is TurnState.OPEN
    assert form.start([*prompt, USER, WORD, HEADER]).state is known


def test_a_prompt_is_made_to_think_or_to_answer_at_once() -> None:
    assert MARKERS.think([USER, HEADER]) == [USER, HEADER, OPEN]
    assert MARKERS.think([USER, HEADER, OPEN]) == [USER, HEADER, OPEN]
    assert MARKERS.answer_at_once([USER, HEADER]) == [USER, HEADER, OPEN, CLOSE]
    assert MARKERS.answer_at_once([USER, HEADER, OPEN]) == [USER, HEADER, OPEN, CLOSE]
    assert MARKERS.answer_at_once([USER, HEADER, OPEN, CLOSE]) == [USER, HEADER, OPEN, CLOSE]
    assert PLAIN.think([USER, HEADER]) == PLAIN.answer_at_once([USER, HEADER]) == [USER, HEADER]


@pytest.mark.parametrize("form", [MARKERS, TEXT])
def test_the_answer_lies_behind_the_thinking(form: ReasoningFormat) -> None:
    def output(*ids: int) -> list[Token]:
        return [Token(own, _TEXTS.get(own, "")) for own in ids]

    assert form.behind_thinking([HEADER, OPEN], output(WORD, CLOSE, WORD)) == 2
    assert form.behind_thinking([HEADER], output(OPEN, WORD, CLOSE, WORD)) == 3
    assert form.behind_thinking([HEADER], output(WORD, WORD)) == 0
    assert form.behind_thinking([HEADER, OPEN], output(WORD, WORD)) is None
    assert form.behind_thinking([HEADER, OPEN, CLOSE], output(WORD)) == 0


def test_a_plain_chain_is_always_open_and_what_is_given_of_it_is_thinking() -> None:
    assert PLAIN.start([USER, WORD, HEADER]).state is TurnState.OPEN
    assert PLAIN.start([USER, WORD, HEADER, BLANK]).prefilled == ()
    assert PLAIN.start([USER, WORD, HEADER, WORD]).prefilled == (WORD,)
    assert PLAIN.turn_holds_answer
    assert PLAIN.close_part is Part.ANSWER
    assert PLAIN.answer_prefix == "The answer is"


# Scanners ------------------------------------------------------------------------------------------------------


def tokens_of(text: str, cuts: list[int]) -> list[Token]:
    """The text cut at these places."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [Token(place, text[place:end]) for place, end in itertools.pairwise(places)]


def first_found(scanner: Scanner, tokens: list[Token]) -> tuple[int, Found] | None:
    for place, token in enumerate(tokens):
        found = scanner.feed(token)
        if found is not None:
            return place, found
    return None


@given(
    st.text(alphabet="ab</>thinko \n", max_size=20),
    st.text(alphabet="ab</>thinko \n", max_size=20),
    st.lists(st.integers(0, 60), max_size=25),
)
def test_a_text_marker_is_found_however_it_is_cut(before: str, behind: str, cuts: list[int]) -> None:
    text = before + "</think>" + behind
    tokens = tokens_of(text, cuts)
    found = first_found(TextScanner({"</think>": Mark.CLOSES}), tokens)
    assert found is not None
    place, mark = found
    first = place + 1 - mark.tokens
    thought = "".join(token.text for token in tokens[:first]) + mark.before
    said = mark.behind + "".join(token.text for token in tokens[place + 1 :])
    assert thought + "</think>" + said == text
    assert thought == text[: text.index("</think>")], "the first one counts"


@given(st.text(alphabet="ab</>thinko \n", max_size=40), st.lists(st.integers(0, 60), max_size=25))
def test_what_may_begin_a_marker_is_held_and_nothing_else(text: str, cuts: list[int]) -> None:
    marker, scanner, seen = "</think>", TextScanner({"</think>": Mark.CLOSES}), list[Token]()
    for token in tokens_of(text, cuts):
        seen.append(token)
        if scanner.feed(token) is not None:
            return
        held = "".join(own.text for own in seen[len(seen) - scanner.held :])
        whole = "".join(own.text for own in seen)
        begun = max((size for size in range(len(marker)) if whole.endswith(marker[:size])), default=0)
        assert len(held) >= begun
        rest = "".join(own.text for own in seen[len(seen) - scanner.held + 1 :]) if scanner.held else ""
        assert len(rest) < begun or not scanner.held


@given(st.lists(st.sampled_from([1, 2, 3, 9]), max_size=30))
def test_id_sequences_are_found_where_they_first_end(ids: list[int]) -> None:
    marker = (1, 2, 1, 3)
    expected = next((end for end in range(4, len(ids) + 1) if tuple(ids[end - 4 : end]) == marker), None)
    found = first_found(IdScanner({marker: Mark.CLOSES}), [Token(own, "") for own in ids])
    assert (None if found is None else found[0] + 1) == expected


def test_a_tool_call_is_an_end_that_stays_in_the_answer() -> None:
    scanner = MARKERS.closing()
    assert scanner.feed(Token(WORD, "word")) is None
    found = scanner.feed(Token(TOOL, "<tool_call>"))
    assert found is not None
    assert (found.mark, found.tokens) == (Mark.TOOL_CALL, 1)

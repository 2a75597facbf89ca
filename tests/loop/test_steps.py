"""The segmenter: whole tokens, the same steps however the text is cut."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drr.loop.steps import Step, StepRule, StepSegmenter

KINDS = ["blank_line", "line", "sentence", "marker", "tokens:3", "attempt"]
PIECES = st.lists(
    st.sampled_from(["a", " b", ".", "\n", "\n\n", ".\n\n", " ", "Wait", " Wait", ",", "Wa", "it", " Waiting", "?"]),
    max_size=30,
)


def steps_of(pieces: list[str], rule: str) -> list[Step]:
    segmenter = StepSegmenter(StepRule.parse(rule))
    steps = [step for piece in pieces if (step := segmenter.feed(piece)) is not None]
    last = segmenter.finish()
    return [*steps, last] if last is not None else steps


@given(pieces=PIECES, rule=st.sampled_from(KINDS))
def test_steps_tile_the_text(pieces: list[str], rule: str) -> None:
    steps = steps_of(pieces, rule)
    assert [step.start for step in steps] == [0, *(step.end for step in steps)][: len(steps)]
    for step in steps:
        assert step.text == "".join(pieces[step.start : step.end])
        assert step.text.strip()
    rest = "".join(pieces[steps[-1].end if steps else 0 :])
    assert not rest.strip()


@given(pieces=PIECES, data=st.data())
def test_tokenisation_moves_a_boundary_to_its_tokens_end_and_no_further(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    boundaries = [step.end for step in steps_of(list(text), "blank_line")]  # one token per character
    cuts = data.draw(st.sets(st.integers(0, len(text)), max_size=12)) | {0, len(text)}
    edges = sorted(cuts)
    tokens = [text[a:b] for a, b in itertools.pairwise(edges)]
    ends = list(itertools.accumulate(map(len, tokens)))
    closed = {ends[step.end - 1] for step in steps_of(tokens, "blank_line")}
    token_end = {boundary: min(end for end in ends if end >= boundary) for boundary in boundaries}
    assert closed <= set(token_end.values())
    for boundary, end in token_end.items():
        if end not in closed:  # all its text came in the token that closed the step before
            assert not text[max(other for other in closed if other < end) : boundary].strip()


def test_a_boundary_inside_a_token_closes_at_its_end() -> None:
    assert [step.text for step in steps_of(["a", ".\n\nb", "c"], "blank_line")] == ["a.\n\nb", "c"]


def test_blank_lines_alone_are_no_step() -> None:
    assert [step.text for step in steps_of(["\n\n", "a", "\n", "\n", "\n\n", "b"], "blank_line")] == [
        "\n\na\n\n",
        "\n\nb",
    ]


def test_sentences_end_before_the_white_space_that_follows() -> None:
    assert [step.text for step in steps_of(["It", " is", " 3", ".", "5", ".", " No", "!", "\n", "x"], "sentence")] == [
        "It is 3.5.",
        " No!",
        "\nx",
    ]


def test_a_sentence_may_end_in_the_token_that_breaks_the_line() -> None:
    assert [step.text for step in steps_of(["It", " is", " 3", ".\n\n", "No", ".\n", "x"], "sentence")] == [
        "It is 3.\n\n",
        "No.\n",
        "x",
    ]


def test_the_number_of_a_list_item_ends_no_sentence() -> None:
    pieces = ["1", ".", " First", ".\n", "2", ".", " Then", " 12", ".", " So", "\n", "10", ".", " x"]
    assert [step.text for step in steps_of(pieces, "sentence")] == ["1. First.\n", "2. Then 12.", " So\n10. x"]


def test_a_flood_of_blank_lines_costs_no_more_than_its_length() -> None:
    segmenter = StepSegmenter(StepRule())
    started = time.perf_counter()
    assert all(segmenter.feed("\n") is None for _ in range(200_000)), "nothing has been said yet"
    assert time.perf_counter() - started < 5


def test_markers_are_whole_words_at_a_step_start() -> None:
    pieces = ["It is 4.", " Wa", "it", ",", " no", " Waiting", " x", " Wait", " y"]
    assert [step.text for step in steps_of(pieces, "marker")] == ["It is 4.", " Wait, no Waiting x", " Wait y"]


def test_a_possible_marker_is_held() -> None:
    segmenter = StepSegmenter(StepRule("marker"))
    segmenter.feed("It is 4.")
    assert segmenter.held_from is None
    segmenter.feed(" Wa")
    assert segmenter.held_from == 1
    segmenter.feed("ste")
    assert segmenter.held_from is None


def test_tokens_rule_counts() -> None:
    assert [(step.start, step.end) for step in steps_of(["a"] * 7, "tokens:3")] == [(0, 3), (3, 6), (6, 7)]


@pytest.mark.parametrize("text", ["nope", "tokens:x", "tokens:0", "sentence:3"])
def test_bad_rules_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"step rule|every"):
        StepRule.parse(text)


@pytest.mark.parametrize("text", KINDS)
def test_rules_survive_their_names(text: str) -> None:
    assert str(StepRule.parse(text)) == text

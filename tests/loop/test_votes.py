"""Votes: who agrees with whom, how much that is worth, and who is elected."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drr.loop.policy import PolicySettings, Score, rejects
from drr.loop.votes import Votes, same_answer

VOTE = st.tuples(st.sampled_from(["The answer is 3.", "The answer is 5.", "I do not know."]), st.floats(0, 1))


def votes(*made: tuple[str, float | None]) -> Votes:
    found = Votes()
    for thinking, p_now in made:
        found.add(thinking, p_now)
    return found


def test_attempts_with_the_same_answer_are_believed_together() -> None:
    found = votes(("So the answer is 3.", 0.4), ("The answer is 5.", 0.9), ("Answer: 3.0", 0.5))
    assert found.doubt("The answer is 3.") == pytest.approx(0.6 * 0.5)
    assert found.doubt("The answer is 5.") == pytest.approx(0.1)
    assert found.doubt("The answer is 7.") == found.doubt("I am not sure.") == 1.0


def test_the_answer_with_the_most_behind_it_is_given_by_its_surest_attempt() -> None:
    assert votes(("The answer is 3.", 0.3), ("The answer is 5.", 0.5), ("The answer is 3.", 0.4)).elected() == 2
    assert votes(("The answer is 3.", 0.3), ("The answer is 5.", 0.8), ("The answer is 3.", 0.4)).elected() == 1
    assert votes(("Hm.", 0.3), ("Hm.", 0.4), ("The answer is 5.", 0.5)).elected() == 2, "who says nothing backs nobody"
    assert votes(("The answer is 3.", None), ("The answer is 5.", 0.1)).elected() == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The  Bank.", "the bank", True),
        ("3", "3.0", True),
        ("$1,200", "1200 dollars", True),
        ("\N{MINUS SIGN}5", "-5", True),
        ("(b) bank", "B", True),
        ("No, it is not.", "no", True),
        ("yes", "true", True),
        ("3", "5", False),
        ("3 or 5", "3", False),
        ("A dog", "A", False),
        ("B", "C", False),
        ("yes", "no", False),
        ("the north", "the south", False),
    ],
)
def test_answers_are_the_same_whatever_their_form(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other) is same_answer(other, one) is same


@given(st.lists(VOTE, max_size=5), VOTE, st.floats(0, 1))
def test_agreement_only_ever_helps(made: list[tuple[str, float]], last: tuple[str, float], accept: float) -> None:
    doubt = votes(*made).doubt(last[0])
    assert 0 <= doubt <= 1
    agreeing = [p_now for text, p_now in made if text == last[0] and "answer" in text]
    assert doubt == pytest.approx(math.prod(1 - p_now for p_now in agreeing))
    settings, scores = PolicySettings(accept=accept), [Score(last[1], 0.5)]
    assert rejects(settings, scores, lambda: doubt) <= rejects(settings, scores)


@given(st.lists(VOTE, min_size=1, max_size=5))
def test_whoever_is_elected_has_the_most_behind_it(made: list[tuple[str, float]]) -> None:
    sums = [
        sum(p for at, (other, p) in enumerate(made) if at == number or (other == text and "answer" in text))
        for number, (text, _) in enumerate(made)
    ]
    assert sums[votes(*made).elected()] == pytest.approx(max(sums))

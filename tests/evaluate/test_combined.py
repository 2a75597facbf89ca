"""Several samples as one answer: who votes, who is believed, and what it costs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drr.evaluate.combined import LIKE_ONE_SAMPLE, Combined, combined
from drr.evaluate.run import Row
from drr.tasks.grading_pool import Grading

Sample = tuple[str, float]


def question(number: int, *samples: Sample, gold: str = "7") -> list[Row]:
    return [
        Row(number, "all", place, answer, answer == gold, 100, 50, 0, 1, p_now, 0, "natural")
        for place, (answer, p_now) in enumerate(samples)
    ]


def ways(*questions: list[Row]) -> dict[str, Combined]:
    with Grading("auto") as grading:
        return {way.name: way for way in combined(questions, grading)}


def picked(way: Combined) -> list[int]:
    return [row.sample for row in way.picked]


def test_votes_of_the_dm_outweigh_votes_of_the_many() -> None:
    found = ways(question(0, ("3", 0.1), ("7", 0.8), ("3", 0.2), ("5", 0.3)))
    assert picked(found["self-consistency, 4"]) == [0]
    assert picked(found["best of 4 by DM"]) == [1]
    assert picked(found["vote of 4 by DM"]) == [1]
    together = ways(question(0, ("3", 0.4), ("7", 0.6), ("3", 0.4), ("5", 0.3)))
    assert picked(together["best of 4 by DM"]) == [1]
    assert picked(together["vote of 4 by DM"]) == [0], "two that agree are believed more than one that is surer"
    assert picked(together["vote of 2 by DM"]) == [1]


def test_no_more_is_drawn_once_two_agree() -> None:
    found = ways(
        question(0, ("3", 0.1), ("3", 0.1), ("7", 0.9), ("7", 0.9)),
        question(1, ("3", 0.1), ("5", 0.1), ("7", 0.1), ("5", 0.9)),
        question(2, ("3", 0.1), ("5", 0.2), ("7", 0.4), ("9", 0.3)),
    )
    alone, by_dm = found["until two agree, 4"], found["until two agree, or best of 4 by DM"]
    assert [len(rows) for rows in alone.drawn] == [len(rows) for rows in by_dm.drawn] == [2, 4, 4]
    assert picked(alone) == [0, 1, 0]
    assert picked(by_dm) == [0, 1, 2], "the DM is asked where no two agree"
    assert alone.share is None
    three = found["until two agree, 3"]
    assert [len(rows) for rows in three.drawn] == [2, 3, 3]
    assert found["self-consistency, 3"].share == 0.75


def test_answers_that_are_the_same_value_vote_together() -> None:
    found = ways(question(0, ("9", 0.1), ("7", 0.1), ("The answer is 7.0", 0.1)))
    assert picked(found["self-consistency, 3"]) == [1]


def test_without_scores_nothing_is_judged_and_without_answers_the_first_is_taken() -> None:
    found = ways(question(0, ("", math.nan), ("", math.nan), ("", math.nan)))
    assert not [name for name in found if "DM" in name]
    assert {index for way in found.values() for index in picked(way)} == {0}


SAMPLES = st.lists(st.tuples(st.sampled_from(["3", "5", "7", ""]), st.floats(0, 1)), min_size=4, max_size=4)


@given(st.lists(SAMPLES, min_size=1, max_size=3))
def test_every_way_answers_by_a_sample_that_it_paid_for(drawn: list[list[Sample]]) -> None:
    asked = [question(number, *samples) for number, samples in enumerate(drawn)]
    found = ways(*asked)
    families = {way.family for way in found.values()}
    assert families == {*LIKE_ONE_SAMPLE, "any of k (oracle)"}
    for way in found.values():
        for rows, row, every in zip(way.drawn, way.picked, asked, strict=True):
            assert row in rows
            assert rows == every[: len(rows)]
            assert len(rows) >= 2
    for count in (2, 3, 4):
        oracle = [row.right for row in found[f"any of {count} (oracle)"].picked]
        assert oracle == [any(row.right for row in rows[:count]) for rows in asked]


@pytest.mark.parametrize("family", LIKE_ONE_SAMPLE)
def test_families_that_one_sample_belongs_to_exist(family: str) -> None:
    assert family in {way.family for way in ways(question(0, ("3", 0.1), ("7", 0.2), ("7", 0.3))).values()}

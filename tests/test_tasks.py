"""The procedural questions: solvable as stated, and never in two splits."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drr.reference.pretrain import training_documents
from drr.reference.suite import SIZES, reference_questions
from drr.reference.traces import LATE_MIXTURE
from drr.tasks import Split, split_of
from drr.tasks.arithmetic import apply, make_problem


@given(seed=st.integers(0, 10_000), size=st.integers(2, 8))
def test_operations_solve_the_question(seed: int, size: int) -> None:
    problem = make_problem(random.Random(seed), size)
    assert len(problem.operations) == problem.question.difficulty == size
    results: list[int] = []
    for operation in problem.operations:
        for operand, source in ((operation.left, operation.left_from), (operation.right, operation.right_from)):
            if source is None:
                assert str(operand) in problem.question.text
            else:
                assert operand == results[source]
        assert apply(operation.left, operation.operator, operation.right) == operation.result > 0
        results.append(operation.result)
    assert problem.question.answer == str(results[-1])


def test_bare_expressions_are_true() -> None:
    found = 0
    for seed in range(300):
        question = make_problem(random.Random(seed)).question
        if question.family == "expression":
            expression = question.text.removeprefix("What is ").removesuffix("?")
            assert eval(expression) == int(question.answer)  # generated here, digits and signs only
            found += 1
    assert found > 20


def test_sizes_outside_the_range_are_refused() -> None:
    with pytest.raises(ValueError, match="operations must be 2 to 8"):
        make_problem(random.Random(0), 9)


def test_splits_never_meet() -> None:
    sets = {split: {question.text for question in reference_questions(split)} for split in Split}
    assert {split: len(texts) for split, texts in sets.items()} == SIZES
    trained_on = {item.question for item, _ in zip(_documents(), range(20_000), strict=False)}
    for split, texts in sets.items():
        assert all(split_of(text) is split for text in texts)
        for other, others in sets.items():
            assert split is other or not texts & others
        assert split is Split.TRAIN or not texts & trained_on


def _documents():  # type: ignore[no-untyped-def]
    return training_documents(random.Random(0), LATE_MIXTURE)


def test_the_split_ignores_case_and_white_space() -> None:
    assert split_of("What is  2 + 2?") is split_of("what is 2 + 2?")


def test_reference_questions_are_fixed_and_balanced() -> None:
    test = reference_questions(Split.TEST)
    assert test == reference_questions(Split.TEST)
    sizes = [question.difficulty for question in test]
    assert {sizes.count(size) for size in range(2, 9)} <= {71, 72}

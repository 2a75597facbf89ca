"""Generated questions can be solved as stated, and none is in two splits."""

import hashlib
import random
import re
import unicodedata
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drr import reference
from drr.judge.dm_folder import read_trained_on
from drr.judge.head import Kind
from drr.learn.records import question_key
from drr.reference.pretrain import training_documents
from drr.reference.traces import LATE_MIXTURE
from drr.tasks import Split, countdown, logic, split_of
from drr.tasks.arithmetic import apply, make_problem
from drr.tasks.grading import is_correct
from drr.tasks.questions import first_spellings, folded
from drr.tasks.reference_suite import LEVELS, SIZES, reference_questions


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
    with pytest.raises(ValueError, match="operations must be 2 to 10"):
        make_problem(random.Random(0), 11)


@given(seed=st.integers(0, 3000), size=st.integers(3, 5))
def test_countdown_puzzles_have_the_solution_they_carry(seed: int, size: int) -> None:
    puzzle = countdown.make_puzzle(random.Random(seed), size)
    stated = countdown.expression(puzzle.numbers, puzzle.solution)
    assert len(puzzle.numbers) == puzzle.question.difficulty == size
    assert countdown.read_gold(puzzle.question.answer) == (puzzle.target, list(puzzle.numbers))
    assert is_correct(f"The answer is {stated}.", puzzle.question.answer)
    assert not is_correct(f"The answer is {stated}+1.", puzzle.question.answer)
    assert not is_correct(f"The answer is {puzzle.target}.", puzzle.question.answer)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("4*(5+1)", True),
        ("(1+5)*4", True),
        ("4*5+1*4", False),
        ("4*6", False),
        ("24", False),
        ("4*(5+1))", False),
        ("4*(5+1)/(5-5)", False),
        ("__import__('os')", False),
        ("9**9**9", False),
        ("(" * 5000, False),
        ("", False),
    ],
)
def test_countdown_answers_are_checked_and_never_run(text: str, right: bool) -> None:
    assert countdown.makes(text, 24, [1, 4, 5]) is right


def solved(puzzle: logic.Puzzle) -> str:
    """The answer to the puzzle, from the question alone."""
    text = puzzle.question.text
    if puzzle.question.family == "row":
        person = re.findall(r"(\w+) is first", text)[0]
        behind = dict(re.findall(r"Behind (\w+) stands (\w+)", text))
        for _ in range(len(puzzle.inferences)):
            person = behind[person]
        return str(person)
    if puzzle.question.family == "walk":
        steps = [(int(count), way) for count, way in re.findall(r"Then (\d+) (\w+)", text)]
        x, y = (
            sum(n * (w == plus) - n * (w == minus) for n, w in steps)
            for plus, minus in (("right", "left"), ("up", "down"))
        )
        return f"{x} {y}"
    said = {
        who: (of, how == "never") for who, of, how in re.findall(r"(\w+) says that (\w+) (never|always) lies", text)
    }
    person, how = re.findall(r"(?<!that )\b(\w+) (never|always) lies\.", text)[0]
    honest = how == "never"
    while person in said:
        person, claim = said[person]
        honest = claim == honest
    return "never" if honest else "always"


@given(seed=st.integers(0, 5000), size=st.integers(3, 8))
def test_logic_puzzles_are_solved_by_what_they_tell(seed: int, size: int) -> None:
    puzzle = logic.make_puzzle(random.Random(seed), size)
    assert puzzle.options[puzzle.letter] == solved(puzzle)
    assert len(set(puzzle.options.values())) == len(puzzle.options)
    assert is_correct(f"The answer is {puzzle.letter}.", puzzle.question.answer)
    last = puzzle.inferences[-1]
    assert last.conclusion not in last.wrong
    assert re.search(rf" {solved(puzzle)} {puzzle.letter}[,.]", puzzle.question.text)
    ends = [text.split()[-1][-1] for text in puzzle.options.values()]
    assert puzzle.question.family != "walk" or len(set(ends)) == len(ends) == 4


@pytest.mark.parametrize("task", [countdown, logic])
def test_every_task_gives_distinct_questions_of_its_split(task: Any) -> None:
    drawn = task.questions(5, Split.TEST, 40)
    assert len({question.text for question in drawn}) == 40
    assert {question.split for question in drawn} == {Split.TEST}
    assert drawn == task.questions(5, Split.TEST, 40)
    assert drawn != task.questions(6, Split.TEST, 40)
    with pytest.raises(ValueError, match="size must be 3"):
        task.make_puzzle(random.Random(0), 2)


def test_splits_never_meet() -> None:
    sets = {split: {question.text for question in reference_questions(split)} for split in Split}
    levels = {Split.TRAIN: 6, Split.CALIBRATION: 6, Split.VALIDATION: 9, Split.TEST: 9}
    assert all(len(sets[split]) == SIZES[split] * levels[split] for split in Split)
    documents = (item for item, _ in zip(_documents(), range(20_000), strict=False))
    trained_on = {item.question.partition("\n\nProposed answer:")[0] for item in documents}
    for split, texts in sets.items():
        assert all(split_of(text) is split for text in texts)
        for other, others in sets.items():
            assert split is other or not texts & others
        assert split is Split.TRAIN or not texts & trained_on


def _documents():  # type: ignore[no-untyped-def]
    return training_documents(random.Random(0), LATE_MIXTURE)


def test_the_split_ignores_case_and_white_space() -> None:
    assert split_of("What is  2 + 2?") is split_of("what is 2 + 2?")


SPACES = ["  ", "\t", "\r\n", "\u00a0", "\u2003", "\u3000", "\u2028", " \u200b"]
INVISIBLE = ["\u200b", "\ufeff", "\u00ad", "\u2060", "\u200e", "\ufe0f"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(text=TEXTS, data=st.data())
def test_every_spelling_of_a_question_folds_to_the_same(text: str, data: st.DataObject) -> None:
    space, unseen = data.draw(st.sampled_from(SPACES)), data.draw(st.sampled_from(INVISIBLE))
    place = data.draw(st.integers(0, len(text)))
    spellings = [
        text.replace(" ", space),
        space + text + space,
        text[:place] + unseen + text[place:],
        unicodedata.normalize("NFD", text),
        unicodedata.normalize("NFC", text),
        text.casefold(),
        folded(text),
    ]
    assert {folded(spelling) for spelling in spellings} == {folded(text)}
    assert {split_of(spelling) for spelling in spellings} == {split_of(text)}
    assert {question_key(spelling) for spelling in spellings} == {question_key(text)}


@given(text=TEXTS)
def test_composed_text_keeps_the_key_and_split_that_it_always_had(text: str) -> None:
    text = unicodedata.normalize("NFC", text)
    if not any(unicodedata.category(character) in ("Cf", "Mn") for character in text):
        before = " ".join(text.casefold().split())
        assert question_key(text) == hashlib.sha256(before.encode()).hexdigest()[:12]
        assert folded(text) == before


@pytest.mark.parametrize(("first", "second"), [("2²", "22"), ("½", "1/2"), ("a b", "ab"), ("x-1", "x1"), ("é", "e")])
def test_different_questions_stay_different(first: str, second: str) -> None:
    assert folded(first) != folded(second)


def test_first_spellings_are_equal_for_equal_questions_only() -> None:
    assert first_spellings(["A  b", "c", "a B", "C", "d"]) == ["A  b", "c", "A  b", "c", "d"]


@pytest.mark.parametrize("kind", ["text", "head"])
def test_the_shipped_dms_were_trained_on_reference_questions_by_the_same_keys(kind: Kind) -> None:
    asked = [*reference_questions(Split.TRAIN), *reference_questions(Split.CALIBRATION)]
    assert read_trained_on(reference.dm_folder(kind)) <= {question_key(question.text) for question in asked}


def test_reference_questions_are_fixed_and_balanced() -> None:
    test = reference_questions(Split.TEST)
    assert test == reference_questions(Split.TEST)
    assert Counter(question.family for question in test) == {
        f"{task}, {level}": SIZES[Split.TEST] for task, levels in LEVELS.items() for level in levels
    }
    for question in test:
        task, level = question.family.split(", ")
        sizes = LEVELS[task][level]
        # Asking for the last but one in a row takes one inference less.
        assert min(sizes) - (task == "logic") <= question.difficulty <= max(sizes)
    logic = reference_questions(Split.TEST, 5, tasks=["logic"], levels=["hard"])
    assert [question.family for question in logic] == ["logic, hard"] * 5
    assert {question.text for question in logic} < {question.text for question in test}
    assert not [question for question in reference_questions(Split.TRAIN) if question.family.endswith("ood")]

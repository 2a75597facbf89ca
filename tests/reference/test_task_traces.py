"""Training documents for search, logic and critique: what carries training loss is right, and slips carry none."""

import itertools
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drr.loop.stated import stated_answer
from drr.reference.critique_traces import Proposal, critique_document, proposed_result
from drr.reference.logic_traces import logic_document, lookup_document, proposed_letter
from drr.reference.pretrain import TaskShares, training_documents
from drr.reference.search_traces import proposed_line, search_document
from drr.reference.traces import LATE_MIXTURE, THINK_CLOSE, Document, Mixture
from drr.tasks import Split, countdown, logic, split_of
from drr.tasks.arithmetic import apply, make_problem
from drr.tasks.grading import is_correct

FULL, FIRST, CUT = Mixture(1, 0, 0), Mixture(0, 1, 0), Mixture(0, 0, 1)
SEEDS = st.integers(0, 3000)
_SUM = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


def text_of(document: Document) -> str:
    return "".join(piece.text for piece in document.pieces)


def learned(document: Document) -> str:
    return "".join(piece.text if piece.learn else "\x00" for piece in document.pieces)


@given(seed=SEEDS, size=st.sampled_from((3, 4, 5)))
def test_searches_calculate_rightly_and_end_in_a_solution(seed: int, size: int) -> None:
    puzzle = countdown.make_puzzle(random.Random(seed), size)
    document = search_document(random.Random(seed), puzzle, FULL)
    thinking, answer = text_of(document).split(THINK_CLOSE)
    assert is_correct(answer, puzzle.question.answer)
    for left, operator, right, result in _SUM.findall(thinking):
        assert apply(int(left), operator, int(right)) == int(result)  # type: ignore[arg-type]
    for step in thinking.split("\n\n"):
        if step.endswith(" no.") and not step.startswith("Check"):
            made = step.rsplit(";", 2)[-2]
            assert not any(equation.endswith(f"={puzzle.target}") for equation in made.split())
        if step.startswith("Check"):
            assert step.endswith("yes.") is (int(_SUM.findall(step)[-1][3]) == puzzle.target)


@given(seed=SEEDS)
def test_false_finds_are_never_taught(seed: int) -> None:
    puzzle = countdown.make_puzzle(random.Random(seed), 4)
    for claimed in re.findall(
        r"\? yes: [^\x00]*?=(\d+)\.", learned(search_document(random.Random(seed), puzzle, FULL))
    ):
        assert int(claimed) == puzzle.target


def test_some_searches_claim_a_false_find_and_find_it_out() -> None:
    found = 0
    for seed in range(200):
        puzzle = countdown.make_puzzle(random.Random(seed), 4)
        thinking = text_of(search_document(random.Random(seed), puzzle, FULL)).split(THINK_CLOSE)[0]
        steps = thinking.split("\n\n")
        for step, after in itertools.pairwise(steps):
            stated = stated_answer(step + "\n\n")
            if stated is not None and not is_correct(stated, puzzle.question.answer):
                found += 1
                assert after.startswith("Check: ")
                assert after.endswith("no.")
    assert 20 < found < 100


@pytest.mark.parametrize("mixture", [FIRST, CUT])
@given(seed=SEEDS)
def test_what_is_cut_does_not_teach_when_to_close(mixture: Mixture, seed: int) -> None:
    search, puzzle = countdown.make_puzzle(random.Random(seed)), logic.make_puzzle(random.Random(seed))
    for document, gold in (
        (search_document(random.Random(seed), search, mixture), search.question.answer),
        (logic_document(random.Random(seed), puzzle, mixture), puzzle.question.answer),
    ):
        assert not any(piece.learn for piece in document.pieces if THINK_CLOSE in piece.text)
        assert document.pieces[-1].learn
        assert is_correct(document.pieces[-1].text, gold)


@given(seed=SEEDS, size=st.integers(3, 8))
def test_logic_teaches_right_conclusions_only(seed: int, size: int) -> None:
    puzzle = logic.make_puzzle(random.Random(seed), size)
    document = logic_document(random.Random(seed), puzzle, FULL)
    thinking, answer = text_of(document).split(THINK_CLOSE)
    assert is_correct(answer, puzzle.letter)
    assert stated_answer(thinking) == puzzle.letter
    taught = learned(document)
    true = {f"{inference.premise}: {inference.conclusion}." for inference in puzzle.inferences}
    for inference in puzzle.inferences:
        for wrong in {f"{inference.premise}: {wrong}." for wrong in inference.wrong} - true:
            assert wrong not in taught
    assert set(re.findall(r"answer is ([A-D])", taught)) == {puzzle.letter}
    chosen = re.findall(r": ([^:]+)\.\n\nThat is ([^:.]+) ([A-D])\. So", thinking)
    assert chosen
    for conclusion, text, letter in chosen:
        assert f" {text} " in f" {conclusion} "
        assert re.search(rf" {text} {letter}[,.]", puzzle.question.text)


@given(seed=SEEDS)
def test_looking_letters_up_is_taught_for_every_option(seed: int) -> None:
    puzzle = logic.make_puzzle(random.Random(seed))
    document = lookup_document(random.Random(seed), puzzle)
    found = dict(re.findall(r"That is ([^.]+) ([A-D])\.\n\n", text_of(document)))
    assert found == {text: letter for letter, text in puzzle.options.items()}
    asked = document.question.removeprefix("Which letter is ").partition("?")[0]
    assert is_correct(text_of(document).split(THINK_CLOSE)[1], found[asked])
    assert not any(piece.learn for piece in document.pieces if THINK_CLOSE in piece.text)


@given(seed=SEEDS)
def test_proposals_are_judged_rightly(seed: int) -> None:
    rng = random.Random(seed)
    problem = make_problem(rng)
    search, puzzle = countdown.make_puzzle(rng), logic.make_puzzle(rng)
    for proposal, gold in (
        (proposed_result(rng, problem), problem.question.answer),
        (proposed_line(rng, search), search.question.answer),
        (proposed_letter(rng, puzzle), puzzle.question.answer),
    ):
        assert proposal.right is is_correct(f"The answer is {proposal.answer}.", gold)
        document = critique_document(rng, proposal)
        assert document.pieces[-1].learn
        assert text_of(document).rstrip().endswith("is yes." if proposal.right else "is no.")
        assert proposal.question in document.question
        assert f"Proposed answer: {proposal.answer}" in document.question


def test_right_and_wrong_proposals_come_alike() -> None:
    rng = random.Random(0)
    right = [proposed_line(rng, countdown.make_puzzle(rng)).right for _ in range(400)]
    assert 0.4 < sum(right) / len(right) < 0.6


def test_every_task_and_critiques_take_their_shares() -> None:
    documents = training_documents(random.Random(0), LATE_MIXTURE, TaskShares(0.5, 0.25, 0.25, critique=0.2))
    drawn = [next(documents) for _ in range(600)]
    critiques = [document for document in drawn if "Proposed answer:" in document.question]
    assert 0.14 < len(critiques) / len(drawn) < 0.27
    asked = [document.question for document in drawn if document not in critiques]
    searches = sum("to make" in text and text.startswith("Use ") for text in asked)
    choices = sum(" A, " in text for text in asked)
    assert 0.19 < searches / len(asked) < 0.31
    assert 0.19 < choices / len(asked) < 0.31
    assert {split_of(document.question.partition("\n\nProposed answer:")[0]) for document in drawn} == {Split.TRAIN}


def test_a_run_may_look_letters_up() -> None:
    drawn = training_documents(random.Random(0), LATE_MIXTURE, TaskShares(0.0, 0.0, 1.0, critique=0.0, lookup=0.9))
    looked_up = sum(next(drawn).question.startswith("Which letter is ") for _ in range(200))
    assert 165 < looked_up < 195


def test_a_critique_may_think_first() -> None:
    proposal = Proposal("What is 1 + 2?", "3", True, [])
    drawn = [text_of(critique_document(random.Random(seed), proposal)) for seed in range(40)]
    assert {text.startswith(THINK_CLOSE) for text in drawn} == {True, False}

"""Training documents for the logic world: one inference per step, then the option that says the same, then a check.

Everything is said in the words of the question, and every option's letter comes after its text. A small model finds a
fact by the words that it begins with; it cannot compare two texts that stand side by side.
"""

import random

from drr.reference.critique_traces import Proposal
from drr.reference.traces import STEP_BREAK, THINK_CLOSE, Document, Mixture, Piece, answer_text, first_steps
from drr.tasks.logic import Puzzle, listed

_SLIP_SHARE = 0.3
_CHECK_SHARE = 0.9


def _slips(puzzle: Puzzle) -> dict[str, str]:
    """Wrong last conclusions, each with the letter of the option that says the same."""
    return {
        wrong: letter
        for wrong in puzzle.inferences[-1].wrong
        for letter, text in puzzle.options.items()
        if f" {text} " in f" {wrong} "
    }


def _option(puzzle: Puzzle, letter: str) -> str:
    return f"That is {puzzle.options[letter]} {letter}."


def _attempt(puzzle: Puzzle, *, slip: str | None = None, letter: str = "") -> list[Piece]:
    """Every inference, then the option. `slip` replaces the last conclusion, and `letter` is its option; neither
    carries training loss."""
    pieces = []
    for number, inference in enumerate(puzzle.inferences, start=1):
        slipped = slip is not None and number == len(puzzle.inferences)
        pieces.append(Piece(f"{inference.premise}: "))
        pieces.append(Piece(str(slip) if slipped else inference.conclusion, learn=not slipped))
        pieces.append(Piece("." + STEP_BREAK))
    chosen = letter or puzzle.letter
    text = f"{_option(puzzle, chosen)} So the answer is {chosen}.{STEP_BREAK}"
    return [*pieces, Piece(text, learn=slip is None)]


def _check(puzzle: Puzzle) -> list[Piece]:
    """The whole solution once more, from the question."""
    return [Piece(f"Let me check.{STEP_BREAK}"), *_attempt(puzzle)]


def proposed_letter(rng: random.Random, puzzle: Puzzle) -> Proposal:
    """The right letter or, equally often, another one, with a correct attempt as the thinking."""
    others = [letter for letter in puzzle.options if letter != puzzle.letter]
    letter = puzzle.letter if rng.random() < 0.5 else rng.choice(others)
    return Proposal(puzzle.question.text, letter, letter == puzzle.letter, _attempt(puzzle))


def lookup_document(rng: random.Random, puzzle: Puzzle) -> Document:
    """A document that only finds the letters of the puzzle's options. In a full trace a letter is one token in a
    hundred, too few to learn how it is found."""
    order = rng.sample(list(puzzle.options), len(puzzle.options))
    asked = f"Which letter is {puzzle.options[order[-1]]}? {listed(puzzle.options)}"
    found = "".join(_option(puzzle, letter) + STEP_BREAK for letter in order)
    return Document(asked, (Piece(found), Piece(THINK_CLOSE, learn=False), Piece(answer_text(order[-1]))))


def logic_document(rng: random.Random, puzzle: Puzzle, mixture: Mixture) -> Document:
    """A document of a kind drawn from `mixture`."""
    kind = mixture.draw(rng)
    right, answer = _attempt(puzzle), answer_text(puzzle.letter)
    if kind == "first":
        return Document(puzzle.question.text, (*right, Piece(THINK_CLOSE, learn=False), Piece(answer)))
    if kind == "cut":
        kept = first_steps(rng, "".join(piece.text for piece in (*right, *_check(puzzle))))
        return Document(puzzle.question.text, (Piece(kept + THINK_CLOSE, learn=False), Piece(answer)))
    slip, letter = rng.choice(list(_slips(puzzle).items())) if rng.random() < _SLIP_SHARE else (None, "")
    pieces = _attempt(puzzle, slip=slip, letter=letter)
    if slip is not None or rng.random() < _CHECK_SHARE:
        pieces += _check(puzzle)
    return Document(puzzle.question.text, (*pieces, Piece(THINK_CLOSE + answer)))

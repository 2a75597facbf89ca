"""Training documents for Countdown: try one line of moves after the other, claim a solution, check it.

A line ends by listing what its last two numbers can make and asking whether that is the target. The trained model makes
false claims by itself. Documents with a false claim, which carries no training loss, teach that a check detects it and
that the search then goes on.
"""

import random

from drr.reference.critique_traces import Proposal
from drr.reference.traces import STEP_BREAK, THINK_CLOSE, Document, Mixture, Piece, answer_text, first_steps
from drr.tasks.countdown import Line, Move, Puzzle, expression, moves

_CHECK_SHARE = 0.6
_FALSE_FIND_SHARE = 0.3
_MOST_LINES = {3: 8, 4: 11, 5: 12}


def _random_line(rng: random.Random, puzzle: Puzzle) -> Line:
    table, line = puzzle.numbers, list[Move]()
    while len(table) > 1 and (choices := list(moves(table))):
        move, table = rng.choice(choices)
        line.append(move)
    return tuple(line) if len(table) == 1 else _random_line(rng, puzzle)


def _tried(puzzle: Puzzle, line: Line) -> str:
    """The text of a line, up to the question whether it reaches the target."""
    last = line[-1]
    results = " ".join(str(move) for move, _ in moves((last.left, last.right)))
    first_moves = ", ".join(map(str, line[:-1]))
    return f"{first_moves}; {results}; {puzzle.target}?"


def _reaches(puzzle: Puzzle, line: Line) -> bool:
    return any(move.result == puzzle.target for move, _ in moves((line[-1].left, line[-1].right)))


def _dead_lines(rng: random.Random, puzzle: Puzzle) -> list[Line]:
    """Lines that miss the target, no two of which begin with the same moves."""
    wanted, found = rng.randrange(_MOST_LINES[len(puzzle.numbers)]), dict[tuple[Move, ...], Line]()
    for _ in range(3 * wanted):
        line = _random_line(rng, puzzle)
        if len(found) < wanted and not _reaches(puzzle, line):
            found.setdefault(line[:-1], line)
    return list(found.values())


def _find(puzzle: Puzzle, line: Line, *, learn: bool = True) -> list[Piece]:
    stated = expression(puzzle.numbers, line)
    return [
        Piece(_tried(puzzle, line)),
        Piece(f" yes: {line[-1]}", learn),
        Piece(f".{STEP_BREAK}So the answer is {stated}.{STEP_BREAK}"),
    ]


def _check(puzzle: Puzzle, line: Line) -> Piece:
    verdict = "yes" if line[-1].result == puzzle.target else "no"
    return Piece(f"Check: {', '.join(map(str, line))}; {puzzle.target}? {verdict}.{STEP_BREAK}")


def _thinking(rng: random.Random, puzzle: Puzzle) -> tuple[list[Piece], list[Piece]]:
    """The search up to the true solution, and the check that may follow it."""
    pieces: list[Piece] = []
    dead = _dead_lines(rng, puzzle)
    false_find = rng.randrange(len(dead)) if dead and rng.random() < _FALSE_FIND_SHARE else None
    for number, line in enumerate(dead):
        if number == false_find:
            pieces += [*_find(puzzle, line, learn=False), _check(puzzle, line)]
        else:
            pieces.append(Piece(f"{_tried(puzzle, line)} no.{STEP_BREAK}"))
    pieces += _find(puzzle, puzzle.solution)
    stated = expression(puzzle.numbers, puzzle.solution)
    return pieces, [_check(puzzle, puzzle.solution), Piece(f"So the answer is {stated}.{STEP_BREAK}")]


def proposed_line(rng: random.Random, puzzle: Puzzle) -> Proposal:
    """The solution or, equally often, a random line, with its check as the thinking."""
    line = puzzle.solution if rng.random() < 0.5 else _random_line(rng, puzzle)
    right = line[-1].result == puzzle.target
    return Proposal(puzzle.question.text, expression(puzzle.numbers, line), right, [_check(puzzle, line)])


def search_document(rng: random.Random, puzzle: Puzzle, mixture: Mixture) -> Document:
    """A document of a kind drawn from `mixture`."""
    kind = mixture.draw(rng)
    found, check = _thinking(rng, puzzle)
    answer = answer_text(expression(puzzle.numbers, puzzle.solution))
    if kind == "first":
        pieces = [*found, Piece(THINK_CLOSE, learn=False), Piece(answer)]
    elif kind == "full":
        pieces = [*found, *(check if rng.random() < _CHECK_SHARE else ()), Piece(THINK_CLOSE + answer)]
    else:
        kept = first_steps(rng, "".join(piece.text for piece in (*found, *check)))
        pieces = [Piece(kept + THINK_CLOSE, learn=False), Piece(answer)]
    return Document(puzzle.question.text, tuple(pieces))

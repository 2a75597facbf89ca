"""Countdown: make a target from given numbers, each used once. A solution is hard to find and easy to check.

The gold answer names the target and the numbers, because any expression that makes the one from the others is right.
"""

import ast
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from drr.tasks.arithmetic import Operator, apply
from drr.tasks.questions import Question, Split, seeded_questions

MIN_NUMBERS, MAX_NUMBERS = 3, 5
USUAL_SIZES = (3, 4)
_OPERATORS: tuple[Operator, ...] = ("+", "-", "*", "/")
_LARGEST = {3: 25, 4: 15, 5: 12}
"""Largest given number, by how many there are."""

_TARGETS = (10, 150)
_LARGEST_VALUE = 400

_GOLD = re.compile(r"countdown (\d+) from ((?:\d+ )*\d+)")
_CHARACTERS = re.compile(r"[\d+\-*/() ]+")


@dataclass(frozen=True, slots=True)
class Move:
    """`left operator right = result`: takes two numbers and puts their result in their place."""

    left: int
    operator: Operator
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left}{self.operator}{self.right}={self.result}"


Line = tuple[Move, ...]
"""Moves that use up all the numbers; the last result is what they make."""


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A question and one line that solves it."""

    question: Question
    numbers: tuple[int, ...]
    target: int
    solution: Line


def moves(numbers: Sequence[int]) -> Iterator[tuple[Move, tuple[int, ...]]]:
    """Every move on these numbers, and the numbers after it. Results are whole and positive."""
    for first, second in itertools.combinations(range(len(numbers)), 2):
        rest = tuple(value for place, value in enumerate(numbers) if place not in (first, second))
        high, low = sorted((numbers[first], numbers[second]), reverse=True)
        for operator in _OPERATORS:
            if (operator == "-" and high == low) or (operator == "/" and (high % low or low == 1)):
                continue
            result = apply(high, operator, low)
            if result <= _LARGEST_VALUE:
                yield Move(high, operator, low, result), (*rest, result)


def expression(numbers: Sequence[int], line: Line) -> str:
    """The line as one expression over the given numbers, such as `(22/2)*6+10`."""
    table: list[tuple[int, str]] = [(value, str(value)) for value in numbers]
    for move in line:
        left = table.pop(next(place for place, (value, _) in enumerate(table) if value == move.left))
        right = table.pop(next(place for place, (value, _) in enumerate(table) if value == move.right))
        table.append((move.result, f"({left[1]}{move.operator}{right[1]})"))
    (last,) = table
    return last[1][1:-1]


def makes(text: str, target: int, numbers: Sequence[int]) -> bool:
    """Whether `text` is an expression that uses each of `numbers` exactly once and has the value `target`."""
    if len(text) > 200 or not _CHARACTERS.fullmatch(text):
        return False
    try:
        used: list[int] = []
        value = _value(ast.parse(text.strip(), mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return False
    return value == target and sorted(used) == sorted(numbers)


def _value(node: ast.expr, used: list[int]) -> Fraction:
    match node:
        case ast.Constant(value=int(value)):
            used.append(value)
            return Fraction(value)
        case ast.BinOp(left=left, op=operator, right=right):
            first, second = _value(left, used), _value(right, used)
            match operator:
                case ast.Add():
                    return first + second
                case ast.Sub():
                    return first - second
                case ast.Mult():
                    return first * second
                case ast.Div():
                    return first / second
    raise ValueError("not an expression of numbers")


def gold_answer(target: int, numbers: Sequence[int]) -> str:
    """What a dataset keeps as the answer: the task itself."""
    return f"countdown {target} from {' '.join(map(str, numbers))}"


def read_gold(gold: str) -> tuple[int, list[int]] | None:
    """Target and numbers of a gold answer of this task; None if `gold` belongs to another task."""
    found = _GOLD.fullmatch(gold.strip())
    return None if found is None else (int(found[1]), [int(number) for number in found[2].split()])


def make_puzzle(rng: random.Random, size: int | None = None) -> Puzzle:
    """One solvable puzzle of `size` numbers (3 to 5), by default 3 or 4. ValueError for another size."""
    size = size if size is not None else rng.choice(USUAL_SIZES)
    if not MIN_NUMBERS <= size <= MAX_NUMBERS:
        raise ValueError(f"size must be {MIN_NUMBERS} to {MAX_NUMBERS}, not {size}")
    while True:
        numbers = tuple(rng.randint(2, _LARGEST[size]) for _ in range(size))
        line: list[Move] = []
        table = numbers
        while len(table) > 1 and (choices := list(moves(table))):
            move, table = rng.choice(choices)
            line.append(move)
        if len(table) == 1 and _TARGETS[0] <= table[0] <= _TARGETS[1] and table[0] not in numbers:
            target = table[0]
            text = f"Use {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}, each once, to make {target}."
            return Puzzle(Question(text, gold_answer(target, numbers), "countdown", size), numbers, target, tuple(line))


def questions(seed: int, split: Split, count: int, sizes: Sequence[int] = USUAL_SIZES) -> list[Question]:
    """`count` distinct questions of `split`, every size equally often, in a shuffled order."""
    return seeded_questions("countdown", lambda rng, size: make_puzzle(rng, size).question, sizes, seed, split, count)

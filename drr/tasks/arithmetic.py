"""Procedural arithmetic: short stories, comparisons between people, and bare expressions.

Every problem carries the operations that solve it, so that training documents can be written from it.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from drr.tasks.questions import Question, Split, seeded_questions

Operator = Literal["+", "-", "*", "/"]

MIN_OPERATIONS, MAX_OPERATIONS = 2, 10
USUAL_SIZES = (2, 3, 4, 5, 6, 7, 8)
_LARGEST_VALUE = 1500

_PEOPLE = {
    "he": ("Tom", "Ben", "Sam", "Leo", "Max", "Dan", "Raj", "Omar", "Ivan", "Hugo"),
    "she": ("Ann", "Eva", "Mia", "Zoe", "Lily", "Sara", "Nina", "Ruth", "Aiko", "Dora"),
}
_NAMES = tuple(itertools.chain(*_PEOPLE.values()))
_THINGS = ("apples", "pens", "coins", "cards", "shells", "books", "stamps", "beads", "nuts", "cups", "eggs", "toys")
_BOXES = ("boxes", "bags", "packs", "trays", "jars")


@dataclass(frozen=True, slots=True)
class Operation:
    """`left operator right = result`, where an operand may be the result of an earlier operation.

    `left_from` and `right_from` are the indices of those earlier operations, or None for a number that the question
    states. `note` says in a word or two what is being computed.
    """

    note: str
    left: int
    operator: Operator
    right: int
    result: int
    left_from: int | None = None
    right_from: int | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A question together with the operations that solve it; the last result is the answer."""

    question: Question
    operations: tuple[Operation, ...]


def apply(left: int, operator: Operator, right: int) -> int:
    """The value of `left operator right`; ValueError for a division that leaves a remainder."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if right == 0 or left % right:
        raise ValueError(f"{left}/{right} is not a whole number")
    return left // right


class _OperationBuilder:
    """Collects the operations of a problem while it is made."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def add(
        self,
        note: str,
        left: int,
        operator: Operator,
        right: int,
        *,
        left_from: int | None = None,
        right_from: int | None = None,
    ) -> int:
        """Append an operation; returns its index."""
        result = apply(left, operator, right)
        self.operations.append(Operation(note, left, operator, right, result, left_from, right_from))
        return len(self.operations) - 1

    def value(self, index: int) -> int:
        return self.operations[index].result


def _story(rng: random.Random, size: int) -> tuple[str, list[Operation]]:
    pronoun = rng.choice(("he", "she"))
    name, thing, boxes = rng.choice(_PEOPLE[pronoun]), rng.choice(_THINGS), rng.choice(_BOXES)
    subject = pronoun.capitalize()
    value = rng.randint(5, 120)
    source: int | None = None
    sentences = [f"{name} has {value} {thing}."]
    working = _OperationBuilder()
    while len(working.operations) < size:
        room = size - len(working.operations)
        kinds = ["gain", "gain", "loss", "loss"]
        if room >= 2:
            kinds += ["buy boxes", "buy boxes", "sell boxes"]
        if value * 2 <= _LARGEST_VALUE // 2:
            kinds.append("grow")
        divisors = [k for k in range(2, 10) if value % k == 0 and value // k >= 4]
        if divisors:
            kinds += ["split", "split"]
        kind = rng.choice(kinds)
        if kind == "gain":
            amount = rng.randint(3, 150)
            sentences.append(f"{subject} {rng.choice(('buys', 'finds', 'wins', 'is given'))} {amount} more.")
            source = working.add("gain", value, "+", amount, left_from=source)
        elif kind == "loss":
            if value < 8:
                continue
            amount = rng.randint(2, value - 2)
            sentences.append(f"{subject} {rng.choice(('loses', 'sells', 'gives away', 'uses'))} {amount} of them.")
            source = working.add("loss", value, "-", amount, left_from=source)
        elif kind == "buy boxes":
            count, each = rng.randint(2, 12), rng.randint(3, 40)
            sentences.append(f"{subject} buys {count} {boxes} of {each} {thing} each.")
            bought = working.add(boxes, count, "*", each)
            source = working.add("gain", value, "+", working.value(bought), left_from=source, right_from=bought)
        elif kind == "sell boxes":
            count = rng.randint(2, 9)
            if value < count * 2 + 2:
                continue
            each = rng.randint(2, min(30, (value - 1) // count))
            sentences.append(f"{subject} sells {count} {boxes} of {each} {thing} each.")
            sold = working.add(boxes, count, "*", each)
            source = working.add("loss", value, "-", working.value(sold), left_from=source, right_from=sold)
        elif kind == "grow":
            factor = rng.randint(2, min(9, _LARGEST_VALUE // value))
            sentences.append(f"Then the number grows to {factor} times what it was.")
            source = working.add("times", value, "*", factor, left_from=source)
        else:
            parts = rng.choice(divisors)
            sentences.append(f"{subject} splits them equally over {parts} {boxes} and keeps one of the {boxes}.")
            source = working.add("split", value, "/", parts, left_from=source)
        value = working.value(source)
        if value > _LARGEST_VALUE:
            return _story(rng, size)
    sentences.append(f"How many {thing} does {name} have now?")
    return " ".join(sentences), working.operations


def _comparison(rng: random.Random, size: int) -> tuple[str, list[Operation]]:
    """A chain of people, each compared with the one before. Asks how many they have together or, for an odd `size`,
    how many each box gets when they share equally."""
    people = size // 2 + 1
    names = rng.sample(_NAMES, people)
    thing = rng.choice(_THINGS)
    values = [rng.randint(6, 90)]
    sources: list[int | None] = [None]
    sentences = [f"{names[0]} has {values[0]} {thing}."]
    working = _OperationBuilder()
    for previous, name in itertools.pairwise(names):
        before, came_from = values[-1], sources[-1]
        kind = rng.choice(("more", "fewer", "times")) if before <= 120 else rng.choice(("more", "fewer"))
        if kind == "more" or before < 8:
            amount = rng.randint(3, 90)
            sentences.append(f"{name} has {amount} more than {previous}.")
            index = working.add(name, before, "+", amount, left_from=came_from)
        elif kind == "fewer":
            amount = rng.randint(2, before - 3)
            sentences.append(f"{name} has {amount} fewer than {previous}.")
            index = working.add(name, before, "-", amount, left_from=came_from)
        else:
            factor = rng.randint(2, 7)
            sentences.append(f"{name} has {factor} times as many as {previous}.")
            index = working.add(name, factor, "*", before, right_from=came_from)
        values.append(working.value(index))
        sources.append(index)
    total, total_from = values[0], sources[0]
    for value, source in zip(values[1:], sources[1:], strict=True):
        total_from = working.add("together", total, "+", value, left_from=total_from, right_from=source)
        total = working.value(total_from)
    if size % 2:
        parts = [k for k in range(2, 10) if total % k == 0]
        if not parts or total > _LARGEST_VALUE:
            return _comparison(rng, size)
        share = rng.choice(parts)
        sentences.append(f"They share all of them equally over {share} boxes. How many {thing} are in each box?")
        working.add("share", total, "/", share, left_from=total_from)
    else:
        if total > _LARGEST_VALUE:
            return _comparison(rng, size)
        sentences.append(f"How many {thing} do they have together?")
    return " ".join(sentences), working.operations


def _expression(rng: random.Random, size: int) -> tuple[str, list[Operation]]:
    """A chain of bracketed operations, innermost first."""
    value, source = rng.randint(2, 99), None
    text = str(value)
    working = _OperationBuilder()
    for position in range(size):
        operators: list[Operator] = ["+"]
        if value >= 6:
            operators.append("-")
        if value <= 250:
            operators.append("*")
        divisors = [k for k in range(2, 10) if value % k == 0 and value > k]
        if divisors:
            operators.append("/")
        operator = rng.choice(operators)
        if operator == "+":
            number = rng.randint(2, 199)
        elif operator == "-":
            number = rng.randint(2, value - 2)
        elif operator == "*":
            number = rng.randint(2, 12 if value <= 99 else 5)
        else:
            number = rng.choice(divisors)
        source = working.add("so", value, operator, number, left_from=source)
        value = working.value(source)
        text = f"{text} {operator} {number}"
        if position < size - 1:
            text = f"({text})"
    if value > _LARGEST_VALUE:
        return _expression(rng, size)
    return f"What is {text}?", working.operations


_FAMILIES = {"story": _story, "comparison": _comparison, "expression": _expression}
_FAMILY_WEIGHTS = {"story": 5, "comparison": 3, "expression": 2}


def make_problem(rng: random.Random, operations: int | None = None) -> Problem:
    """One problem; `operations` (2-10) fixes its difficulty, else it is drawn uniformly from 2 to 8."""
    size = operations if operations is not None else rng.randint(USUAL_SIZES[0], USUAL_SIZES[-1])
    if not MIN_OPERATIONS <= size <= MAX_OPERATIONS:
        raise ValueError(f"operations must be {MIN_OPERATIONS} to {MAX_OPERATIONS}, not {size}")
    family = rng.choices(list(_FAMILY_WEIGHTS), weights=list(_FAMILY_WEIGHTS.values()))[0]
    text, steps = _FAMILIES[family](rng, size)
    return Problem(Question(text, str(steps[-1].result), family, size), tuple(steps))


def questions(seed: int, split: Split, count: int, sizes: Sequence[int] = USUAL_SIZES) -> list[Question]:
    """`count` distinct questions of `split`, every size equally often, in a shuffled order."""
    return seeded_questions("arithmetic", lambda rng, size: make_problem(rng, size).question, sizes, seed, split, count)

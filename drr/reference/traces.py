"""Training documents for the reference Reasoner: questions thought through step by step.

A trace states a first attempt, then checks it. A check takes each operation apart (47+38 as 47+30, 77+8) instead of
repeating it, so it can find errors of the first attempt. Some attempts contain a slip: a wrong result, carried on
consistently, that the check then finds. The wrong digits themselves carry no training loss, so the model is not taught
to make them.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from drr.tasks.arithmetic import Operation, Problem, apply

STEP_BREAK = "\n\n"
THINK_CLOSE = "</think>"

_SLIP_SHARE = 0.4
"""Share of full traces whose first attempt contains a slip, large enough for the model to learn checking."""
_EARLY_CLOSE_SHARE = 0.08
_SECOND_CHECK_SHARE = 0.4
_MID_STEP_SHARE = 0.3
_CHECK_OPENINGS = ("Let me check", "Wait, let me check", "I should check this")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a document; `learn` says whether its tokens carry training loss."""

    text: str
    learn: bool = True


@dataclass(frozen=True, slots=True)
class Document:
    """A question, and the assistant's thinking and answer as pieces."""

    question: str
    pieces: tuple[Piece, ...]


def answer_text(value: int | str) -> str:
    """The answer as the Reasoner words it after its thinking."""
    return f"\n\nThe answer is {value}."


def place_parts(number: int) -> list[int]:
    """`number` by decimal places, largest first, zeros left out: 205 -> [200, 5]."""
    digits = str(number)
    parts = [int(digit) * 10 ** (len(digits) - 1 - place) for place, digit in enumerate(digits)]
    return [part for part in parts if part] or [0]


def decomposed(left: int, operator: str, right: int) -> str:
    """`left operator right` worked out by decimal places, ending in its value."""
    result = apply(left, operator, right)  # type: ignore[arg-type]
    if operator in "+-":
        steps, value = [], left
        for part in place_parts(right):
            following = apply(value, operator, part)  # type: ignore[arg-type]
            steps.append(f"{value}{operator}{part}={following}")
            value = following
        return ", ".join(steps)
    if operator == "*":
        small, large = sorted((left, right))
        return _product_by_places(large, small)
    parts = place_parts(result)
    if len(parts) == 1:
        return f"{right}*{result}={left}"
    return _product_by_places(result, right)


def _product_by_places(number: int, factor: int) -> str:
    steps, total = [], 0
    for part in place_parts(number):
        product = part * factor
        steps.append(f"{part}*{factor}={product}")
        if total:
            steps.append(f"{total}+{product}={total + product}")
        total += product
    return ", ".join(steps)


def slipped(rng: random.Random, operations: Sequence[Operation]) -> list[Operation] | None:
    """The operations with one wrong result, carried on to the end; None if it cannot be carried on or the answer stays
    the same."""
    where = rng.randrange(len(operations))
    changed: list[Operation] = []
    for index, operation in enumerate(operations):
        left = operation.left if operation.left_from is None else changed[operation.left_from].result
        right = operation.right if operation.right_from is None else changed[operation.right_from].result
        try:
            result = apply(left, operation.operator, right)
        except ValueError:
            return None
        if index == where:
            result += rng.choice((-1, 1, -2, 2, -10, 10, -10, 10, -100, 100, 9, -9, 20, -20))
        if result < 1:
            return None
        changed.append(replace(operation, left=left, right=right, result=result))
    return None if changed[-1].result == operations[-1].result else changed


def attempt(operations: Sequence[Operation]) -> list[Piece]:
    """One step per operation, then the stated answer. A miscalculated result carries no training loss."""
    pieces = []
    for stated in operations:
        right = apply(stated.left, stated.operator, stated.right) == stated.result
        pieces.append(Piece(f"{stated.note}: {stated.left}{stated.operator}{stated.right}="))
        pieces.append(Piece(str(stated.result), learn=right))
        pieces.append(Piece("." + STEP_BREAK))
    pieces.append(Piece(f"So the answer is {operations[-1].result}." + STEP_BREAK))
    return pieces


def _check(rng: random.Random, stated: Sequence[Operation], truth: Sequence[Operation]) -> list[Piece]:
    """Every operation again, taken apart, on corrected operands; then the answer, confirmed or corrected."""
    pieces = [Piece(rng.choice(_CHECK_OPENINGS) + "." + STEP_BREAK)]
    for before, true in zip(stated, truth, strict=True):
        worked = decomposed(true.left, true.operator, true.right)
        verdict = "ok" if true.result == before.result else f"not {before.result}, so {true.result}"
        pieces.append(Piece(f"{true.note}: {true.left}{true.operator}{true.right}: {worked}, {verdict}." + STEP_BREAK))
    pieces.append(Piece(f"So the answer is {truth[-1].result}." + STEP_BREAK))
    return pieces


def _second_check(truth: Sequence[Operation]) -> list[Piece]:
    """Another plain pass through the numbers: over-thinking that a good judge should cut."""
    sums = STEP_BREAK.join(f"again {o.left}{o.operator}{o.right}={o.result}." for o in truth)
    return [Piece(f"Once more.{STEP_BREAK}{sums}{STEP_BREAK}So the answer is {truth[-1].result}.{STEP_BREAK}")]


def full_trace(rng: random.Random, problem: Problem) -> Document:
    """Thinking from the first attempt to its natural end, mostly with checks, then the answer."""
    truth = problem.operations
    if rng.random() < _EARLY_CLOSE_SHARE:
        pieces = attempt(truth)
    else:
        wrong = slipped(rng, truth) if rng.random() < _SLIP_SHARE else None
        stated = wrong or truth
        pieces = attempt(stated) + _check(rng, stated, truth)
        if rng.random() < _SECOND_CHECK_SHARE:
            pieces += _second_check(truth)
    pieces.append(Piece(THINK_CLOSE + answer_text(truth[-1].result)))
    return Document(problem.question.text, tuple(pieces))


def first_attempt(problem: Problem) -> Document:
    """Only the first attempt and the answer. The closing marker carries no loss: thinking need not end there."""
    truth = problem.operations
    pieces = attempt(truth)
    pieces += [Piece(THINK_CLOSE, learn=False), Piece(answer_text(truth[-1].result))]
    return Document(problem.question.text, tuple(pieces))


def truncated(rng: random.Random, problem: Problem) -> Document:
    """Thinking cut at a random boundary, or sometimes in mid-step, followed by the answer.

    Such documents teach forced answers: before an answer is stated the model has to guess the rest; afterwards it
    has to give the stated answer and not the number that a check has just reached. The thinking and the closing marker
    carry no loss, so that the model learns the answer and not when to stop.
    """
    truth = problem.operations
    pieces = attempt(truth) + _check(rng, truth, truth)
    if rng.random() < _SECOND_CHECK_SHARE:
        pieces += _second_check(truth)
    thinking = "".join(piece.text for piece in pieces)
    mid_step = rng.random() < _MID_STEP_SHARE
    kept = thinking[: rng.randrange(len(thinking))] if mid_step else first_steps(rng, thinking)
    return Document(
        problem.question.text,
        (Piece(kept + THINK_CLOSE, learn=False), Piece(answer_text(truth[-1].result))),
    )


def first_steps(rng: random.Random, thinking: str) -> str:
    """`thinking` up to a random boundary, at least one step."""
    steps = thinking.split(STEP_BREAK)[:-1]
    return "".join(step + STEP_BREAK for step in steps[: rng.randint(1, len(steps))])


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares of the kinds of documents; they sum to one."""

    full: float
    first: float
    cut: float

    def draw(self, rng: random.Random) -> str:
        """A kind: `full`, `first` or `cut`."""
        return rng.choices(("full", "first", "cut"), weights=(self.full, self.first, self.cut))[0]


EARLY_MIXTURE = Mixture(full=0.12, first=0.76, cut=0.12)
LATE_MIXTURE = Mixture(full=0.68, first=0.12, cut=0.20)
"""First attempts come first: a model that sees mostly checks from the start learns to copy instead of to compute."""


def document(rng: random.Random, problem: Problem, mixture: Mixture) -> Document:
    """A document of a kind drawn from `mixture`."""
    kind = mixture.draw(rng)
    if kind == "full":
        return full_trace(rng, problem)
    return first_attempt(problem) if kind == "first" else truncated(rng, problem)

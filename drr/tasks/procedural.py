"""Questions that are made, not read: `TASK:COUNT[:SEED[:SPLIT[:SIZES]]]` and `reference:SPLIT[:TASK]`."""

from collections.abc import Sequence

from drr.errors import InputError
from drr.tasks import arithmetic, countdown, logic
from drr.tasks.questions import Question, Split
from drr.tasks.reference_suite import LEVELS, MAKERS, reference_questions

_TASKS: dict[str, tuple[Sequence[int], int, int]] = {
    "arithmetic": (arithmetic.USUAL_SIZES, arithmetic.MIN_OPERATIONS, arithmetic.MAX_OPERATIONS),
    "countdown": (countdown.USUAL_SIZES, countdown.MIN_NUMBERS, countdown.MAX_NUMBERS),
    "logic": (logic.USUAL_SIZES, logic.MIN_SIZE, logic.MAX_SIZE),
}
"""By task: the usual sizes of its questions, the smallest size and the largest."""


def is_procedural(source: str) -> bool:
    """Whether `source` names a task or the reference questions."""
    return source.partition(":")[0] in _TASKS or source.startswith("reference:")


def made_questions(source: str) -> list[Question]:
    """The questions that `source` describes. InputError says how to write it."""
    return _reference(source) if source.startswith("reference:") else _procedural(source)


def _procedural(source: str) -> list[Question]:
    task, *parts = source.split(":")
    usual, fewest, most = _TASKS[task]
    numbers, sizes = parts[:2], parts[3:]
    if not numbers or not all(part.isdecimal() for part in numbers) or int(numbers[0]) < 1 or len(sizes) > 1:
        raise InputError(source, f"must be {task}:COUNT[:SEED[:SPLIT[:SIZES]]]")
    split = _split(source, parts[2]) if len(parts) > 2 else Split.TRAIN
    wanted = _sizes(source, sizes[0], fewest, most) if sizes else usual
    seed = int(numbers[1]) if len(numbers) == 2 else 1
    return MAKERS[task](seed, split, int(numbers[0]), wanted)


def _split(source: str, text: str) -> Split:
    if text not in set(Split):
        raise InputError(source, f"{text!r} is no split; there are {', '.join(Split)}")
    return Split(text)


def _sizes(source: str, text: str, fewest: int, most: int) -> Sequence[int]:
    first, _, last = text.partition("-")
    ends = [first, last or first]
    if not all(end.isdecimal() for end in ends) or not fewest <= int(ends[0]) <= int(ends[1]) <= most:
        raise InputError(source, f"{text!r} are no sizes: a number or a range within {fewest}-{most} is needed")
    return range(int(ends[0]), int(ends[1]) + 1)


def _reference(source: str) -> list[Question]:
    """The reference questions of a split, or of one task in it."""
    _, text, *tasks = source.split(":")
    split = _split(source, text)
    if len(tasks) > 1 or any(task not in LEVELS for task in tasks):
        raise InputError(source, f"must be reference:SPLIT or reference:SPLIT:TASK; tasks are {', '.join(LEVELS)}")
    return reference_questions(split, tasks=tasks or tuple(LEVELS))

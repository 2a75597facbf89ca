"""The reference questions: three tasks at three levels each, with fixed seeds, so that they are the same everywhere.

`easy` and `hard` questions are like those that the Reasoner was trained on. `ood` (out-of-distribution) questions are
longer than any of them.
"""

import random
from collections.abc import Sequence

from drr.tasks import Question, Split, arithmetic, countdown, logic

LEVELS: dict[str, dict[str, tuple[int, ...]]] = {
    "arithmetic": {"easy": (2, 3, 4), "hard": (5, 6, 7, 8), "ood": (9, 10)},
    "countdown": {"easy": (3,), "hard": (4,), "ood": (5,)},
    "logic": {"easy": (3, 4), "hard": (5, 6), "ood": (7, 8)},
}
"""Sizes of questions (operations, numbers, links) by task and level."""

SIZES = {Split.TRAIN: 200, Split.CALIBRATION: 700, Split.VALIDATION: 50, Split.TEST: 100}
"""Questions of each task and level in a split. The training and calibration splits have none of the level `ood`."""

_SEEDS = {Split.TRAIN: 77, Split.CALIBRATION: 12, Split.VALIDATION: 13, Split.TEST: 14}
MAKERS = {"arithmetic": arithmetic.questions, "countdown": countdown.questions, "logic": logic.questions}
_UNSEEN = ("ood",)


def reference_questions(
    split: Split, count: int | None = None, *, tasks: Sequence[str] = tuple(LEVELS), levels: Sequence[str] = ()
) -> list[Question]:
    """The reference questions of `split`, shuffled: `count` (default: all) of each of `tasks` and `levels`, by default
    of every level that the split has.

    The family of a question is its task and level, such as `countdown, hard`.
    """
    seed, each = _SEEDS[split], SIZES[split] if count is None else count
    held_back = _UNSEEN if split in (Split.TRAIN, Split.CALIBRATION) else ()
    found = [
        Question(question.text, question.answer, f"{task}, {level}", question.difficulty)
        for task in tasks
        for level, sizes in LEVELS[task].items()
        if level not in held_back and (not levels or level in levels)
        for question in MAKERS[task](seed, split, each, sizes)
    ]
    random.Random(seed).shuffle(found)
    return found

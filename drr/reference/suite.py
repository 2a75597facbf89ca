"""The reference questions of every split: fixed seeds, so that everybody measures on the same ones."""

from drr.tasks import Question, Split
from drr.tasks.arithmetic import questions

_SEEDS = {Split.TRAIN: 77, Split.CALIBRATION: 12, Split.VALIDATION: 13, Split.TEST: 14}
SIZES = {Split.TRAIN: 2000, Split.CALIBRATION: 8000, Split.VALIDATION: 250, Split.TEST: 500}
"""How many questions of each split the reference build rolls out."""


def reference_questions(split: Split, count: int | None = None) -> list[Question]:
    """The first `count` reference questions of `split`, all of them by default."""
    return questions(_SEEDS[split], split, SIZES[split])[:count]

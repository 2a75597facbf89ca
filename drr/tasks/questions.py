"""The question record shared by every task, and the rule that keeps splits apart.

A question belongs to exactly one split, and the question's own text decides which: two programs that never
talked to each other, with different seeds, still agree that a test question is a test question.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum


class Split(StrEnum):
    """What a question may be used for."""

    TRAIN = "train"
    """Training the reference Reasoner and distilling its behaviour for the DM."""
    CALIBRATION = "calibration"
    """Temperature scaling and, later, certified thresholds."""
    VALIDATION = "validation"
    """Choosing thresholds, budgets and policies."""
    TEST = "test"
    """Reported figures only."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its gold answer.

    `difficulty` counts the operations a solution needs; `family` names the kind of question; `row` is its place in
    the file or dataset it was read from, counted from 1, 0 where it comes from none.
    """

    text: str
    answer: str
    family: str
    difficulty: int
    row: int = 0

    @property
    def split(self) -> Split:
        return split_of(self.text)


# Percent of the hash space up to which (exclusive) each split reaches.
_SPLIT_LIMITS = ((70, Split.TRAIN), (80, Split.CALIBRATION), (90, Split.VALIDATION), (100, Split.TEST))


def split_of(question: str) -> Split:
    """The split that owns `question`, decided by a hash of its text (case and white space folded)."""
    folded = " ".join(question.casefold().split())
    percent = int.from_bytes(hashlib.sha256(folded.encode()).digest()[:8]) % 100
    return next(split for limit, split in _SPLIT_LIMITS if percent < limit)

"""The question record shared by every task, and the rule that keeps splits apart.

A question belongs to exactly one split, and a hash of its text decides which. So all programs agree on the split of a
question, whatever seed they made it with.
"""

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Split(StrEnum):
    """What a question may be used for."""

    TRAIN = "train"
    """Training the reference Reasoner and distilling its behaviour for the DM."""
    CALIBRATION = "calibration"
    """Temperature scaling and certified thresholds."""
    VALIDATION = "validation"
    """Choosing thresholds, budgets and policies."""
    TEST = "test"
    """Nothing but reported figures."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its gold answer.

    `difficulty` counts the operations that a solution needs; `family` names the kind of question; `row` is its row in
    the file or dataset that it was read from, counted from 1, or 0 for a generated question.
    """

    text: str
    answer: str
    family: str
    difficulty: int
    row: int = 0

    @property
    def split(self) -> Split:
        return split_of(self.text)


def seeded_questions(
    task: str, make: Callable[[random.Random, int], Question], sizes: Sequence[int], seed: int, split: Split, count: int
) -> list[Question]:
    """`count` distinct questions of `split`, made by `make(rng, size)`, every size equally often, shuffled."""
    streams = {
        size: _distinct(make, size, random.Random(f"{task}-{seed * 100 + size}-{split}"), split) for size in sizes
    }
    picked = [next(streams[size]) for size in itertools.islice(itertools.cycle(sizes), count)]
    random.Random(seed).shuffle(picked)
    return picked


def _distinct(
    make: Callable[[random.Random, int], Question], size: int, rng: random.Random, split: Split
) -> Iterator[Question]:
    seen: set[str] = set()
    while True:
        question = make(rng, size)
        if question.split is split and question.text not in seen:
            seen.add(question.text)
            yield question


# The percentage of the hash space at which each split ends (exclusive); it begins where the one before ends.
_SPLIT_LIMITS = ((70, Split.TRAIN), (80, Split.CALIBRATION), (90, Split.VALIDATION), (100, Split.TEST))


def split_of(question: str) -> Split:
    """The split of `question`: a hash of its text decides, whatever its case and white space."""
    folded = " ".join(question.casefold().split())
    percent = int.from_bytes(hashlib.sha256(folded.encode()).digest()[:8]) % 100
    return next(split for limit, split in _SPLIT_LIMITS if percent < limit)

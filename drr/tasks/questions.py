"""The question record shared by every task, and the rule that keeps splits apart.

A question belongs to exactly one split, and a hash of its text decides which. So all programs agree on the split of a
question, whatever seed they made it with.
"""

import hashlib
import itertools
import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
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

    `difficulty` counts the operations that a solution needs; `family` names the kind of question; `source` and `row`
    are the file or dataset that it was read from and its row there, counted from 1 (empty and 0 for a generated one).
    """

    text: str
    answer: str
    family: str
    difficulty: int
    row: int = 0
    source: str = ""

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
        if question.split is split and (identity := folded(question.text)) not in seen:
            seen.add(identity)
            yield question


# The percentage of the hash space at which each split ends (exclusive); it begins where the one before ends.
_SPLIT_LIMITS = ((70, Split.TRAIN), (80, Split.CALIBRATION), (90, Split.VALIDATION), (100, Split.TEST))


def split_of(question: str) -> Split:
    """The split of `question`: a hash of its text decides, however it is spelled (`folded`)."""
    percent = int.from_bytes(hashlib.sha256(folded(question).encode()).digest()[:8]) % 100
    return next(split for limit, split in _SPLIT_LIMITS if percent < limit)


# Characters that leave no mark on the page: soft hyphen, zero-width spaces and joiners, directional marks, invisible
# operators, variation selectors, byte order marks.
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")


def folded(question: str) -> str:
    """What makes two texts the same question: case, white space, invisible characters and the way in which Unicode
    spells a character (composed or not) do not count. Everything that tells one question from another goes by it.

    Only canonical equivalence is folded, not compatibility: 2\u00b2 is not 22.
    """
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", question)).casefold()
    # Folding case may leave characters that compose again; composed text comes out as by a plain casefold.
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def first_spellings(questions: Iterable[str]) -> list[str]:
    """Each question as it was spelled where it came first, so that the same questions are equal texts."""
    first: dict[str, str] = {}
    return [first.setdefault(folded(question), question) for question in questions]

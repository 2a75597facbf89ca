"""Attempts at one response that state the same answer back each other.

Two attempts that come to the same answer by themselves are right more often than either alone. An attempt counts with
its p_now: the answer with the largest sum behind it is elected, and an attempt is believed as if the doubts in it and
in those that agree with it were independent.
"""

import re
from dataclasses import dataclass
from decimal import Decimal

from drr.loop.stated import stated_answer

_CHOICE = re.compile(r"\W*(?:\(([A-Ja-j])\)|([A-J])(?:[).:]|\W*$))")
_TRUTH = re.compile(r"\W*(yes|no|true|false)\b", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_LONGEST = 300
"""Characters of an answer that are read."""


def same_answer(one: str, other: str) -> bool:
    """Whether two answers are the same: by the letter of a choice, by yes or no, by their only number, or else by their
    words. Without knowing what is asked for, nothing finer can be told."""
    return _meaning(one) == _meaning(other)


def _meaning(answer: str) -> object:
    read = answer[:_LONGEST].replace("\N{MINUS SIGN}", "-")
    if choice := _CHOICE.match(read):
        return "choice", (choice[1] or choice[2]).upper()
    if truth := _TRUTH.match(read):
        return "truth", truth[1].lower() in ("yes", "true")
    numbers = _NUMBER.findall(read)
    if len(numbers) == 1:
        return "number", Decimal(numbers[0].replace(",", ""))
    return "words", re.sub(r"\W+", " ", answer).casefold().strip()


@dataclass(frozen=True, slots=True)
class _Vote:
    """The answer that an attempt states (None: it states none), and its p_now."""

    answer: str | None
    p_now: float


class Votes:
    """The attempts that were rejected so far, in order. One without a score counts as one that nobody believes."""

    def __init__(self) -> None:
        self._votes: list[_Vote] = []

    def add(self, thinking: str, p_now: float | None) -> None:
        """The next attempt."""
        self._votes.append(_Vote(stated_answer(thinking), p_now or 0.0))

    def doubt(self, thinking: str) -> float:
        """How likely it is that every attempt with the answer of `thinking` is wrong; 1 where none has it."""
        answer, doubt = stated_answer(thinking), 1.0
        for vote in self._votes:
            if self._agree(vote.answer, answer):
                doubt *= 1.0 - vote.p_now
        return doubt

    def elected(self) -> int:
        """The number of the attempt that answers: of those with the most believed answer, the most believed one."""
        sums = [sum(other.p_now for other in self._votes if self._backs(other, vote)) for vote in self._votes]
        return max(range(len(sums)), key=lambda number: (sums[number], self._votes[number].p_now))

    def _backs(self, other: _Vote, vote: _Vote) -> bool:
        return other is vote or self._agree(other.answer, vote.answer)

    def _agree(self, one: str | None, other: str | None) -> bool:
        return one is not None and other is not None and same_answer(one, other)

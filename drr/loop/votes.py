"""Attempts at one response that state the same answer back each other.

Two attempts that come to the same answer by themselves are right more often than either alone. An attempt counts with
its p_now: the answer with the largest sum behind it is elected, and an attempt is believed as if the doubts in it and
in those that agree with it were independent.
"""

from collections.abc import Callable
from dataclasses import dataclass

from drr.loop.stated import stated_answer

SameAnswer = Callable[[str, str], bool]
"""Whether two answers are the same."""


def same_text(one: str, other: str) -> bool:
    """Whether two answers are the same but for case and white space."""
    return one.casefold().split() == other.casefold().split()


@dataclass(frozen=True, slots=True)
class _Vote:
    """The answer that an attempt states (None: it states none), and its p_now."""

    answer: str | None
    p_now: float


class Votes:
    """The attempts that were rejected so far, in order. One without a score counts as one that nobody believes."""

    def __init__(self, same: SameAnswer = same_text) -> None:
        self._same = same
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
        return one is not None and other is not None and self._same(one, other)

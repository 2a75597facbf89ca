"""The protocol that every scorer follows."""

from dataclasses import dataclass
from typing import Protocol

from drr.policy import Score


class ScorerUnavailableError(Exception):
    """The scorer cannot answer any more (its engine is gone); the request goes on without it."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """A closed step: its index in the attempt, its text, and the behaviour features there (None if unknown)."""

    index: int
    text: str
    features: list[float] | None


class ScoringSession(Protocol):
    """Scores the boundaries of one attempt, in order of their index."""

    async def score(self, boundary: Boundary) -> Score:
        """The boundary's score; ScorerUnavailableError when there will never be one again.

        Takes the boundary's text before it first awaits, so that calls started in order see the steps in order.
        """
        ...


class Scorer(Protocol):
    """Judges step boundaries; shared by all requests."""

    id: str

    def session(self, question: str) -> ScoringSession:
        """A session for one attempt at `question`."""
        ...

"""The protocol that every scorer follows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from drr.loop.policy import Score
from drr.loop.probing import Probe


class ScorerUnavailableError(Exception):
    """The scorer cannot answer any more (its engine is gone); the request goes on without it."""


def _no_context() -> list[int]:
    return []


@dataclass(frozen=True, slots=True)
class Boundary:
    """A boundary to be judged: its index among the attempt's judged ones, the text since the last one, the behaviour
    features here (None if unknown), that text's sampled tokens' natural-log probabilities (None where unknown), the
    whole context up to here, as token ids, and the steps of which the text consists (one, unless some were passed
    over). `states` is what heads in the Reasoner's engine say of the context up to here, None if unknown."""

    index: int
    text: str
    features: list[float] | None
    logprobs: Sequence[float | None] = ()
    context: Callable[[], list[int]] = _no_context
    parts: tuple[str, ...] = ()
    states: tuple[float, ...] | None = None

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps since the last judged boundary."""
        return self.parts or (self.text,)


class ScoringSession(Protocol):
    """Scores the boundaries of one attempt, in order of their index."""

    async def score(self, boundary: Boundary) -> Score:
        """The boundary's score; ScorerUnavailableError when there will never be one again.

        Takes the boundary's text before it first awaits, so that calls started in order see the steps in order.
        """
        ...


@runtime_checkable
class StateSession(ScoringSession, Protocol):
    """Scores by what heads in the Reasoner's engine say, which comes with the token behind a boundary. So boundaries
    are brought to it when that token is there, or will never come."""

    def score_at_once(self, boundary: Boundary) -> Score | None:
        """The boundary's score, if nobody has to be asked for it."""
        ...


class Scorer(Protocol):
    """Judges step boundaries; shared by all requests."""

    id: str

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> ScoringSession:
        """A session for one attempt at `question`. Scorers that ask the Reasoner itself do so by `probe`. What a scorer
        keeps of it for later sessions, it keeps for those with the same `cache_salt` only."""
        ...

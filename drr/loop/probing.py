"""Short questions to the Reasoner beside its thinking: what would you answer now, is this right?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from drr.loop.formats import ReasoningFormat


@dataclass(frozen=True, slots=True)
class ProbedToken:
    """A generated token: its text, its natural-log probability, those of the likeliest tokens by text, and its id."""

    text: str
    logprob: float
    likeliest: dict[str, float]
    id: int = -1


class Probe(Protocol):
    """Greedy completions by the Reasoner; cancelling the task that awaits one frees its engine request.

    `tokens` counts what was generated. `form` is how the Reasoner marks its thinking.
    """

    form: ReasoningFormat
    tokens: int

    async def complete(
        self, ids: Sequence[int], max_tokens: int, likeliest: int = 0, stop: Sequence[str] = ()
    ) -> list[ProbedToken]:
        """At most `max_tokens` tokens behind `ids`, the end of the turn left out. `likeliest` alternatives are
        reported with each. The token that completes one of the texts `stop` is the last."""
        ...

    async def states(self, ids: Sequence[int]) -> tuple[float, ...] | None:
        """What heads in the Reasoner's engine say of the context `ids`, two logits each, for the price of a token; None
        where there are none."""
        ...

    def ask(self, message: str, *, think: bool) -> list[int]:
        """The ids of a conversation in which the user says `message` and the Reasoner is to reply, with its thinking
        open or closed already."""
        ...


def text_of(tokens: Sequence[ProbedToken]) -> str:
    """What was generated."""
    return "".join(token.text for token in tokens)

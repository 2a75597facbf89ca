"""What a Reasoner behind a chat endpoint is asked, and what it says."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from drr.loop.policy import PolicySettings
from drr.loop.rethink import OnExhausted
from drr.loop.steps import StepRule

Tier = Literal["prefix", "opaque"]
"""`prefix`: a thought that is handed back is taken as it is, so that thinking can be ended from outside. `opaque`: only
whole answers can be had."""


NEVER_ENDS: Mapping[str, Any] = {"threshold": None, "hopeless": None, "min_gain": None, "patience": 1}
"""What remains of a rule where nothing can end thinking (tier opaque)."""


class Field(StrEnum):
    """Where a text belongs."""

    REASONING = "reasoning"
    CONTENT = "content"


@dataclass(frozen=True, slots=True)
class Piece:
    """The next bit of an output. It counts as one token until the upstream has counted; an `injected` one is a text
    that nobody generated."""

    field: Field
    text: str
    injected: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """The end of one request. `generated_tokens` are all of it, `thinking_tokens` the thinking among them: None where
    the upstream does not tell them apart. `message` are fields of the message beside its texts (tool calls, a
    refusal)."""

    finish_reason: str
    generated_tokens: int
    thinking_tokens: int | None
    message: dict[str, Any] = field(default_factory=dict)

    @property
    def speaks(self) -> bool:
        """Whether the Reasoner says something else than an answer that could be judged."""
        return bool(self.message.get("tool_calls") or self.message.get("refusal"))


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for an attempt; `attempt` counts those that were not lost to a failure. `room` are the tokens that it
    may generate. Behind `thought`, which is taken as over, only the answer is asked for."""

    attempt: int
    room: int | None
    thought: str | None = None


class ChatReasoner(Protocol):
    """Answers a conversation. Closing the generator closes the upstream's request; the last item is an Answered."""

    def stream(self, ask: Ask) -> AsyncGenerator[Piece | Answered, None]: ...


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """Everything that governs one response; counts are in the upstream's tokens where it tells them, else in pieces.

    `deadline` is in seconds from a boundary to its verdict. `answer_tokens` of `max_tokens` are kept for the answer
    where thinking can be ended (tier prefix). `attempt_tokens` bounds each attempt, `max_tokens` all of them.
    """

    tier: Tier
    policy: PolicySettings
    rule: StepRule
    max_tokens: int | None = None
    attempt_tokens: int | None = None
    max_thinking_tokens: int | None = None
    answer_tokens: int = 0
    min_step_tokens: int = 0
    deadline: float = 1.0
    max_rethinks: int = 0
    on_exhausted: OnExhausted = "best"
    parallel: int = 1
    separator: str = ""
    refusal: str = ""

    @property
    def rejects(self) -> bool:
        """Whether attempts may be rejected."""
        return self.policy.accept is not None


@dataclass(frozen=True, slots=True)
class Shown:
    """Output for the client."""

    field: Field
    text: str

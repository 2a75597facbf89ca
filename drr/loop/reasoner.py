"""The Reasoner as the loop sees it: something that streams tokens from a list of token ids.

One protocol, so that the loop runs the same over vLLM, in distillation and over the tests' fake.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Token:
    """One output token.

    `text` is what it adds to the decoded text (empty inside a multi-byte character). `logprob` is the natural-log
    probability of the token under the Reasoner, None if unknown or if it was injected. `detail` is the engine's
    own record of the token, handed back untouched. `states` is what heads in the engine say of the context before this
    token (two logits each, head by head), None where there are none or they were not read.
    """

    id: int
    text: str
    logprob: float | None = None
    detail: Any = None
    injected: bool = False
    states: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens of a stream; `finish_reason` on the last one ("stop", "length", "abort", ...).

    `text` can differ from the tokens' joined text only in answers, where stop strings cut it.
    """

    tokens: tuple[Token, ...]
    text: str
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class Phase(StrEnum):
    """What a segment is for."""

    THINK = "think"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Segment:
    """One engine request of a response.

    `ids` is the whole context: prompt and everything kept so far. `carried` are the output tokens among them, which
    penalties and `min_tokens` still have to count. `number` counts the response's requests from 0; a seeded request
    derives each one's seed from it. `max_tokens` is what the engine may generate. `cut` tells that the thinking was
    ended from outside: `min_tokens` asks for nothing more.
    """

    phase: Phase
    number: int
    ids: Sequence[int]
    carried: Sequence[int]
    max_tokens: int
    cut: bool = False


class Reasoner(Protocol):
    """Streams tokens. Closing the generator, or cancelling the task that runs it, frees the engine request.

    In a THINK segment, tokens arrive with their own text and log-probability, and the stream goes on past a close
    of the thinking into the answer.
    """

    def stream(self, segment: Segment) -> AsyncGenerator[Delta, None]: ...


def injected(ids: Sequence[int], text: str) -> tuple[Token, ...]:
    """A text as tokens that nobody generated; the first one carries the text."""
    return tuple(Token(token_id, "" if place else text, injected=True) for place, token_id in enumerate(ids))


def user_prompt(tokenizer: Any, message: str) -> list[int]:
    """The ids of a conversation in which the user says `message` and the Reasoner is to reply."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": message}], add_generation_prompt=True, tokenize=False
    )
    ids: list[int] = tokenizer.encode(rendered, add_special_tokens=False)
    return ids

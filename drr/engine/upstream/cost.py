"""What a response costs at an upstream: every request that was sent for it, in tokens and in money.

The upstream's own `usage` counts wherever it came. A request that ended without one (it was aborted, cut off, or the
upstream reports none) is estimated, and `estimated_requests` says how many were.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from drr.errors import InputError

PRICE_FLAG = "--upstream-price"

_MILLION = 1_000_000
_CHARACTERS = 4
"""Of a token, about, in the languages that tokenizers are made for."""


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has, where nobody has counted them."""
    return math.ceil(len(text) / _CHARACTERS)


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars per million tokens: of the prompt, of what of it was cached, and of what was generated."""

    input: float
    cached: float
    output: float

    @classmethod
    def parse(cls, values: Sequence[str] | None) -> Self | None:
        """Three numbers as `--upstream-price INPUT CACHED OUTPUT` gives them; None for None. InputError where they are
        no prices."""
        if values is None:
            return None
        if len(values) != len(cls.__slots__):
            raise InputError(PRICE_FLAG, "takes three numbers: INPUT CACHED OUTPUT, in dollars per million tokens")
        numbers = []
        for name, value in zip(("INPUT", "CACHED", "OUTPUT"), values, strict=True):
            try:
                number = float(value)
            except ValueError:
                raise InputError(PRICE_FLAG, f"{name} must be a number, not {value[:40]!r}") from None
            if not 0.0 <= number < math.inf:
                raise InputError(PRICE_FLAG, f"{name} must be 0 or more, not {value}")
            numbers.append(number)
        return cls(*numbers)


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one request, as the upstream reports them. `cached` is the part of the prompt that it had cached,
    `reasoning` the part of the completion that is thinking; None where it does not say."""

    prompt: int
    completion: int
    cached: int | None = None
    reasoning: int | None = None

    @classmethod
    def read(cls, usage: Any) -> Self | None:
        """A `usage` object of OpenAI's shape, or of DeepSeek's, which tells cached tokens in a key of its own. None
        where it has no counts."""
        if not isinstance(usage, Mapping):
            return None
        prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        if prompt is None or completion is None:
            return None
        cached = _count(_part(usage, "prompt_tokens_details", "cached_tokens"))
        if cached is None:
            cached = _count(usage.get("prompt_cache_hit_tokens"))
        reasoning = _count(_part(usage, "completion_tokens_details", "reasoning_tokens"))
        return cls(
            prompt,
            completion,
            None if cached is None else min(cached, prompt),
            None if reasoning is None else min(reasoning, completion),
        )


@dataclass(slots=True)
class Cost:
    """The sum over a response's requests. `cached_prompt_tokens` is None once a request did not tell: then nothing is
    counted as cached, so that `usd` is never less than what is due."""

    requests: int = 0
    prompt_tokens_sent: int = 0
    cached_prompt_tokens: int | None = None
    completion_tokens: int = 0
    estimated_requests: int = 0

    def add(self, usage: Usage, *, estimated: bool = False) -> None:
        """One more request."""
        self.include(Cost(1, usage.prompt, usage.cached, usage.completion, int(estimated)))

    def include(self, other: "Cost") -> None:
        """All requests of another sum."""
        if other.requests == 0:
            return
        if self.requests == 0:
            self.cached_prompt_tokens = other.cached_prompt_tokens
        elif self.cached_prompt_tokens is not None:
            cached = other.cached_prompt_tokens
            self.cached_prompt_tokens = None if cached is None else self.cached_prompt_tokens + cached
        self.requests += other.requests
        self.prompt_tokens_sent += other.prompt_tokens_sent
        self.completion_tokens += other.completion_tokens
        self.estimated_requests += other.estimated_requests

    def add_estimate(self, prompt: str, completion_tokens: int) -> None:
        """One more request that ended without the upstream's count: this text was sent, and about so many tokens had
        come."""
        self.add(Usage(estimated_tokens(prompt), completion_tokens), estimated=True)

    def usd(self, prices: Prices | None) -> float | None:
        """What is due for it; None without prices."""
        if prices is None:
            return None
        cached = self.cached_prompt_tokens or 0
        due = (
            (self.prompt_tokens_sent - cached) * prices.input
            + cached * prices.cached
            + self.completion_tokens * prices.output
        )
        return due / _MILLION

    def to_json(self, prices: Prices | None) -> dict[str, Any]:
        """The object `drr.cost` of a response."""
        usd = self.usd(prices)
        return {
            "requests": self.requests,
            "prompt_tokens_sent": self.prompt_tokens_sent,
            "cached_prompt_tokens": self.cached_prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "estimated_requests": self.estimated_requests,
            "usd": None if usd is None else round(usd, 9),
        }


def _part(usage: Mapping[str, Any], details: str, name: str) -> Any:
    found = usage.get(details)
    return found.get(name) if isinstance(found, Mapping) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

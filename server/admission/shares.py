"""What the holder of a key has used, against what it may."""

import math
import time
from collections.abc import Callable
from contextvars import ContextVar

from server.admission.api_keys import ApiKey, KeyLimits
from server.refusals import Refusal, busy

_MINUTE = 60.0
_NOT_LONG = 1.0
"""Seconds after which a request that found all of a key's places taken is told to come again."""


class Share:
    """One key's use: requests under way, and a bucket of tokens that fills at `limits.tokens` a minute. What a request
    will use is not known before it has; so one is let in while anything is left, and what it used is taken off when
    that is known."""

    def __init__(self, name: str, limits: KeyLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.limits, self._clock = name, limits, clock
        self.running = 0
        self._left, self._filled = float(limits.tokens or 0), clock()

    @property
    def counts(self) -> bool:
        """Whether somebody has to tell what requests use."""
        return self.limits.tokens is not None

    def change(self, limits: KeyLimits) -> None:
        """Other limits from now on. What has been used stays used."""
        if limits.tokens is not None:
            self._left = self.left() + limits.tokens - (self.limits.tokens or 0) if self.counts else limits.tokens
            self._filled = self._clock()
        self.limits = limits

    def left(self) -> float:
        """Tokens that may be used now; below 0 where a request has used more than there were."""
        if self.limits.tokens is None:
            return math.inf
        now = self._clock()
        filled = self._left + (now - self._filled) * self.limits.tokens / _MINUTE
        self._left, self._filled = min(filled, float(self.limits.tokens)), now
        return self._left

    def use(self, tokens: int) -> None:
        """These have been used."""
        if self.counts:
            self._left = self.left() - tokens

    def refusal(self) -> Refusal | None:
        """Why no other request of this key may begin now; None where one may."""
        most = self.limits.running
        if most is not None and self.running >= most:
            return busy(f"{self.name} has {self.running} requests under way, which is its limit", _NOT_LONG)
        if self.limits.tokens is not None and self.left() <= 0:
            seconds = (1 - self.left()) * _MINUTE / self.limits.tokens
            return busy(f"{self.name} has used its {self.limits.tokens} tokens a minute", seconds, "tokens")
        return None

    def headers(self) -> dict[str, str]:
        """OpenAI's headers about the limit on tokens."""
        if self.limits.tokens is None:
            return {}
        missing = self.limits.tokens - self.left()
        return {
            "x-ratelimit-limit-tokens": str(self.limits.tokens),
            "x-ratelimit-remaining-tokens": str(max(0, int(self.left()))),
            "x-ratelimit-reset-tokens": f"{missing * _MINUTE / self.limits.tokens:.0f}s",
        }


class Shares:
    """The share of every key that has been used."""

    def __init__(self) -> None:
        self._by_name: dict[str, Share] = {}

    def of(self, key: ApiKey) -> Share:
        """This key's."""
        share = self._by_name.get(key.name)
        if share is None:
            share = self._by_name[key.name] = Share(key.name, key.limits)
        elif share.limits != key.limits:
            share.change(key.limits)
        return share


USING: ContextVar[Share | None] = ContextVar("drr_share", default=None)
"""The share that the request uses for which the current task works, where somebody has to tell what is used."""

"""How what heads in the Reasoner's engine say is read from the log-probabilities of its tokens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_NAMED = 128
"""The most ids that vLLM lets a request name."""

_HIGHEST_LEVEL = -200.0
"""No token's log-probability is as low as that of a level; where this one is higher, it was never written."""


@dataclass(frozen=True, slots=True)
class StateIds:
    """The spare token ids through which heads are read: that of the level, and those of their outputs, head by head."""

    level: int
    outputs: tuple[int, ...]

    @property
    def all(self) -> list[int]:
        """What a request asks for."""
        return [self.level, *self.outputs]

    def beside(self, named: Sequence[int] | None) -> list[int] | None:
        """What a request asks for that names ids of its own; None where that would be more than vLLM allows."""
        together = list(dict.fromkeys([*(named or ()), *self.all]))
        return together if len(together) <= MOST_NAMED else None

    def read(self, told: Mapping[int, Any]) -> tuple[float, ...] | None:
        """The heads' outputs from the log-probabilities of a token's alternatives; None where those do not tell them
        (they were not asked for, a grammar has forbidden the ids, or no head has written there)."""
        level = told.get(self.level)
        if level is None or not math.isfinite(level.logprob) or level.logprob > _HIGHEST_LEVEL:
            return None
        found = [told[token].logprob - level.logprob for token in self.outputs if token in told]
        return tuple(found) if len(found) == len(self.outputs) and all(map(math.isfinite, found)) else None

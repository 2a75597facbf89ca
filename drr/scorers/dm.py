"""The DM as a scorer: a vLLM pooling engine for the text, the fusion head for the rest.

Causal classifiers pool the last token, so a longer context reuses the shorter one's prefix cache and a boundary
costs only its own step.
"""

import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from vllm.inputs.engine import tokens_input
from vllm.outputs import PoolingRequestOutput
from vllm.pooling_params import PoolingParams
from vllm.v1.engine.exceptions import EngineDeadError

from drr.dm_input import DmInput, Tokenizer
from drr.head import FusionHead
from drr.policy import Score
from drr.probing import Probe
from drr.scorers.protocol import Boundary, ScorerUnavailableError

Encode = Callable[..., AsyncGenerator[PoolingRequestOutput, None]]


@dataclass(frozen=True, slots=True)
class Classified:
    """The classifier's raw logits, and how many of the input's tokens came from its prefix cache; None if unknown."""

    now: float
    later: float
    cached: int | None = None


Classify = Callable[[list[int]], Awaitable[Classified]]


class LocalClassifier:
    """The DM's classifier on an engine in this process; `encode` is AsyncLLM.encode of that engine."""

    def __init__(self, encode: Encode) -> None:
        self._encode, self._numbers = encode, itertools.count()

    async def __call__(self, ids: list[int]) -> Classified:
        """The logits of this input; EngineDeadError once the engine is gone."""
        params = PoolingParams(task="classify", use_activation=False)
        async for output in self._encode(tokens_input(ids), params, f"dm-{next(self._numbers)}"):
            now, later = output.outputs.data.tolist()
            cached = output.num_cached_tokens
        return Classified(now, later, cached)


class DmScorer:
    """Scores boundaries with the DM.

    The death of its engine is reported through `on_death`, once; from then on every score fails at once. `on_tokens` is
    told how many tokens of an input were computed and how many cached.
    """

    def __init__(
        self,
        id: str,
        classify: Classify,
        tokenizer: Tokenizer,
        head: FusionHead,
        max_tokens: int,
        on_death: Callable[[BaseException], None] = lambda error: None,
        on_tokens: Callable[[int, int], None] = lambda computed, cached: None,
    ) -> None:
        self.id = id
        self.dead = False
        self._classify, self._tokenizer, self._head = classify, tokenizer, head
        self._max_tokens, self._on_death, self._on_tokens = max_tokens, on_death, on_tokens

    def session(self, question: str, probe: Probe | None = None) -> "DmSession":
        return DmSession(self, DmInput(self._tokenizer, question, self._max_tokens))

    async def logits(self, ids: list[int]) -> tuple[float, float]:
        """The classifier's raw (now, later) logits; ScorerUnavailableError once its engine is gone."""
        if self.dead:
            raise ScorerUnavailableError(self.id)
        try:
            found = await self._classify(ids)
        except EngineDeadError as error:
            if not self.dead:
                self.dead = True
                self._on_death(error)
            raise ScorerUnavailableError(self.id) from error
        if found.cached is not None:
            self._on_tokens(len(ids) - found.cached, found.cached)
        return found.now, found.later

    def fuse(self, logits: tuple[float, float], features: list[float] | None) -> Score:
        return self._head.score(logits, features)


class DmSession:
    """One attempt's boundaries."""

    def __init__(self, scorer: DmScorer, context: DmInput) -> None:
        self._scorer, self._context = scorer, context

    async def score(self, boundary: Boundary) -> Score:
        for step in boundary.steps:
            ids = self._context.append(step)
        return self._scorer.fuse(await self._scorer.logits(ids), boundary.features)


def tokenizer_of(engine: Any) -> Tokenizer:
    """The tokenizer that a vLLM engine loaded for its model."""
    tokenizer: Tokenizer = engine.renderer.tokenizer
    return tokenizer

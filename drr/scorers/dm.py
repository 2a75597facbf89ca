"""The DM as a scorer: a vLLM pooling engine for the text, the fusion head for the rest.

Causal classifiers pool the last token, so a longer context reuses the shorter one's prefix cache and a boundary
costs only its own step.
"""

import itertools
from collections.abc import AsyncGenerator, Callable
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


class DmScorer:
    """Scores boundaries with the DM; `encode` is AsyncLLM.encode of its engine.

    The first failure of the engine is reported through `on_death`, once; from then on every score fails at once.
    """

    def __init__(
        self,
        id: str,
        encode: Encode,
        tokenizer: Tokenizer,
        head: FusionHead,
        max_tokens: int,
        on_death: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.id = id
        self.dead = False
        self._encode, self._tokenizer, self._head = encode, tokenizer, head
        self._max_tokens, self._on_death = max_tokens, on_death
        self._numbers = itertools.count()

    def session(self, question: str, probe: Probe | None = None) -> "DmSession":
        return DmSession(self, DmInput(self._tokenizer, question, self._max_tokens))

    async def logits(self, ids: list[int]) -> tuple[float, float]:
        """The classifier's raw (now, later) logits; ScorerUnavailableError once its engine is gone."""
        if self.dead:
            raise ScorerUnavailableError(self.id)
        request = self._encode(
            tokens_input(ids), PoolingParams(task="classify", use_activation=False), f"dm-{next(self._numbers)}"
        )
        try:
            async for output in request:
                now, later = output.outputs.data.tolist()
        except EngineDeadError as error:
            if not self.dead:
                self.dead = True
                self._on_death(error)
            raise ScorerUnavailableError(self.id) from error
        return now, later

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

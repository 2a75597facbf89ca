"""The DM as a scorer: a vLLM pooling engine for the text, the fusion head for the rest.

Causal classifiers pool the last token, so a longer context reuses the shorter one's prefix cache and a boundary
costs only its own step. One input per attempt is under way at a time: two at once would compute what they share twice.
Boundaries that close meanwhile are judged together afterwards, in one pass.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
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

Logits = tuple[float, float]
"""The classifier's raw (now, later)."""


@dataclass(frozen=True, slots=True)
class Classified:
    """Logits at the ends that were asked for; how many tokens were computed and how many cached, None if unknown."""

    logits: list[Logits]
    computed: int | None = None
    cached: int | None = None


Classify = Callable[[list[int], Sequence[int]], Awaitable[Classified]]
"""An input, and the ends in it whose logits are wanted: counts of its first ids, none less than the one before."""


class LocalClassifier:
    """The DM's classifier on an engine in this process.

    `encode` is AsyncLLM.encode of that engine; `causal` says whether an input's logits at an end are those of the input
    up to there, so that one pass gives them all.
    """

    def __init__(self, encode: Encode, *, causal: bool) -> None:
        self._encode, self._causal, self._numbers = encode, causal, itertools.count()

    async def __call__(self, ids: list[int], ends: Sequence[int]) -> Classified:
        """The logits at these ends; EngineDeadError once the engine is gone."""
        if len(ends) == 1 or not self._causal:
            return await self._one_by_one(ids, ends)
        every = PoolingParams(task="token_classify", use_activation=False, skip_reading_prefix_cache=False)
        rows, cached = await self._run(ids, every)
        if ends[0] <= cached:  # another attempt has had the same steps: what is in the cache has no rows
            return await self._one_by_one(ids, ends)
        return Classified([_pair(rows[end - cached - 1]) for end in ends], len(ids) - cached, cached)

    async def _one_by_one(self, ids: list[int], ends: Sequence[int]) -> Classified:
        last = PoolingParams(task="classify", use_activation=False)
        found = await asyncio.gather(*(self._run(ids[:end], last) for end in ends))
        cached = sum(own for _, own in found)
        return Classified([_pair(row) for row, _ in found], sum(ends) - cached, cached)

    async def _run(self, ids: list[int], params: PoolingParams) -> tuple[list[Any], int]:
        """What the pooler gives, and how many tokens of the input were cached."""
        async for output in self._encode(tokens_input(ids), params, f"dm-{next(self._numbers)}"):
            found = output.outputs.data.tolist(), output.num_cached_tokens
        return found


def _pair(row: Sequence[float]) -> Logits:
    now, later = row
    return now, later


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

    async def logits(self, ids: list[int], ends: Sequence[int]) -> list[Logits]:
        """The classifier's raw logits at these ends of an input; ScorerUnavailableError once its engine is gone."""
        if self.dead:
            raise ScorerUnavailableError(self.id)
        try:
            found = await self._classify(ids, ends)
        except EngineDeadError as error:
            if not self.dead:
                self.dead = True
                self._on_death(error)
            raise ScorerUnavailableError(self.id) from error
        if found.computed is not None and found.cached is not None:
            self._on_tokens(found.computed, found.cached)
        return found.logits

    def fuse(self, logits: Logits, features: list[float] | None) -> Score:
        return self._head.score(logits, features)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A boundary to be judged: the input up to it, and its logits once they are known."""

    ids: list[int]
    logits: Logits | None = None


class DmSession:
    """One attempt's boundaries."""

    def __init__(self, scorer: DmScorer, context: DmInput) -> None:
        self._scorer, self._context = scorer, context
        self._turn = asyncio.Lock()
        self._waiting: list[_Waiting] = []

    async def score(self, boundary: Boundary) -> Score:
        for step in boundary.steps:
            ids = self._context.append(step)
        own = _Waiting(ids)
        self._waiting.append(own)
        try:
            async with self._turn:
                logits = own.logits or await self._judge(own)
        finally:
            self._waiting.remove(own)
        return self._scorer.fuse(logits, boundary.features)

    async def _judge(self, first: _Waiting) -> Logits:
        """Judge this boundary, and with it those behind it that wait already."""
        together = [own for own in self._waiting if own.ids[: len(first.ids)] == first.ids]
        found = await self._scorer.logits(together[-1].ids, [len(own.ids) for own in together])
        for own, logits in zip(together, found, strict=True):
            own.logits = logits
        return found[0]


def tokenizer_of(engine: Any) -> Tokenizer:
    """The tokenizer that a vLLM engine loaded for its model."""
    tokenizer: Tokenizer = engine.renderer.tokenizer
    return tokenizer

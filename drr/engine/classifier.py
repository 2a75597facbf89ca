"""Models that judge, on vLLM pooling engines of this process: the DM's classifier and process reward models."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

from vllm.inputs.engine import tokens_input
from vllm.outputs import PoolingRequestOutput
from vllm.pooling_params import PoolingParams
from vllm.v1.engine.exceptions import EngineDeadError

from drr.judge.dm_input import Tokenizer
from drr.judge.scorers.dm import Classified, Logits
from drr.loop.scoring import ScorerUnavailableError

Encode = Callable[..., AsyncGenerator[PoolingRequestOutput, None]]


class LocalClassifier:
    """The DM's classifier on an engine in this process.

    `encode` is AsyncLLM.encode of that engine; `causal` says whether an input's logits at an end are those of the input
    up to there, so that one pass gives them all.
    """

    def __init__(self, encode: Encode, *, causal: bool) -> None:
        self._encode, self._causal, self._numbers = encode, causal, itertools.count()

    async def __call__(self, ids: list[int], ends: Sequence[int], cache_salt: str | None = None) -> Classified:
        """The logits at these ends; ScorerUnavailableError once the engine is gone."""
        if len(ends) == 1 or not self._causal:
            return await self._one_by_one(ids, ends, cache_salt)
        every = PoolingParams(task="token_classify", use_activation=False, skip_reading_prefix_cache=False)
        rows, cached = await self._run(ids, every, cache_salt)
        if ends[0] <= cached:  # another attempt has had the same steps: what is in the cache has no rows
            return await self._one_by_one(ids, ends, cache_salt)
        return Classified([_pair(rows[end - cached - 1]) for end in ends], len(ids) - cached, cached)

    async def _one_by_one(self, ids: list[int], ends: Sequence[int], cache_salt: str | None) -> Classified:
        last = PoolingParams(task="classify", use_activation=False)
        found = await asyncio.gather(*(self._run(ids[:end], last, cache_salt) for end in ends))
        cached = sum(count for _, count in found)
        return Classified([_pair(row) for row, _ in found], sum(ends) - cached, cached)

    async def _run(self, ids: list[int], params: PoolingParams, cache_salt: str | None) -> tuple[list[Any], int]:
        """What the pooler gives, and how many tokens of the input were cached."""
        with _unavailable_when_dead():
            prompt = tokens_input(ids, cache_salt=cache_salt)
            async for output in self._encode(prompt, params, f"dm-{next(self._numbers)}"):
                found = output.outputs.data.tolist(), output.num_cached_tokens
        return found


class StepRewards:
    """A process reward model on an engine in this process; `encode` is AsyncLLM.encode of that engine."""

    def __init__(self, encode: Encode) -> None:
        self._encode, self._numbers = encode, itertools.count()

    async def __call__(self, ids: list[int]) -> list[float]:
        """Every step's probability of being right; ScorerUnavailableError once the engine is gone."""
        params = PoolingParams(task="token_classify", use_activation=False)
        with _unavailable_when_dead():
            async for output in self._encode(tokens_input(ids), params, f"prm-{next(self._numbers)}"):
                logits = output.outputs.data
        return [float(reward) for reward in logits.float().softmax(-1)[:, 1]]


@contextlib.contextmanager
def _unavailable_when_dead() -> Iterator[None]:
    """An engine that is gone, told as scorers tell it."""
    try:
        yield
    except EngineDeadError as error:
        raise ScorerUnavailableError(str(error)) from error


def _pair(row: Sequence[float]) -> Logits:
    now, later = row
    return now, later


def tokenizer_of(engine: Any) -> Tokenizer:
    """The tokenizer that a vLLM engine loaded for its model."""
    tokenizer: Tokenizer = engine.renderer.tokenizer
    return tokenizer

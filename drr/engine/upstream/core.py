"""The core of an engine whose model runs elsewhere: what AsyncLLM sends its engine's process goes to an upstream.

AsyncLLM keeps everything in front of a core as it is: rendering, validation, stop texts, detokenization, choices side
by side, metrics. A request that is added becomes one streamed completion; one that is aborted closes its stream, so
that the upstream gives up, too.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, FinishReason
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.outputs import LogprobsLists

from drr.engine.upstream.abilities import UpstreamAbilities
from drr.engine.upstream.completions import Chunk, body_of, ended_by_token, prompt_for, read_chunk
from drr.engine.upstream.cost import Usage
from drr.engine.upstream.errors import UpstreamError
from drr.engine.upstream.http import UpstreamClient

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "repetition": FinishReason.REPETITION}

Billed = Callable[[str, Usage, bool], None]
"""Takes the id of a request, as AsyncLLM.generate was given it, its tokens, and whether they are estimated."""


@dataclass(slots=True)
class _Bill:
    """What one request took. It is paid once, by the upstream's own count where that has come; a request of which
    nothing has come, and none is said to be, was never taken."""

    take: Billed
    request_id: str
    prompt: int
    generated: int = 0
    told: Usage | None = None
    _reached: bool = False
    _paid: bool = False

    def reached(self, tokens: int) -> None:
        """So many more tokens have come."""
        self._reached, self.generated = True, self.generated + tokens

    def pay(self) -> bool:
        """Whether this was the first time."""
        if self._paid:
            return False
        self._paid = True
        if self._reached:
            self.take(self.request_id, self.told or Usage(self.prompt, self.generated), self.told is None)
        return True


class UpstreamCore(EngineCoreClient):
    """Stands where AsyncLLM's client of its engine process stands.

    `failed` is told which request failed at the upstream, and how: it has to end it. `billed` is told of every request
    that reached the upstream. `stop_ids` end a turn; the first stands for the end where the upstream does not send it.
    """

    def __init__(
        self, client: UpstreamClient, abilities: UpstreamAbilities, tokenizer: Any, stop_ids: list[int]
    ) -> None:
        self.client, self.abilities, self.tokenizer = client, abilities, tokenizer
        self.failed: Callable[[str, UpstreamError], None] = lambda request_id, error: None
        self.billed: Billed = lambda request_id, usage, estimated: None
        self.engine_ranks_managed = [0]
        self.resources = SimpleNamespace(engine_dead=False, engine_manager=None)
        self.stop_ids = stop_ids
        self._outputs: asyncio.Queue[EngineCoreOutput] = asyncio.Queue()
        self._streams: dict[str, tuple[asyncio.Task[None], _Bill]] = {}

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        bill = _Bill(self.billed, request.external_req_id or request.request_id, len(request.prompt_token_ids or ()))
        task = asyncio.create_task(self._stream(request, bill))
        self._streams[request.request_id] = task, bill
        task.add_done_callback(lambda _: self._streams.pop(request.request_id, None))

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            task, bill = self._streams.get(request_id, (None, None))
            if task is not None and bill is not None:
                bill.pay()
                task.cancel()

    async def get_output_async(self) -> EngineCoreOutputs:
        """What has come since this was asked last."""
        found = [await self._outputs.get()]
        while not self._outputs.empty():
            found.append(self._outputs.get_nowait())
        return EngineCoreOutputs(outputs=found)

    async def get_supported_tasks_async(self) -> tuple[Any, ...]:
        return ("generate",)

    async def is_sleeping_async(self) -> bool:
        return False

    async def reset_mm_cache_async(self) -> None:
        """There is none."""

    async def reset_encoder_cache_async(self) -> None:
        """There is none."""

    def dp_engines_running(self) -> bool:
        return bool(self._streams)

    def shutdown(self, timeout: float | None = None) -> None:
        """Ends every stream. The client is its owner's to close."""
        for task, _ in list(self._streams.values()):
            with contextlib.suppress(RuntimeError):  # the event loop is gone, and the streams with it
                task.cancel()

    async def _stream(self, request: EngineCoreRequest, bill: "_Bill") -> None:
        params, prompt_ids = request.sampling_params, request.prompt_token_ids
        assert params is not None
        assert prompt_ids is not None
        prompt = prompt_for(prompt_ids, self.abilities, self.tokenizer)
        body = body_of(params, prompt, self.abilities, cache_salt=request.cache_salt)
        last: EngineCoreOutput | None = None
        try:
            async with contextlib.aclosing(self.client.events("completions", body)) as events:
                async for event in events:
                    chunk = read_chunk(event, self.abilities, self.tokenizer)
                    if last is None and (chunk.ids or chunk.finish_reason):
                        stats = None if bill.generated else _prefilled(len(prompt_ids), chunk.usage)
                        output = self._output(request, chunk, params.num_logprobs, stats)
                        bill.reached(len(output.new_token_ids))
                        if output.finish_reason is None:
                            self._outputs.put_nowait(output)
                        else:
                            last = output  # whoever is told of the end reads the bill
                    bill.told = chunk.usage or bill.told
                    if last is not None and (bill.told or not self.abilities.usage):
                        self._end(last, bill)
            if last is None:
                raise UpstreamError("cut", "the upstream's answer has no end")
        except UpstreamError as error:
            if last is None:
                bill.pay()
                self.failed(request.request_id, error)
        if last is not None:
            self._end(last, bill)

    def _end(self, last: EngineCoreOutput, bill: "_Bill") -> None:
        """Hand on a request's last output, once, when its bill is paid."""
        if bill.pay():
            self._outputs.put_nowait(last)

    def _output(
        self, request: EngineCoreRequest, chunk: Chunk, logprobs: int | None, stats: PrefillStats | None
    ) -> EngineCoreOutput:
        ids, likely, reason = chunk.ids, chunk.likely, None
        stop = chunk.stop_reason if isinstance(chunk.stop_reason, int) else None
        if chunk.finish_reason is not None:
            reason = _REASONS.get(chunk.finish_reason)
            if reason is None:
                raise UpstreamError("cut", f"the upstream gave up: {chunk.finish_reason[:40]}")
        if reason is FinishReason.STOP:
            own = request.sampling_params.stop_token_ids if request.sampling_params is not None else None
            ids, likely = ended_by_token(chunk, [*self.stop_ids, *(own or ())])
        told = None
        if logprobs is not None and ids:
            if likely is None:
                raise UpstreamError("malformed", "the upstream left out the log-probabilities that were asked for")
            told = as_lists(ids, likely)
        return EngineCoreOutput(
            request_id=request.request_id,
            new_token_ids=ids,
            new_logprobs=told,
            finish_reason=reason,
            stop_reason=stop,
            prefill_stats=stats,
        )


def as_lists(ids: list[int], likely: list[tuple[float, dict[int, float]]]) -> LogprobsLists:
    """Rows of the sampled token and the likeliest ones, as vLLM's engine gives them, all of one length. A sampled token
    that is not among the likeliest has the rank behind them: what rank it has nobody told."""
    rows, ranks = list[tuple[list[int], list[float]]](), list[int]()
    width = max((len(top) for _, top in likely), default=0)
    for token, (value, top) in zip(ids, likely, strict=True):
        ranked = sorted(top.items(), key=lambda item: -item[1])
        places = {other: place for place, (other, _) in enumerate(ranked, 1)}
        ranks.append(places.get(token, len(ranked) + 1))
        others = [*ranked, *([(token, value)] * (width - len(ranked)))]
        rows.append(([token, *(other for other, _ in others)], [value, *(one for _, one in others)]))
    return LogprobsLists(
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.float32),
        np.array(ranks, dtype=np.int64),
    )


def _prefilled(prompt_tokens: int, usage: Usage | None) -> PrefillStats:
    cached = (usage.cached or 0) if usage is not None else 0
    return PrefillStats(
        num_prompt_tokens=prompt_tokens,
        num_computed_tokens=prompt_tokens - cached,
        num_cached_tokens=cached,
        num_local_cached_tokens=cached,
    )


@contextlib.contextmanager
def cores_made_by(make: Callable[[Mapping[str, Any]], EngineCoreClient]) -> Iterator[None]:
    """An AsyncLLM that is made in this block gets its core from `make`, and starts no process. No other engine may be
    made meanwhile, in any thread."""
    own = EngineCoreClient.make_async_mp_client
    EngineCoreClient.make_async_mp_client = staticmethod(lambda *args, **options: make(options))  # type: ignore[method-assign]
    try:
        yield
    finally:
        EngineCoreClient.make_async_mp_client = own  # type: ignore[method-assign]

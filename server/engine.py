"""The engine that vLLM's own serving code talks to: AsyncLLM, with the thinking loop inside `generate`.

Requests that carry a plan (put there by the HTTP layer) run through the loop; all others pass straight to vLLM.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from drr.drift import DriftWatch
from drr.reasoner import ThinkingFormat, Token
from drr.response import Emit, Event, Finished, Outcome, StepReport
from drr.rethink import RethinkLoop
from drr.scorers import Scorer
from drr.steps import StepRule
from drr.thinking import ThinkingLoop
from drr.vllm_probe import VllmProbe
from drr.vllm_reasoner import VllmReasoner, attempt_params
from server import metrics
from server.ranks import Ranks
from server.report import ResponsePlan
from server.schema import Defaults

PLAN_KEY = "drr"
"""Where the HTTP layer puts a request's plan: `SamplingParams.extra_args[PLAN_KEY]`."""


@dataclass(slots=True)
class DrrRuntime:
    """What the loop needs and a request does not bring."""

    form: ThinkingFormat | None
    rule: StepRule
    scorers: dict[str, Scorer]
    defaults: Defaults
    drift: DriftWatch | None = None


@dataclass(slots=True)
class DrrExtra:
    """What an engine output says beyond vLLM: a closed step, or the outcome of a choice."""

    choice: int
    step: StepReport | None = None
    outcome: Outcome | None = None


class ThinkingEngine(AsyncLLM):
    """AsyncLLM whose `generate` thinks as long as it pays. Set `drr` before serving."""

    drr: DrrRuntime | None = None
    ranks: Ranks | None = None

    def generate(  # type: ignore[override]  # an async generator either way, without a second one in between
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        plan = (sampling_params.extra_args or {}).get(PLAN_KEY)
        if plan is None or self.drr is None:
            return self._plain(prompt, sampling_params, request_id, options)
        params = _without_plan(sampling_params)
        if not plan.settings.loops:
            return self._plain(prompt, params, request_id, options)
        return self._think(plan, prompt, params, request_id, options)

    def _plain(
        self, prompt: Any, params: SamplingParams, request_id: str, options: Mapping[str, Any]
    ) -> AsyncGenerator[RequestOutput, None]:
        outputs: AsyncGenerator[RequestOutput, None] = super().generate(prompt, params, request_id, **options)
        return outputs

    async def _think(
        self,
        plan: ResponsePlan,
        prompt: Mapping[str, Any],
        params: SamplingParams,
        request_id: str,
        options: Mapping[str, Any],
    ) -> AsyncGenerator[RequestOutput, None]:
        with self._pinned(options) as pinned:
            choices = [self.choice(plan, prompt, params, request_id, pinned, index) for index in range(params.n)]
            assembler = OutputAssembler(request_id, prompt, params, choices[0].first)
            streams = [choice.loop.run() for choice in choices]
            async with contextlib.aclosing(_merged(streams)) as events:
                async for index, event in events:
                    if isinstance(event, StepReport):
                        metrics.observe_step(event)
                        self._watch_drift(event, dm_judged=plan.settings.scorer == "dm")
                    elif isinstance(event, Finished):
                        metrics.observe_outcome(plan.settings.mode, event.outcome)
                    output = assembler.add(index, event)
                    if output is not None:
                        yield output

    @contextlib.contextmanager
    def _pinned(self, options: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """`options` with one data-parallel rank for all engine requests of a response, where there are several."""
        if self.ranks is None:
            count = len(getattr(self.engine_core, "core_engines", ()))
            self.ranks = Ranks(max(1, count))
        if self.ranks.count == 1 or options.get("data_parallel_rank") is not None:
            yield options
            return
        with self.ranks.one() as rank:
            yield {**options, "data_parallel_rank": rank}

    def _watch_drift(self, step: StepReport, *, dm_judged: bool) -> None:
        watch = self.drr.drift if self.drr is not None else None
        if watch is not None and dm_judged and step.index == step.attempt == 0 and step.p_later is not None:
            metrics.observe_first_score(watch, step.p_later)

    def choice(
        self,
        plan: ResponsePlan,
        prompt: Mapping[str, Any],
        params: SamplingParams,
        request_id: str,
        options: Mapping[str, Any],
        index: int,
    ) -> "Choice":
        """How one choice of a response is made."""
        drr = self.drr
        assert drr is not None
        assert drr.form is not None, "settings that need the loop are refused where thinking cannot be closed"
        own = params.clone()
        own.n = 1
        if own.seed is not None:
            own.seed += index  # as vLLM does for the choices of one request
        prompt_ids = prompt["prompt_token_ids"]
        max_tokens = own.max_tokens or self.model_config.max_model_len - len(prompt_ids)
        generate, tokenizer = super().generate, self.renderer.tokenizer
        form, scorer = drr.form, drr.scorers[plan.settings.scorer] if plan.settings.scorer is not None else None

        def asked(params: SamplingParams, attempt_id: str) -> tuple[VllmReasoner, VllmProbe]:
            reasoner = VllmReasoner(generate, tokenizer, prompt, params, attempt_id, options)
            return reasoner, VllmProbe(generate, tokenizer, form, attempt_id, options)

        first, probe = asked(own, request_id)

        def attempt(number: int) -> tuple[VllmReasoner, VllmProbe]:
            if number == 0:
                return first, probe
            params = attempt_params(own, number, plan.settings.rethink_temperature)
            return asked(params, f"{request_id}-{number}")

        settings = plan.settings.loop_settings(
            drr.defaults,
            max_tokens,
            separate_answer=bool(own.stop) or (own.structured_outputs is not None and plan.settings.answer_tokens > 0),
            context_limit=self.model_config.max_model_len,
        )
        if not plan.settings.rejects:
            loop = ThinkingLoop(first, scorer, form, drr.rule, settings, prompt_ids, plan.question, probe=probe)
            return Choice(first, loop)
        rethink = plan.settings.rethink_settings(drr.defaults)
        return Choice(first, RethinkLoop(attempt, scorer, form, drr.rule, settings, rethink, prompt_ids, plan.question))


class Loop(Protocol):
    """What makes one choice of a response."""

    def run(self) -> AsyncGenerator[Event, None]:
        """Its events; Finished is the last."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of a response: its loop, and the Reasoner of its first attempt."""

    first: VllmReasoner
    loop: Loop


def _without_plan(params: SamplingParams) -> SamplingParams:
    extra = {key: value for key, value in (params.extra_args or {}).items() if key != PLAN_KEY}
    params.extra_args = None  # the plan itself is never copied
    own = params.clone()
    own.extra_args = extra or None
    return own


async def _merged(streams: list[AsyncGenerator[Event, None]]) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of several loops as they come, each with its loop's index; one loop is not given tasks."""
    if len(streams) == 1:
        async with contextlib.aclosing(streams[0]) as only:
            async for event in only:
                yield 0, event
        return
    queue: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[Event, None]) -> None:
        try:
            async with contextlib.aclosing(stream):
                async for event in stream:
                    queue.put_nowait((index, event))
            queue.put_nowait((index, None))
        except Exception as error:
            queue.put_nowait((index, error))

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        running = len(tasks)
        while running:
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class OutputAssembler:
    """Turns the loop's events into the RequestOutputs that vLLM's serving code expects.

    Steps and outcomes ride on the outputs as `drr` (a DrrExtra); outputs that carry only a step hold no choices.
    """

    def __init__(
        self, request_id: str, prompt: Mapping[str, Any], params: SamplingParams, reasoner: VllmReasoner
    ) -> None:
        self._request_id, self._prompt, self._reasoner = request_id, prompt, reasoner
        self._kind = params.output_kind
        self._logprobs = params.logprobs is not None
        self._open = params.n
        self._emitted: list[list[Emit]] = [[] for _ in range(params.n)]
        self._final: dict[int, CompletionOutput] = {}

    def add(self, index: int, event: Event) -> RequestOutput | None:
        """The output that this event makes due, if any."""
        match event:
            case StepReport():
                return self._output([], DrrExtra(index, step=event))
            case Emit():
                return self._emit(index, event)
            case Finished():
                return self._finish(index, event)
            case _:
                return None

    def _emit(self, index: int, event: Emit) -> RequestOutput | None:
        if self._kind is RequestOutputKind.DELTA:
            return self._output([self._completion(index, event.tokens, event.text)])
        self._emitted[index].append(event)
        return self._output([self._whole(index)]) if self._kind is RequestOutputKind.CUMULATIVE else None

    def _whole(self, index: int) -> CompletionOutput:
        events = self._emitted[index]
        tokens = tuple(token for event in events for token in event.tokens)
        return self._completion(index, tokens, "".join(event.text for event in events))

    def _finish(self, index: int, event: Finished) -> RequestOutput:
        self._open -= 1
        extra = DrrExtra(index, outcome=event.outcome)
        delta = self._kind is RequestOutputKind.DELTA
        final = self._completion(index, (), "") if delta else self._whole(index)
        final.finish_reason, final.stop_reason = event.finish_reason, event.stop_reason
        if self._kind is not RequestOutputKind.FINAL_ONLY:
            return self._output([final], extra)
        self._final[index] = final
        return self._output([] if self._open else [self._final[own] for own in sorted(self._final)], extra)

    def _completion(self, index: int, tokens: tuple[Token, ...], text: str) -> CompletionOutput:
        return CompletionOutput(
            index=index,
            text=text,
            token_ids=[token.id for token in tokens],
            cumulative_logprob=None,
            logprobs=[token.detail for token in tokens] if self._logprobs else None,
        )

    def _output(self, completions: list[CompletionOutput], extra: DrrExtra | None = None) -> RequestOutput:
        first, last = self._reasoner.first_output, self._reasoner.last_output
        output = RequestOutput(
            request_id=self._request_id,
            prompt=self._prompt.get("prompt"),
            prompt_token_ids=self._prompt["prompt_token_ids"],
            prompt_logprobs=first.prompt_logprobs if first else None,
            outputs=completions,
            finished=self._open == 0,
            metrics=last.metrics if last else None,
            num_cached_tokens=first.num_cached_tokens if first else None,
            num_cache_creation_tokens=first.num_cache_creation_tokens if first else None,
            kv_transfer_params=last.kv_transfer_params if last else None,
        )
        output.drr = extra  # type: ignore[attr-defined]
        return output

"""The engine that vLLM's own serving code talks to: AsyncLLM, with the thinking loop inside `generate`.

Requests that carry a plan (put there by the HTTP layer) run through the loop, and so do those of other endpoints whose
stop texts must spare the thinking; all others pass straight to vLLM.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from drr.engine.vllm_reasoner import Generate
from drr.loop.policy import StopCause
from drr.loop.pumps import merged
from drr.loop.response import Emit, Event, Finished, Loop, Outcome, StepReport
from server import grammars, metrics, plain
from server.admission.branches import BRANCHES
from server.admission.counting import counted
from server.admission.shares import USING
from server.assembler import OutputAssembler
from server.canaries import CanaryWatcher
from server.choices import Choice, ChoiceMaker
from server.early_ends import Exit
from server.plan import PLAN_KEY, ResponsePlan
from server.ranks import Ranks
from server.resolve import Asked, resolve
from server.runtime import DrrRuntime
from server.schema import DrrRequest
from server.spared import check_params, shows_spare, without_spare
from server.vllm_api import AsyncLLM, RequestOutput, SamplingParams
from server.watchers import Unfinished, Watcher

if TYPE_CHECKING:
    from server.tracing import Tracing


class ThinkingEngine(AsyncLLM):
    """AsyncLLM whose `generate` thinks as long as it pays. Set `drr` before serving."""

    drr: DrrRuntime | None = None
    ranks: Ranks | None = None
    maker: type[ChoiceMaker] = ChoiceMaker
    tracing: "Tracing | None" = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._admitted: set[str] = set()
        """Ids of engine requests that go on with a response which vLLM has admitted."""

    def generate(  # type: ignore[override]  # an async generator either way, without a second one in between
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        plan = (sampling_params.extra_args or {}).get(PLAN_KEY)
        if not isinstance(plan, ResponsePlan):
            plan = self._unasked(sampling_params, options)
        params = sampling_params if plan is None else _without_plan(sampling_params)
        if self.drr is not None and self.drr.state_ids is not None:
            check_params(params, self.drr.state_ids)
        loops = plan is not None and self._loops(plan)
        branches, taken = BRANCHES.get(), 0
        if branches is not None:
            attempts = 1 + plan.settings.max_rethinks if plan is not None and loops and plan.settings.rejects else 1
            taken = branches.take(params.n, attempts)
        if plan is None or not loops:
            outputs = self._raw(prompt, params, request_id, **options)
            # Beam search asks again and again, for one token of every beam.
            if branches is not None and params.max_tokens == 1:
                outputs = branches.given_back(outputs, taken)
            if self.drr is None:  # before anything is served
                return outputs
            return plain.counted(outputs, params, request_id)
        stream = self._think(plan, prompt, params, request_id, options)
        plan.account.looped, plan.account.stream = True, stream
        return stream

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """As vLLM's, but an admitted response is never refused half-way: its later engine requests pass."""
        if request_id is None or request_id.rpartition("-")[0] not in self._admitted:
            super().check_admission(n, request_id)

    def _unasked(self, params: SamplingParams, options: Mapping[str, Any]) -> ResponsePlan | None:
        """The plan of a request from another endpoint: it thinks in full, and stop texts spare its thinking."""
        form = self.drr.form if self.drr is not None else None
        parsed = options.get("reasoning_parser_kwargs") is not None  # vLLM will tell its reasoning from its content
        if self.drr is None or form is None or form.turn_holds_answer or not parsed or not params.stop:
            return None
        beside = Asked(thinking_token_budget=params.thinking_token_budget)
        return ResponsePlan(resolve(DrrRequest(mode="off"), self.drr.defaults, beside), "", None)

    def _loops(self, plan: ResponsePlan) -> bool:
        """Whether the loop makes this response; else it is plain vLLM."""
        return self.drr is not None and self.drr.form is not None and not plan.settings.beam_search

    def _raw(
        self, prompt: Any, params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """AsyncLLM.generate, without a word of the spare ids through which heads are read."""
        outputs: AsyncGenerator[RequestOutput, None] = super().generate(prompt, params, request_id, **options)
        if params.structured_outputs is not None:
            outputs = grammars.compiled(outputs)
        share = USING.get()
        if share is not None:
            outputs = counted(outputs, share, params.output_kind, with_prompt=request_id not in self._admitted)
        ids = self.drr.state_ids if self.drr is not None else None
        if ids is not None and shows_spare(params, ids, self.model_config.get_vocab_size()):
            return without_spare(outputs, ids, params)
        return outputs

    async def _think(
        self,
        plan: ResponsePlan,
        prompt: Mapping[str, Any],
        params: SamplingParams,
        request_id: str,
        options: Mapping[str, Any],
    ) -> AsyncGenerator[RequestOutput, None]:
        assert self.drr is not None
        admitted: set[str] = set()
        watchers = list[Watcher]()
        canary = None
        if self.drr.canaries is not None and plan.settings.canary is not None:
            canary = self.drr.canaries.begin(plan.settings, self.drr.form)
            watchers.append(CanaryWatcher(self.drr.canaries, canary))
        spans = None
        if self.tracing is not None:
            spans = self.tracing.begin(plan, params, request_id, len(prompt["prompt_token_ids"]), options)
            watchers.append(spans)
        ending = Exit(request_id)
        error: BaseException | None = None
        try:
            with self._pinned(options) as pinned:
                generate = self._admitting(admitted)
                await self._check(generate, params, request_id, pinned)
                longest = self.model_config.max_model_len
                traced = () if spans is None else spans.choices
                maker = self.maker(self.drr, generate, self.renderer.tokenizer, longest, pinned, traced)
                if canary is not None:
                    aside = self.maker(self.drr, self._raw, self.renderer.tokenizer, longest, pinned)
                    canary.ask = functools.partial(aside.stopped, plan, prompt, params, f"{request_id}-canary")
                watch = None if canary is None else canary.watch
                choices = list[Choice]()
                for index in range(params.n):
                    choices.append(maker.choice(plan, prompt, params, request_id, index, watch))
                    await asyncio.sleep(0)  # others are served meanwhile
                loops = [choice.loop for choice in choices]
                logged = self.drr.log and self.drr.log.begin(plan, prompt, params, request_id, options, loops)
                if logged:
                    watchers.append(logged)
                plan.account.running = [functools.partial(_account, loop) for loop in loops]
                assembler = OutputAssembler(
                    request_id,
                    prompt,
                    params,
                    choices[0].first,
                    shows_markers=plan.settings.thinking_in == "content",
                )
                async with contextlib.aclosing(merged([loop.run() for loop in loops])) as events:
                    async for index, event in events:
                        self._note(plan, index, event, ending)
                        for watcher in watchers:
                            watcher.note(index, event)
                        _forget_what_nobody_reads(plan, event)
                        output = assembler.add(index, event)
                        if output is not None:
                            yield output
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._admitted.difference_update(admitted)
            unfinished = self._note_rest(plan, params.n, ending, error)
            for watcher in watchers:
                watcher.close(unfinished)
            ending.close()

    async def _check(
        self, generate: Generate, params: SamplingParams, request_id: str, options: Mapping[str, Any]
    ) -> None:
        """What the engine would refuse at the answer is refused before the thinking."""
        await grammars.check(self, generate, params, request_id, options)

    def _note(self, plan: ResponsePlan, index: int, event: Event, ending: Exit) -> None:
        """Keep what an event says for the account and the metrics."""
        match event:
            case Emit():
                plan.tell(index, event)
            case StepReport():
                if plan.settings.judged or plan.settings.limited:
                    metrics.observe_step(event, self._deadline)
                    self._watch_drift(event, judged=plan.settings.judge == "dm")
                plan.account.steps.append((index, event))
            case Finished(outcome):
                if outcome.stop_cause is StopCause.NATURAL and not plan.settings.judged:
                    outcome.stop_cause = plan.settings.unjudged_cause
                ended = ending.finished(event.finish_reason, outcome.generated_tokens)
                metrics.observe_outcome(plan.settings.mode, outcome, ended)
                plan.end(index, outcome, event.finish_reason)

    def _note_rest(
        self, plan: ResponsePlan, choices: int, ending: Exit, error: BaseException | None
    ) -> Unfinished | None:
        """Count the choices that did not come to their end; None where all did."""
        account = plan.account
        missing = [index for index in range(choices) if index not in account.outcomes]
        if not missing:
            return None
        outcomes = [account.running[index]() if account.running else Outcome() for index in missing]
        ended = ending.left(error, sum(outcome.generated_tokens for outcome in outcomes))
        for outcome in outcomes:
            metrics.observe_outcome(plan.settings.mode, outcome, ended)
        return Unfinished(dict(zip(missing, outcomes, strict=True)), ended, ending.fault(error))

    @property
    def _deadline(self) -> float:
        """Seconds that a score may take."""
        return self.drr.defaults.deadline if self.drr is not None else 0.0

    def _admitting(self, admitted: set[str]) -> Generate:
        """AsyncLLM.generate for one response: its first engine request is admitted by vLLM, the others pass."""
        begun = False

        def generate(
            prompt: Any, params: SamplingParams, request_id: str, **options: Any
        ) -> AsyncGenerator[RequestOutput, None]:
            nonlocal begun
            if begun:
                admitted.add(request_id)
                self._admitted.add(request_id)
            begun = True
            return self._raw(prompt, params, request_id, **options)

        return generate

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

    def _watch_drift(self, step: StepReport, *, judged: bool) -> None:
        """`judged` tells that the DM did whose calibration the watch goes by: that of `--dm`."""
        watch = self.drr.drift if self.drr is not None else None
        if watch is not None and judged and step.index == step.attempt == 0 and step.p_later is not None:
            metrics.observe_first_score(watch, step.p_later)


def _account(loop: Loop) -> Outcome:
    return loop.outcome


def _forget_what_nobody_reads(plan: ResponsePlan, event: Event) -> None:
    """A response that nobody judged tells its steps only where they were asked for."""
    if isinstance(event, Finished) and not plan.settings.judged and plan.settings.report != "steps":
        event.outcome.steps = []


def _without_plan(params: SamplingParams) -> SamplingParams:
    extra = {key: value for key, value in (params.extra_args or {}).items() if key != PLAN_KEY}
    params.extra_args = None  # the plan itself is never copied
    bare = params.clone()
    bare.extra_args = extra or None
    return bare

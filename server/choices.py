"""How one choice of a response is made: its Reasoner, its format, its settings, its loop."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from drr.engine.vllm_probe import VllmProbe
from drr.engine.vllm_reasoner import Generate, VllmReasoner, attempt_params
from drr.judge.scorers.state import StateScorer
from drr.loop.attempt import ThinkingLoop
from drr.loop.formats import PlainChain, ReasoningFormat, TurnStart, TurnState
from drr.loop.onlookers import Watch, WouldStop
from drr.loop.response import Event, Loop, LoopSettings
from drr.loop.rethink import RethinkLoop
from server.plan import ResponsePlan
from server.runtime import DrrRuntime
from server.vllm_api import SamplingParams

if TYPE_CHECKING:
    from server.tracing import ResponseSpans


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of a response: its loop, and the Reasoner of its first attempt."""

    first: VllmReasoner
    loop: Loop


class ChoiceMaker:
    """Makes the choices of one request. `generate` is AsyncLLM.generate; `options` go to all its engine requests."""

    def __init__(
        self,
        runtime: DrrRuntime,
        generate: Generate,
        tokenizer: Any,
        max_model_len: int,
        options: Mapping[str, Any],
        spans: "Sequence[ResponseSpans]" = (),
    ) -> None:
        """`spans` are those of the choices, where they are traced."""
        self._spans = spans
        self._runtime, self._generate, self._tokenizer = runtime, generate, tokenizer
        self._max_model_len, self._options = max_model_len, options

    def choice(
        self,
        plan: ResponsePlan,
        prompt: Mapping[str, Any],
        params: SamplingParams,
        request_id: str,
        index: int,
        watch: Watch | None = None,
    ) -> Choice:
        """Choice number `index`; `watch` is told of its boundaries, where no attempt at it may be rejected."""
        sampling = params.clone()
        sampling.n = 1
        if sampling.seed is not None:
            sampling.seed += index  # as vLLM does for the choices of one request
        prompt_ids = prompt["prompt_token_ids"]
        form, start = self._format(plan, sampling, prompt_ids)
        settings = self._settings(plan, sampling, form, prompt)
        scorer = self._runtime.scorers[plan.settings.judge] if plan.settings.judge is not None else None
        reads_states = isinstance(scorer, StateScorer) or (watch is not None and bool(watch.onlookers))
        judged, state_ids = scorer is not None, self._runtime.state_ids if reads_states else None

        def asked(params: SamplingParams, attempt_id: str, number: int) -> tuple[VllmReasoner, VllmProbe]:
            generate = self._spans[index].attempt(number, self._generate) if self._spans else self._generate
            reasoner = VllmReasoner(
                generate,
                self._tokenizer,
                prompt,
                params,
                attempt_id,
                self._options,
                judged=judged,
                free_thinking=settings.separate_answer or form.answer_prefix != "",
                state_ids=state_ids,
            )
            salt = settings.cache_salt
            probe = VllmProbe(
                generate,
                self._tokenizer,
                form,
                attempt_id,
                self._options,
                cache_salt=salt,
                state_ids=state_ids,
            )
            return reasoner, probe

        first, probe = asked(sampling, request_id, 0)

        def attempt(number: int) -> tuple[VllmReasoner, VllmProbe]:
            if number == 0:
                return first, probe
            params = attempt_params(sampling, number, plan.settings.rethink_temperature)
            return asked(params, f"{request_id}-{number}", number)

        rule, question = self._runtime.rule, plan.question
        if not plan.settings.rejects:
            common = (scorer, form, rule, settings, prompt_ids, question)
            return Choice(first, ThinkingLoop(first, *common, probe=probe, start=start, watch=watch))
        rethink = plan.settings.rethink_settings(self._runtime.defaults)
        return Choice(
            first, RethinkLoop(attempt, scorer, form, rule, settings, rethink, prompt_ids, question, start=start)
        )

    def stopped(
        self, plan: ResponsePlan, prompt: Mapping[str, Any], params: SamplingParams, request_id: str, stop: WouldStop
    ) -> AsyncGenerator[Event, None]:
        """What the only choice of a response would have been, had it been stopped there."""
        sampling = params.clone()
        sampling.logprobs = sampling.logprob_token_ids = None  # nobody reads them
        prompt_ids = prompt["prompt_token_ids"]
        form, start = self._format(plan, sampling, prompt_ids)
        settings = self._settings(plan, sampling, form, prompt)
        free = settings.separate_answer or form.answer_prefix != ""
        reasoner = VllmReasoner(
            self._generate,
            self._tokenizer,
            prompt,
            sampling,
            request_id,
            self._options,
            judged=False,
            free_thinking=free,
        )
        loop = ThinkingLoop(reasoner, None, form, self._runtime.rule, settings, prompt_ids, plan.question, start=start)
        return loop.stopped(stop)

    def _format(
        self, plan: ResponsePlan, params: SamplingParams, prompt_ids: list[int]
    ) -> tuple[ReasoningFormat, TurnStart]:
        """The Reasoner's format as this request needs it, and where its prompt leaves off."""
        form = self._runtime.form
        assert form is not None, "settings that need the loop are refused where thinking cannot be closed"
        if not isinstance(form, PlainChain):
            return form, form.start(prompt_ids)
        apart, tools = plan.settings.thinking_in == "reasoning", self._runtime.tool_texts
        # What has to be a grammar's text, or a tool call, from its first word on is no chain of thought. Nor is one
        # taken for it that may be a tool call which nobody would recognise.
        is_grammar = params.structured_outputs is not None and not apart
        if is_grammar or plan.tools == "must" or (plan.tools == "may" and not tools):
            return form, TurnStart(TurnState.CLOSED)
        form = replace(
            form,
            answer_apart=apart,
            tool_texts=tools if plan.tools == "may" else (),
            stops=() if apart else tuple(params.stop or ()),
        )
        return form, form.start(prompt_ids)

    def _settings(
        self, plan: ResponsePlan, params: SamplingParams, form: ReasoningFormat, prompt: Mapping[str, Any]
    ) -> LoopSettings:
        stops, grammar = bool(params.stop), params.structured_outputs is not None
        apart = not form.turn_holds_answer
        settings = plan.settings.loop_settings(
            self._runtime.defaults,
            params.max_tokens or self._max_model_len - len(prompt["prompt_token_ids"]),
            separate_answer=apart and (stops or (grammar and plan.settings.answer_tokens > 0)),
            blank_before_answer=apart
            and not grammar
            and not isinstance(form, PlainChain)
            and any(text[:1].isspace() for text in params.stop or ()),
            context_limit=self._max_model_len,
            cache_salt=prompt.get("cache_salt"),
        )
        if isinstance(form, PlainChain) and apart and not plan.settings.acts:
            # Nothing ends such thinking but its own turn, and the answer has to be asked for all the same.
            settings = replace(settings, answer_tokens=self._runtime.defaults.answer_tokens)
        params.thinking_token_budget = None  # vLLM's own limit on thinking is kept, and told, by the loop
        return settings

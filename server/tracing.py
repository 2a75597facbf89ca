"""OpenTelemetry spans of responses, by the exporter that vLLM sets up (`--otlp-traces-endpoint`).

A response is a span, the client's own span (W3C `traceparent`) its parent. Its children are its attempts at thinking,
with an event for every boundary, and its answer; probes are children of their attempts. vLLM's own span of every engine
request hangs below the one that it was made for. Nothing that anybody has written goes into a span.
"""

import contextlib
import os
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import drr
from drr.engine.vllm_probe import attempt_of
from drr.engine.vllm_reasoner import Generate
from drr.loop.formats import Part
from drr.loop.response import Emit, Event, Fate, Finished, Outcome, StepReport
from server.early_ends import broken_off
from server.metrics import Ended
from server.plan import ResponsePlan
from server.vllm_api import RequestOutput, SamplingParams
from server.watchers import Unfinished

_MOST_PROBES = 32
"""Probes of an attempt that have spans of their own; some scorers ask at every boundary."""

_W3C = TraceContextTextMapPropagator()

_SAMPLING = {
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.request.max_tokens": "max_tokens",
    "gen_ai.request.seed": "seed",
    "gen_ai.request.frequency_penalty": "frequency_penalty",
    "gen_ai.request.presence_penalty": "presence_penalty",
}


class Tracing:
    """Makes the spans of a server's responses. `model` is the name under which the Reasoner is served; `tracer` is by
    default that of the exporter that vLLM has set up."""

    def __init__(self, model: str, tracer: trace.Tracer | None = None) -> None:
        self._tracer, self._model = tracer or trace.get_tracer("drr", drr.__version__), model

    def begin(
        self,
        plan: ResponsePlan,
        params: SamplingParams,
        request_id: str,
        prompt_tokens: int,
        options: Mapping[str, Any],
    ) -> "RequestSpans":
        """Begin the spans of a request's responses, one for each of its choices; `options` are those of
        AsyncLLM.generate."""
        adapter = options.get("lora_request")
        model = self._model if adapter is None else adapter.lora_name
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": model,
            "gen_ai.response.model": model,
            "gen_ai.response.id": request_id,
            "gen_ai.usage.input_tokens": prompt_tokens,
            "drr.mode": plan.settings.mode,
            **({"gen_ai.request.choice.count": params.n} if params.n != 1 else {}),
            **({} if plan.scorer_id is None else {"drr.judge": plan.scorer_id}),
        }
        given = {name: getattr(params, field) for name, field in _SAMPLING.items()}
        attributes |= {name: value for name, value in given.items() if value is not None}
        parent = _W3C.extract(options.get("trace_headers") or {})

        def response(index: int) -> ResponseSpans:
            own = {**attributes, "drr.choice": index}
            span = self._tracer.start_span(f"chat {model}", parent, SpanKind.SERVER, own)
            return ResponseSpans(self._tracer, span)

        return RequestSpans([response(index) for index in range(params.n)])


@dataclass(frozen=True, slots=True)
class RequestSpans:
    """The spans of a request's responses, by choice."""

    choices: "list[ResponseSpans]"

    def note(self, index: int, event: Event) -> None:
        """An event of choice `index`."""
        self.choices[index].note(event)

    def close(self, unfinished: Unfinished | None) -> None:
        """The request is over."""
        if unfinished is not None:
            for index, outcome in unfinished.outcomes.items():
                self.choices[index].end(outcome, unfinished.ended, unfinished.fault)


class ResponseSpans:
    """The spans of one response. They begin while it is made, and are all ended when it is over."""

    def __init__(self, tracer: trace.Tracer, span: Span) -> None:
        self._tracer, self._span = tracer, span
        self._context = trace.set_span_in_context(span)
        self._attempts: dict[int, _AttemptSpan] = {}
        self._answer: tuple[Span, int] | None = None
        """With the time of its beginning."""

    def attempt(self, number: int, generate: Generate) -> Generate:
        """AsyncLLM.generate for one attempt, whose span begins with its first engine request."""

        def traced(
            prompt: Any, params: SamplingParams, request_id: str, **options: Any
        ) -> AsyncGenerator[RequestOutput, None]:
            if attempt_of(request_id) != request_id:
                return self._probed(number, generate, prompt, params, request_id, options)
            answers = options.get("reasoning_ended") is True
            context = self._answering() if answers else self._attempt(number).context
            return generate(prompt, params, request_id, **{**options, "trace_headers": _headers(context)})

        return traced

    def note(self, event: Event) -> None:
        """What the loop does; Finished ends the response."""
        match event:
            case StepReport():
                self._attempt(event.attempt).step(event)
            case Emit(tokens, _, part):
                if part is Part.ANSWER and tokens:
                    self._answering()
            case Finished(outcome, reason):
                self._span.set_attribute("gen_ai.response.finish_reasons", [reason])
                self.end(outcome, broken_off(reason))

    def end(self, outcome: Outcome, ended: Ended | None = None, error: str | None = None) -> None:
        """The response is over: complete, or `ended` early, because of `error` where that is nobody's wish."""
        now = time.time_ns()
        attributes = _account(outcome)
        if ended is not None:
            attributes["drr.ended"] = ended
        if error is not None:
            attributes["error.type"] = error
            self._span.set_status(StatusCode.ERROR, error)
        answered_from = now
        if self._answer is not None:
            span, answered_from = self._answer
            span.set_attribute("gen_ai.usage.output_tokens", outcome.answer_tokens)
            span.end(now)
        for number, attempt in self._attempts.items():
            fates = outcome.attempts
            attempt.end(answered_from, fates[number].fate if number < len(fates) else None)
        self._span.set_attributes(attributes)
        self._span.end(now)

    def _attempt(self, number: int) -> "_AttemptSpan":
        if number not in self._attempts:
            span = self._tracer.start_span("attempt", self._context, attributes={"drr.attempt": number})
            self._attempts[number] = _AttemptSpan(span)
        return self._attempts[number]

    def _answering(self) -> Context:
        if self._answer is None:
            self._answer = self._tracer.start_span("answer", self._context), time.time_ns()
        return trace.set_span_in_context(self._answer[0])

    async def _probed(
        self,
        number: int,
        generate: Generate,
        prompt: Any,
        params: SamplingParams,
        request_id: str,
        options: Mapping[str, Any],
    ) -> AsyncGenerator[RequestOutput, None]:
        attempt = self._attempt(number)
        attempt.probes += 1
        many = attempt.probes > _MOST_PROBES
        span = trace.INVALID_SPAN if many else self._tracer.start_span("probe", attempt.context)
        context = attempt.context if many else trace.set_span_in_context(span)
        tokens = 0
        try:
            outputs = generate(prompt, params, request_id, **{**options, "trace_headers": _headers(context)})
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    tokens += len(output.outputs[0].token_ids)
                    yield output
        finally:
            span.set_attribute("gen_ai.usage.output_tokens", tokens)
            span.end()


class _AttemptSpan:
    """The span of one attempt."""

    def __init__(self, span: Span) -> None:
        self._span, self.context, self.probes = span, trace.set_span_in_context(span), 0
        self._last_step = time.time_ns()

    def step(self, step: StepReport) -> None:
        """A boundary has been decided."""
        self._last_step = time.time_ns()
        known = {"drr.p_now": step.p_now, "drr.p_later": step.p_later, "drr.judge.ms": step.ms}
        attributes: dict[str, str | float | bool] = {
            "drr.step": step.index,
            "drr.step.tokens": step.tokens,
            "drr.verdict": step.verdict.value,
            **{name: value for name, value in known.items() if value is not None},
            **({"drr.late": True} if step.late else {}),
        }
        self._span.add_event("boundary", attributes)

    def end(self, answered_from: int, fate: Fate | None) -> None:
        """It has had this fate; one that was rejected ended at its last boundary, others where the answer began."""
        if fate is not None:
            self._span.set_attribute("drr.fate", fate.value)
        if self.probes:
            self._span.set_attribute("drr.probes", self.probes)
        self._span.end(self._last_step if fate in (Fate.REJECTED, Fate.ANSWERED) else answered_from)


def name_service() -> None:
    """Have spans say that they come from `drr`, unless the environment says otherwise. Before the exporter is made."""
    if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        os.environ.setdefault("OTEL_SERVICE_NAME", "drr")


def _account(outcome: Outcome) -> dict[str, Any]:
    return {
        "gen_ai.usage.output_tokens": outcome.generated_tokens + outcome.probe_tokens,
        "drr.stop_cause": outcome.stop_cause.value,
        "drr.thinking_tokens": outcome.thinking_tokens,
        "drr.answer_tokens": outcome.answer_tokens,
        "drr.discarded_tokens": outcome.discarded_tokens,
        "drr.probe_tokens": outcome.probe_tokens,
        "drr.attempts": max(1, len(outcome.attempts)),
        "drr.nudges": outcome.nudges,
        "drr.judge.late": outcome.late,
        "drr.judge.failed": outcome.failed,
    }


def _headers(context: Context) -> dict[str, str]:
    """What tells an engine request its parent."""
    headers: dict[str, str] = {}
    _W3C.inject(headers, context)
    return headers

"""Chat completions: the `drr` object in, the loop's account out. Everything else is vLLM's own handler.

The handler is wrapped, not subclassed: it is given a plan with the request, and a parser that takes the loop's word for
what is reasoning and what is content; what it makes is completed here with DRR's account.
"""

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Request

from drr.judge.dm_input import question_text
from drr.loop.formats import Channels
from server.parsing import phase_parser
from server.plan import PLAN_KEY, ResponsePlan, Tools
from server.report import correct_usage, response_report, risk_object, step_object
from server.resolve import resolve
from server.runtime import DrrRuntime
from server.schema import DrrError, DrrRequest, Mode
from server.settings import Settings
from server.vllm_api import (
    ChatCompletionRequest,
    ChatCompletionResponse,
    ErrorResponse,
    OpenAIServingChat,
    UsageInfo,
)

HEADER = "x-drr"
CHAT_PATH = "/v1/chat/completions"
ALIASES: dict[str, Mode] = {"drr": "auto", "full": "off"}

_SAMPLING_DEFAULTS = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}


class DrrChat:
    """vLLM's chat handler with the `drr` object. `penalties_carry` tells whether what a penalty has counted can be
    carried into another engine request; `tool_parser` is vLLM's name of it."""

    def __init__(
        self,
        handler: OpenAIServingChat,
        runtime: DrrRuntime,
        *,
        tool_parser: str | None = None,
        penalties_carry: bool = True,
    ) -> None:
        self._handler, self.runtime, self._penalties_carry = handler, runtime, penalties_carry
        if runtime.form is not None:
            handler.parser_cls = phase_parser(handler, runtime.form, tool_parser)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    async def create_chat_completion(
        self, request: ChatCompletionRequest, raw_request: Request | None = None
    ) -> AsyncGenerator[str, None] | ChatCompletionResponse | ErrorResponse:
        """vLLM's own, with the request's plan on its way in and the account on its way out."""
        try:
            settings = self._settings(request, raw_request)
        except DrrError as error:
            refused: ErrorResponse = self._handler.create_error_response(str(error), param=error.param)
            return refused
        scorer = self.runtime.scorers[settings.scorer] if settings.scorer is not None else None
        plan = ResponsePlan(
            settings,
            question_text([message for message in request.messages if isinstance(message, dict)]),
            scorer.id if scorer is not None else None,
            risk_object(settings, self._sampling(request)),
            _tools(request),
        )
        request.vllm_xargs = {**(request.vllm_xargs or {}), PLAN_KEY: plan}  # type: ignore[dict-item]
        made = await self._handler.create_chat_completion(request, raw_request)
        if isinstance(made, ChatCompletionResponse):
            _complete(made, plan)
            return made
        return made if isinstance(made, ErrorResponse) else with_reports(made, plan, request.n or 1)

    def _settings(self, request: ChatCompletionRequest, raw_request: Request | None) -> Settings:
        extra = request.model_extra or {}
        asked = DrrRequest.parse(extra["drr"]) if "drr" in extra else None
        header = raw_request.headers.get(HEADER) if raw_request is not None else None
        if header is not None:
            if asked is not None:
                raise DrrError("drr", "give either the drr object or the X-DRR header, not both")
            asked = _from_header(header)
        if PLAN_KEY in (request.vllm_xargs or {}):
            raise DrrError("vllm_xargs", f"the key {PLAN_KEY!r} is taken; give the drr object beside it")
        settings = resolve(asked, self._take_alias(request), self.runtime.defaults)
        if settings.thinking_in == "content" and isinstance(self.runtime.form, Channels):
            raise DrrError("drr.thinking_in", "channels cannot be shown as content")
        if request.use_beam_search:
            if settings.explicit and settings.loops:
                raise DrrError("use_beam_search", "beam search cannot be combined with drr; use drr.mode off")
            settings = resolve(DrrRequest(mode="off"), None, self.runtime.defaults, beam_search=True)
        if settings.acts and not self._penalties_carry:
            for name in ("presence_penalty", "frequency_penalty"):
                if getattr(request, name):
                    raise DrrError(
                        name, "with speculative decoding it cannot be carried past a stop; use drr.mode off, or none"
                    )
        return settings

    def _sampling(self, request: ChatCompletionRequest) -> dict[str, Any]:
        """How the request will be sampled, the model's own defaults filled in."""
        defaults = {**_SAMPLING_DEFAULTS, **self._handler.default_sampling_params}
        given = {name: getattr(request, name, None) for name in _SAMPLING_DEFAULTS}
        sampling = {name: defaults[name] if value is None else value for name, value in given.items()}
        return {**sampling, "max_tokens": request.max_completion_tokens or request.max_tokens}

    def _take_alias(self, request: ChatCompletionRequest) -> Mode | None:
        """Strip `:drr` or `:full` from the model's name, unless a model is really called that."""
        models = self._handler.models
        if not request.model or models.is_base_model(request.model) or request.model in models.lora_requests:
            return None
        name, _, suffix = request.model.rpartition(":")
        if not name or suffix not in ALIASES:
            return None
        request.model = name
        return ALIASES[suffix]


def _tools(request: ChatCompletionRequest) -> Tools:
    choice = request.tool_choice
    if not request.tools or choice == "none":
        return "none"
    return "may" if choice in (None, "auto") else "must"


def _complete(response: ChatCompletionResponse, plan: ResponsePlan) -> None:
    """Put the account into a whole response."""
    usage = response.usage.model_dump()
    correct_usage(usage, plan)
    response.usage = UsageInfo.model_validate(usage)
    report = response_report(plan, len(response.choices))
    if plan.settings.report != "none":
        response.drr = report  # type: ignore[attr-defined]


async def with_reports(
    stream: AsyncGenerator[str, None], plan: ResponsePlan, choices: int
) -> AsyncGenerator[str, None]:
    """vLLM's SSE events with DRR's among them.

    A client that spoke of DRR gets a chunk without choices per closed step and one with the summary before the
    usage. One that did not may index `choices[0]` of every chunk: for it the summary rides on the last chunk of
    the answer.
    """
    settings, account = plan.settings, plan.account
    summary_due = settings.report != "none"
    own_chunks = settings.explicit and summary_due
    base: dict[str, Any] = {}
    finished = 0
    async with contextlib.AsyncExitStack() as stack:
        if account.stream is not None:
            await stack.enter_async_context(contextlib.aclosing(account.stream))
        await stack.enter_async_context(contextlib.aclosing(stream))
        async for event in stream:
            if not base:
                base = _base(event)
            if own_chunks and settings.report == "steps":
                for choice, step in _taken(account.steps):
                    yield _event({**base, "choices": [], "drr": {"step": {"choice": choice, **step_object(step)}}})
            ends = _ends(event)
            finished += ends == "choice"
            if ends in ("usage", "done") and own_chunks and summary_due:
                summary_due = False
                report = response_report(plan, choices)
                if report:
                    yield _event({**base, "choices": [], "drr": report})
            if ends == "usage":
                chunk = _parsed(event)
                correct_usage(chunk["usage"], plan)
                yield _event(chunk)
            elif ends == "choice" and finished == choices and summary_due and not own_chunks:
                summary_due = False
                yield _event({**_parsed(event), "drr": response_report(plan, choices)})
            else:
                yield event


def _taken(steps: list[Any]) -> list[Any]:
    taken = list(steps)
    steps.clear()
    return taken


def _ends(event: str) -> str | None:
    """What an SSE event ends: a "choice", the answer ("usage"), or the stream ("done"). Read without parsing: in a JSON
    text quotes are escaped, so these keys cannot be a model's words."""
    if '"finish_reason":"' in event:
        return "choice"
    if '"choices":[]' in event and '"usage":' in event:
        return "usage"
    return "done" if event.startswith("data: [DONE]") else None


def _base(event: str) -> dict[str, Any]:
    """What all chunks of a stream share, from its first."""
    if not event.startswith("data: {"):
        return {}
    chunk = _parsed(event)
    return {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def _parsed(event: str) -> dict[str, Any]:
    chunk: dict[str, Any] = json.loads(event[len("data: ") :])
    return chunk


def _from_header(value: str) -> DrrRequest:
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise DrrError("X-DRR", f"the header is not JSON: {error}") from None
    return DrrRequest.parse(parsed, "X-DRR")

"""Chat completions: the `drr` object in, the loop's account out. Everything else is vLLM's own handler."""

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelCard, ModelList, UsageInfo
from vllm.outputs import RequestOutput

from drr.dm_input import question_text
from drr.policy import StopCause
from drr.response import Outcome
from server import metrics
from server.engine import PLAN_KEY, DrrExtra, DrrRuntime
from server.report import ResponsePlan, off_object, outcome_object, response_object, risk_object, step_object
from server.schema import DrrError, DrrRequest, Mode, Settings, resolve

HEADER = "x-drr"
_CHAT_PATH = "/v1/chat/completions"
_ALIASES: dict[str, Mode] = {"drr": "auto", "full": "off"}


class Tap:
    """Passes engine outputs on to vLLM's handler and keeps what they say of DRR."""

    def __init__(self, source: AsyncIterator[RequestOutput], plan: ResponsePlan, runtime: DrrRuntime) -> None:
        self._source, self.plan, self._runtime = source, plan, runtime
        self.exhausted = False
        self.finishing = False
        self._steps: list[dict[str, Any]] = []
        self._outcomes: dict[int, Outcome] = {}
        self._ids: dict[int, list[int]] = {}
        self._starts_open = False

    def __aiter__(self) -> "Tap":
        return self

    async def __anext__(self) -> RequestOutput:
        while True:
            try:
                output = await anext(self._source)
            except StopAsyncIteration:
                self.exhausted = True
                raise
            extra: DrrExtra | None = getattr(output, "drr", None)
            self._keep(output, extra)
            if output.outputs:
                self.finishing = output.finished
                return output

    def _keep(self, output: RequestOutput, extra: DrrExtra | None) -> None:
        if extra is not None and extra.step is not None:
            self._steps.append({"choice": extra.choice, **step_object(extra.step)})
        if extra is not None and extra.outcome is not None:
            self._outcomes[extra.choice] = extra.outcome
        if not self.plan.settings.loops and self._runtime.form is not None:
            opened = self._runtime.form.starts_open(output.prompt_token_ids or [])
            self._starts_open = bool(opened)
        if not self.plan.settings.loops:
            for completion in output.outputs:
                self._ids.setdefault(completion.index, []).extend(completion.token_ids)

    def take_steps(self) -> list[dict[str, Any]]:
        """The steps closed since the last call, as the client sees them."""
        steps, self._steps = self._steps, []
        return steps

    def report(self) -> dict[str, Any]:
        """The response's `drr` object."""
        if self.plan.settings.loops:
            choices = [outcome_object(self.plan, outcome) for _, outcome in sorted(self._outcomes.items())]
        else:
            choices = [off_object(self.plan, self._thought(ids)) for _, ids in sorted(self._ids.items())]
            for _ in choices:
                cause = StopCause.UNCERTIFIED if self.plan.settings.uncertified else StopCause.OFF
                metrics.RESPONSES.labels(self.plan.settings.mode, cause.value).inc()
        return response_object(choices) if choices else {}

    def correct(self, usage: dict[str, Any]) -> None:
        """Make `usage` say what was generated: discarded tokens count, injected ones do not."""
        if self.plan.settings.loops:
            completion = sum(outcome.generated_tokens + outcome.probe_tokens for outcome in self._outcomes.values())
            thinking = sum(outcome.thinking_tokens for outcome in self._outcomes.values())
            usage["completion_tokens"] = completion
            usage["total_tokens"] = usage["prompt_tokens"] + completion
        elif self._runtime.form is None:
            return  # vLLM's own count is all there is
        else:
            thinking = sum(map(self._thought, self._ids.values()))
        usage["completion_tokens_details"] = {
            **(usage.get("completion_tokens_details") or {}),
            "reasoning_tokens": thinking,
        }

    def _thought(self, ids: list[int]) -> int:
        """Thinking tokens in the output of a response that plain vLLM generated."""
        form = self._runtime.form
        if form is None:
            return 0
        opened, closed = _find(ids, form.open_ids), _find(ids, form.close_ids)
        if opened is None and not self._starts_open:
            return 0
        start = 0 if opened is None else opened + len(form.open_ids)
        return (len(ids) if closed is None else closed) - start


def _find(ids: list[int], wanted: tuple[int, ...]) -> int | None:
    return next((i for i in range(len(ids) - len(wanted) + 1) if tuple(ids[i : i + len(wanted)]) == wanted), None)


_SAMPLING_DEFAULTS = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}


class DrrServingChat(OpenAIServingChat):
    """vLLM's chat handler with the `drr` object. Made from the handler that vLLM built, by `adopt`."""

    runtime: DrrRuntime

    @classmethod
    def adopt(cls, handler: OpenAIServingChat, runtime: DrrRuntime) -> "DrrServingChat":
        own = cls.__new__(cls)
        own.__dict__.update(handler.__dict__)
        own.runtime = runtime
        return own

    async def create_chat_completion(
        self, request: ChatCompletionRequest, raw_request: Request | None = None
    ) -> AsyncGenerator[str, None] | ChatCompletionResponse | ErrorResponse:
        try:
            settings = self._settings(request, raw_request)
        except DrrError as error:
            return self.create_error_response(str(error), param=error.param)
        scorer = self.runtime.scorers[settings.scorer] if settings.scorer is not None else None
        plan = ResponsePlan(
            settings,
            question_text([message for message in request.messages if isinstance(message, dict)]),
            scorer.id if scorer is not None else None,
            risk_object(settings, self._sampling(request)),
        )
        request.vllm_xargs = {**(request.vllm_xargs or {}), PLAN_KEY: plan}  # type: ignore[dict-item]
        return await super().create_chat_completion(request, raw_request)

    def _settings(self, request: ChatCompletionRequest, raw_request: Request | None) -> Settings:
        extra = request.model_extra or {}
        asked = DrrRequest.parse(extra["drr"]) if "drr" in extra else None
        header = raw_request.headers.get(HEADER) if raw_request is not None else None
        if header is not None:
            if asked is not None:
                raise DrrError("drr", "give either the drr object or the X-DRR header, not both")
            asked = _from_header(header)
        settings = resolve(asked, self._take_alias(request), self.runtime.defaults)
        if request.use_beam_search and settings.loops:
            if settings.explicit:
                raise DrrError("use_beam_search", "beam search cannot be combined with drr; use drr.mode off")
            settings = resolve(DrrRequest(mode="off"), None, self.runtime.defaults)
        return settings

    def _sampling(self, request: ChatCompletionRequest) -> dict[str, Any]:
        """How the request will be sampled, the model's own defaults filled in."""
        own = {**_SAMPLING_DEFAULTS, **self.default_sampling_params}
        given = {name: getattr(request, name, None) for name in _SAMPLING_DEFAULTS}
        sampling = {name: own[name] if value is None else value for name, value in given.items()}
        return {**sampling, "max_tokens": request.max_completion_tokens or request.max_tokens}

    def _take_alias(self, request: ChatCompletionRequest) -> Mode | None:
        """Strip `:drr` or `:full` from the model's name, unless a model is really called that."""
        if not request.model or self._is_model_supported(request.model) or request.model in self.models.lora_requests:
            return None
        name, _, suffix = request.model.rpartition(":")
        if not name or suffix not in _ALIASES:
            return None
        request.model = name
        return _ALIASES[suffix]

    async def chat_completion_full_generator(  # type: ignore[override]
        self, request: ChatCompletionRequest, result_generator: AsyncIterator[RequestOutput], *args: Any, **kwargs: Any
    ) -> ErrorResponse | ChatCompletionResponse:
        tap = Tap(result_generator, _plan(request), self.runtime)
        response = await super().chat_completion_full_generator(request, tap, *args, **kwargs)
        if isinstance(response, ChatCompletionResponse):
            usage = response.usage.model_dump()
            tap.correct(usage)
            response.usage = UsageInfo.model_validate(usage)
            report = tap.report()
            if tap.plan.settings.report != "none":
                response.drr = report  # type: ignore[attr-defined]
        return response

    async def chat_completion_stream_generator(  # type: ignore[override]
        self,
        request: ChatCompletionRequest,
        result_generator: AsyncGenerator[RequestOutput, None],
        request_id: str,
        model_name: str,
        *args: Any,
        **kwargs: Any,
    ) -> AsyncGenerator[str, None]:
        tap = Tap(result_generator, _plan(request), self.runtime)
        stream = super().chat_completion_stream_generator(request, tap, request_id, model_name, *args, **kwargs)
        async with contextlib.aclosing(result_generator), contextlib.aclosing(stream):
            async for event in _with_reports(stream, tap, request_id, model_name):
                yield event


async def _with_reports(
    stream: AsyncIterator[str], tap: Tap, request_id: str, model_name: str
) -> AsyncGenerator[str, None]:
    """vLLM's SSE events with DRR's among them.

    A client that spoke of DRR gets a chunk without choices per closed step and one with the summary before the
    usage. One that did not may index `choices[0]` of every chunk: for it the summary rides on the last chunk of
    the answer.
    """
    settings = tap.plan.settings
    summary_due = settings.report != "none"
    own_chunks = settings.explicit and summary_due
    created = 0
    async for event in stream:
        chunk = _parsed(event) if tap.finishing or not created else None
        if chunk is not None:
            created = chunk.get("created", created)
        if own_chunks:
            for step in tap.take_steps() if settings.report == "steps" else ():
                yield _chunk(request_id, model_name, created, {"step": step})
            if tap.exhausted and summary_due:
                summary_due = False
                yield _chunk(request_id, model_name, created, tap.report())
        if chunk is not None and chunk.get("usage") and not chunk["choices"]:
            tap.correct(chunk["usage"])
            yield _event(chunk)
        elif chunk is not None and summary_due and not own_chunks and _is_last(chunk, tap):
            summary_due = False
            yield _event({**chunk, "drr": tap.report()})
        else:
            yield event


def _is_last(chunk: dict[str, Any], tap: Tap) -> bool:
    """Whether this is the chunk that ends the last choice."""
    return tap.finishing and bool(chunk.get("choices")) and chunk["choices"][0].get("finish_reason") is not None


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def _parsed(event: str) -> dict[str, Any] | None:
    if not event.startswith("data: {"):
        return None
    chunk: dict[str, Any] = json.loads(event[len("data: ") :])
    return chunk


def _chunk(request_id: str, model_name: str, created: int, drr: dict[str, Any]) -> str:
    chunk = {
        "id": request_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model_name,
        "choices": [],
        "drr": drr,
    }
    return _event(chunk)


def _plan(request: ChatCompletionRequest) -> ResponsePlan:
    plan = (request.vllm_xargs or {})[PLAN_KEY]
    assert isinstance(plan, ResponsePlan)
    return plan


def _from_header(value: str) -> DrrRequest:
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise DrrError("X-DRR", f"the header is not JSON: {error}") from None
    return DrrRequest.parse(parsed, "X-DRR")


def refuse_drr(handler: Any) -> None:
    """Make a handler of another endpoint refuse a `drr` object instead of ignoring it."""
    check_model = handler._check_model

    async def check(request: Any) -> ErrorResponse | None:
        if "drr" in (getattr(request, "model_extra", None) or {}):
            error: ErrorResponse = handler.create_error_response(
                "drr: only /v1/chat/completions takes a drr object", param="drr"
            )
            return error
        refused: ErrorResponse | None = await check_model(request)
        return refused

    handler._check_model = check


def list_aliases(models: OpenAIServingModels, aliases: list[str]) -> None:
    """Make `/v1/models` list `<name>:<alias>` beside every base model."""
    show = models.show_available_models

    async def show_with_aliases() -> ModelList:
        listing = await show()
        named = [path.name for path in models.base_model_paths]
        cards = {card.id: card for card in listing.data}
        for name in named:
            for alias in aliases:
                card: ModelCard = cards[name].model_copy(update={"id": f"{name}:{alias}", "parent": name})
                listing.data.append(card)
        return listing

    models.show_available_models = show_with_aliases  # type: ignore[method-assign]


class RefuseHeaderElsewhere:
    """ASGI middleware: an X-DRR header on an endpoint that would ignore it is an error."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        elsewhere = scope["type"] == "http" and scope["path"] != _CHAT_PATH
        if elsewhere and any(name == HEADER.encode() for name, _ in scope["headers"]):
            message = f"X-DRR: only {_CHAT_PATH} takes this header"
            error = {"message": message, "type": "BadRequestError", "param": "X-DRR", "code": 400}
            await JSONResponse({"error": error}, status_code=400)(scope, receive, send)
            return
        await self._app(scope, receive, send)

"""OpenAI's Responses: reasoning items by what the loop knows, its account in the response and in its last event.

vLLM's handler makes the response, streamed or not, in the background or not, in `responses_full_generator`: there it is
completed with DRR's account, its usage, and the refusal of an abstention.
"""

import contextlib
import itertools
import uuid
from collections.abc import AsyncGenerator
from typing import Any, Literal, Self

from fastapi import Request
from openai.types.responses import (
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputRefusal,
    ResponseOutputText,
    ResponseRefusalDeltaEvent,
    ResponseRefusalDoneEvent,
)
from pydantic import BaseModel

from drr.loop.formats import Channels
from server.endpoints import OUTCOME_HEADER
from server.keys import Mode
from server.parsing import phase_parser
from server.plan import ResponsePlan, Tools, plan_of, with_plan
from server.planning import Planner, Wish, penalties
from server.promise import Sampled
from server.report import account_of, announcement, choice_reports, counts_of, refused_text, short_account, told_steps
from server.schema import DrrError
from server.vllm_api import (
    ErrorResponse,
    OpenAIServingResponses,
    ResponsesRequest,
    ResponsesResponse,
    vllm_parses_responses_itself,
)

_UNJUDGED = "only /v1/chat/completions is judged for this Reasoner: /v1/responses leaves its {} to vLLM"
_NAMES = ("input", "reasoning.effort", "max_output_tokens")


class StepEvent(BaseModel):
    """A step has closed. Clients let pass an event of a type that they do not know."""

    type: Literal["drr.step"] = "drr.step"
    sequence_number: int = 0
    drr: dict[str, Any]


class DrrResponses(OpenAIServingResponses):
    """vLLM's handler of Responses with the `drr` object."""

    _planner: Planner

    @classmethod
    def of(cls, handler: OpenAIServingResponses, planner: Planner, *, tool_parser: str | None = None) -> Self:
        """The handler that vLLM has made, with DRR in it."""
        made = cls.__new__(cls)
        made.__dict__.update(vars(handler))
        made._planner = planner
        form = planner.runtime.form
        if form is not None and made._unjudged is None:
            made.parser = phase_parser(handler.parser, handler.renderer.tokenizer, form, tool_parser)
        return made

    @property
    def _unjudged(self) -> str | None:
        """Why nothing is judged here; None where it is. Where vLLM parses the Reasoner's tokens itself, or runs tools
        between several turns of one response, a stop would be lost on it."""
        if isinstance(self._planner.runtime.form, Channels) or self.use_harmony:
            return _UNJUDGED.format("channels")
        return _UNJUDGED.format("turns with built-in tools") if vllm_parses_responses_itself() else None

    async def create_responses(
        self, request: ResponsesRequest, raw_request: Request | None = None
    ) -> AsyncGenerator[Any, None] | ResponsesResponse | ErrorResponse:
        """vLLM's own, with the request's plan on its way in."""
        try:
            plan = self._planned(request, raw_request)
        except DrrError as error:
            return self._planner.refusal(error)
        made = await super().create_responses(request, raw_request)
        if plan is not None and raw_request is not None and not isinstance(made, ErrorResponse):
            whole = isinstance(made, ResponsesResponse) and not request.background
            told = short_account(choice_reports(plan, 1)) if whole else announcement(plan)
            setattr(raw_request.state, OUTCOME_HEADER, told)
        return made

    def _planned(self, request: ResponsesRequest, raw_request: Request | None) -> ResponsePlan | None:
        model, alias = self._planner.take_alias(request.model, raw_request)
        request.model = model or request.model
        wish = _wish(request, alias)
        if self._unjudged is not None:
            if self._planner.wants_drr(wish, raw_request):
                raise DrrError("drr", self._unjudged)
            return None
        plan = self._planner.plan(wish, raw_request)
        request.vllm_xargs = with_plan(request.vllm_xargs, plan)
        return plan

    async def _render_resolved_response_inputs(
        self, request: ResponsesRequest, prev_response: ResponsesResponse | None, **options: Any
    ) -> Any:
        """vLLM's own, which breaks on a refusal in the history: it is told as text. What the judge is to see stands in
        the conversation that is made of the input and of stored responses."""
        if isinstance(request.input, list):
            request.input = [_as_text(item) for item in request.input]
        if prev_response is not None:
            prev_response = prev_response.model_copy(
                update={"output": [_as_text(item) for item in prev_response.output]}
            )
        rendered = await super()._render_resolved_response_inputs(request, prev_response, **options)
        plan = plan_of(request)
        if plan is not None and not isinstance(rendered, ErrorResponse):
            effort = request.reasoning.effort if request.reasoning is not None else None
            sampled = Sampled(rendered.messages, effort, request.max_output_tokens, _NAMES)
            self._planner.read(plan, _wish(request, None), request, sampled)
        return rendered

    async def responses_full_generator(
        self, request: ResponsesRequest, *args: Any, **options: Any
    ) -> ErrorResponse | ResponsesResponse:
        """vLLM's own, with the account in it."""
        made = await super().responses_full_generator(request, *args, **options)
        plan = plan_of(request)
        if plan is not None and isinstance(made, ResponsesResponse):
            _complete(made, plan)
        return made

    async def responses_stream_generator(
        self, request: ResponsesRequest, *args: Any, **options: Any
    ) -> AsyncGenerator[Any, None]:
        """vLLM's events with DRR's among them: a client that sent a `drr` object gets one for each closed step; what an
        abstention says has those of any refusal."""
        plan = plan_of(request)
        numbers = itertools.count()
        async with contextlib.aclosing(super().responses_stream_generator(request, *args, **options)) as stream:
            try:
                async for event in stream:
                    for told in (*_own_events(event, plan), event):
                        if hasattr(told, "sequence_number"):
                            told.sequence_number = next(numbers)
                        yield told
            finally:
                if plan is not None and plan.account.stream is not None:
                    await plan.account.stream.aclose()


def _own_events(event: Any, plan: ResponsePlan | None) -> list[Any]:
    """DRR's events that come before this one of vLLM's."""
    if plan is None or event.type in ("response.created", "response.in_progress"):
        return []
    steps: list[Any] = [StepEvent(drr=step) for step in told_steps(plan)]
    ends = event.type in ("response.completed", "response.incomplete")
    return [*steps, *_refusal_events(event.response)] if ends else steps


def _wish(request: ResponsesRequest, alias: Mode | None) -> Wish:
    extra = request.model_extra or {}
    return Wish(
        model=request.model or "",
        drr=extra.get("drr"),
        extra=extra,
        xargs=request.vllm_xargs,
        seed=request.seed,
        template=extra.get("chat_template"),
        template_kwargs=request.chat_template_kwargs,
        alias=alias,
        effort=request.reasoning.effort if request.reasoning is not None else None,
        temperature=request.temperature,
        penalised_by=penalties(request),
        tools=_tools(request),
    )


def _tools(request: ResponsesRequest) -> Tools:
    if not request.tools or request.tool_choice == "none":
        return "none"
    return "may" if request.tool_choice == "auto" else "must"


def _complete(response: ResponsesResponse, plan: ResponsePlan) -> None:
    """Put the account into a response, what was generated into its usage, and a refusal where OpenAI has it."""
    counts = counts_of(plan)
    if counts is not None and response.usage is not None:
        usage = response.usage
        usage.output_tokens = counts.completion
        usage.total_tokens = usage.input_tokens + counts.completion
        for name, value in counts.details.items():
            setattr(usage.output_tokens_details, name, value)
    account = account_of(plan)
    if account is not None:
        response.drr = account  # type: ignore[attr-defined]
    _keep_logprobs_of_text(response, plan)
    refused = refused_text(plan)
    if refused is not None:
        response.output = [item for item in response.output if item.type == "reasoning"]
        response.output.append(_refusing(refused))


def _keep_logprobs_of_text(response: ResponsesResponse, plan: ResponsePlan) -> None:
    """Log-probabilities beside a text are its own: of a whole response vLLM puts those of the thinking before them."""
    if plan.settings.thinking_in == "content":
        return
    own = len(plan.account.of(0).answer_ids)
    for item in response.output:
        for part in item.content if isinstance(item, ResponseOutputMessage) else ():
            if isinstance(part, ResponseOutputText) and part.logprobs and own:
                part.logprobs = part.logprobs[-own:]


def _as_text(item: Any) -> Any:
    """An item of a conversation, a refusal in it as text."""
    if not isinstance(item, ResponseOutputMessage):
        return item
    content = [
        ResponseOutputText(type="output_text", text=part.refusal, annotations=[])
        if isinstance(part, ResponseOutputRefusal)
        else part
        for part in item.content
    ]
    return item.model_copy(update={"content": content})


def _refusing(text: str) -> ResponseOutputMessage:
    """The message of an abstention."""
    said = ResponseOutputRefusal(type="refusal", refusal=text)
    return ResponseOutputMessage(
        id=f"msg_{uuid.uuid4().hex}", type="message", role="assistant", status="completed", content=[said]
    )


def _refusal_events(response: ResponsesResponse) -> list[Any]:
    """The events of a refusal that stands at the end of a response; none where there is no refusal."""
    item = response.output[-1] if response.output else None
    if not isinstance(item, ResponseOutputMessage) or not isinstance(item.content[0], ResponseOutputRefusal):
        return []
    said = item.content[0]
    place: Any = {"output_index": len(response.output) - 1, "sequence_number": 0}
    part: Any = {**place, "item_id": item.id, "content_index": 0}
    begun = item.model_copy(update={"content": [], "status": "in_progress"})
    return [
        ResponseOutputItemAddedEvent(type="response.output_item.added", item=begun, **place),
        ResponseContentPartAddedEvent(
            type="response.content_part.added", part=said.model_copy(update={"refusal": ""}), **part
        ),
        ResponseRefusalDeltaEvent(type="response.refusal.delta", delta=said.refusal, **part),
        ResponseRefusalDoneEvent(type="response.refusal.done", refusal=said.refusal, **part),
        ResponseContentPartDoneEvent(type="response.content_part.done", part=said, **part),
        ResponseOutputItemDoneEvent(type="response.output_item.done", item=item, **place),
    ]

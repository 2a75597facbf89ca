"""Anthropic's Messages: thinking blocks by what the loop knows, its account in the message and in `message_delta`.

vLLM makes a chat completion of such a request and a message of that. The chat completion is given its plan as any is;
what has become of it is completed here with DRR's account, its usage, and the refusal of an abstention.
"""

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any, Self

from fastapi import Request

from server.chat import planned_chat
from server.endpoints import OUTCOME_HEADER
from server.parsing import phase_parser
from server.plan import ResponsePlan
from server.planning import Planner
from server.report import account_of, announcement, choice_reports, counts_of, refused_text, short_account, told_steps
from server.schema import DrrError
from server.vllm_api import (
    AnthropicMessagesRequest,
    AnthropicMessagesResponse,
    AnthropicServingMessages,
    ChatCompletionRequest,
    ChatCompletionResponse,
    ErrorResponse,
)

_PLAN_STATE = "drr_plan"
"""Where a request's state keeps its plan, between the chat completion and the message that is made of it."""


class DrrMessage(AnthropicMessagesResponse):
    """A whole message with DRR's account, and what Anthropic has that vLLM's class lacks."""

    stop_reason: Any = None
    stop_details: dict[str, Any] | None = None
    usage: Any = None
    drr: dict[str, Any] | None = None


class DrrMessages(AnthropicServingMessages):
    """vLLM's handler of Messages with the `drr` object. `disabled_effort` is what vLLM's flag says that disabled
    thinking stands for; `auto` is none at all, and where the template knows no such word the loop sees to it."""

    _planner: Planner
    _disabled_effort: str

    @classmethod
    def of(
        cls,
        handler: AnthropicServingMessages,
        planner: Planner,
        *,
        tool_parser: str | None = None,
        disabled_effort: str = "auto",
    ) -> Self:
        """The handler that vLLM has made, with DRR in it."""
        made = cls.__new__(cls)
        made.__dict__.update(vars(handler))
        made._planner, made._disabled_effort = planner, disabled_effort
        if planner.runtime.form is not None:
            tokenizer = handler.renderer.tokenizer
            made.parser_cls = phase_parser(handler.parser_cls, tokenizer, planner.runtime.form, tool_parser)
        return made

    async def create_chat_completion(
        self, request: ChatCompletionRequest, raw_request: Request | None = None
    ) -> AsyncGenerator[str, None] | ChatCompletionResponse | ErrorResponse:
        """The chat completion behind a message, with its plan."""
        body = await raw_request.json() if raw_request is not None else {}
        disabled = (body.get("thinking") or {}).get("type") == "disabled"
        effort = "none" if disabled and self._disabled_effort == "auto" else None
        try:
            told = {"drr": body.get("drr"), "effort": effort, "template": body.get("chat_template")}
            plan = planned_chat(self._planner, request, raw_request, **told)
        except DrrError as error:
            return self._planner.refusal(error)
        if raw_request is not None:
            setattr(raw_request.state, _PLAN_STATE, plan)
        return await super().create_chat_completion(request, raw_request)

    async def create_messages(
        self, request: AnthropicMessagesRequest, raw_request: Request | None = None
    ) -> AsyncGenerator[str, None] | AnthropicMessagesResponse | ErrorResponse:
        """vLLM's own, with the account on its way out."""
        made = await super().create_messages(request, raw_request)
        plan: ResponsePlan | None = getattr(raw_request.state, _PLAN_STATE, None) if raw_request is not None else None
        if raw_request is None or plan is None or isinstance(made, ErrorResponse):
            return made
        whole = isinstance(made, AnthropicMessagesResponse)
        told = short_account(choice_reports(plan, 1)) if whole else announcement(plan)
        setattr(raw_request.state, OUTCOME_HEADER, told)
        return _completed(made, plan) if whole else with_account(made, plan)


def _completed(message: AnthropicMessagesResponse, plan: ResponsePlan) -> DrrMessage:
    """A whole message with the account, and a refusal where Anthropic has it."""
    fields: dict[str, Any] = message.model_dump(exclude_none=True)
    _correct_usage(fields["usage"], plan)
    refused = refused_text(plan)
    if refused is not None:
        fields["content"] = [block for block in fields["content"] if block["type"] == "thinking"]
        fields["content"].append({"type": "text", "text": refused})
        fields.update(_refusal(refused))
    return DrrMessage(**fields, drr=account_of(plan))


async def with_account(stream: AsyncGenerator[str, None], plan: ResponsePlan) -> AsyncGenerator[str, None]:
    """A message's SSE events with DRR's among them.

    The account rides on `message_delta`. A client that sent a `drr` object also gets a `ping` for each closed step:
    that is the one event which clients let pass whatever it holds. What an abstention says is the last block of text.
    """
    blocks, begun = 0, False
    async with contextlib.AsyncExitStack() as stack:
        if plan.account.stream is not None:
            await stack.enter_async_context(contextlib.aclosing(plan.account.stream))
        await stack.enter_async_context(contextlib.aclosing(stream))
        async for event in stream:
            for step in told_steps(plan) if begun else ():
                yield _event("ping", {"type": "ping", "drr": step})
            begun = True  # nothing comes before message_start
            blocks += event.startswith("event: content_block_start\n")
            if event.startswith("event: message_delta\n"):
                refused = refused_text(plan)
                for told in _text_block(blocks, refused) if refused is not None else ():
                    yield told
                event = _event("message_delta", _ended(json.loads(event.partition("data: ")[2]), plan, refused))
            yield event


def _ended(delta: dict[str, Any], plan: ResponsePlan, refused: str | None) -> dict[str, Any]:
    """The `message_delta` with the account."""
    _correct_usage(delta["usage"], plan)
    if refused is not None:
        delta["delta"].update(_refusal(refused))
    account = account_of(plan)
    return delta if account is None else {**delta, "drr": account}


def _correct_usage(usage: dict[str, Any], plan: ResponsePlan) -> None:
    """Make a message's `usage` say what has been generated."""
    counts = counts_of(plan)
    if counts is None:
        return
    usage["output_tokens"] = counts.completion
    details = counts.details
    usage["output_tokens_details"] = {"thinking_tokens": details.pop("reasoning_tokens"), **details}


def _refusal(text: str) -> dict[str, Any]:
    """Why a message ends that answers nothing."""
    return {
        "stop_reason": "refusal",
        "stop_sequence": None,
        "stop_details": {"type": "refusal", "category": None, "explanation": text},
    }


def _text_block(index: int, text: str) -> list[str]:
    """The events of one more block of text."""
    block = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": text}
    return [
        _event("content_block_start", {"type": "content_block_start", "index": index, "content_block": block}),
        _event("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}),
        _event("content_block_stop", {"type": "content_block_stop", "index": index}),
    ]


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"

"""Chat completions: the `drr` object in, the loop's account out. Everything else is vLLM's own handler.

The handler is wrapped, not subclassed: it is given a plan with the request, and a parser that takes the loop's word for
what is reasoning and what is content; what it makes is completed here with DRR's account.
"""

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Request

from server.efforts import Efforts
from server.endpoints import OUTCOME_HEADER
from server.keys import Mode
from server.parsing import phase_parser
from server.plan import ResponsePlan, Tools, with_plan
from server.planning import Planner, Wish, penalties
from server.promise import Sampled
from server.reasoning_key import ReasoningKey, name_reasoning, with_reasoning_named
from server.report import announcement, choice_reports, correct_usage, refused_text, response_object, short_account
from server.runtime import DrrRuntime
from server.schema import DrrError
from server.streams import with_reports
from server.vllm_api import (
    ChatCompletionRequest,
    ChatCompletionResponse,
    ErrorResponse,
    OpenAIServingChat,
    UsageInfo,
)


class DrrChat:
    """vLLM's chat handler with the `drr` object. `penalties_carry` tells whether what a penalty has counted can be
    carried into another engine request, `trusts_templates` whether requests may bring chat templates; `tool_parser` is
    vLLM's name of it."""

    def __init__(
        self,
        handler: OpenAIServingChat,
        runtime: DrrRuntime,
        *,
        efforts: Efforts | None = None,
        tool_parser: str | None = None,
        penalties_carry: bool = True,
        trusts_templates: bool = False,
        reasoning_key: ReasoningKey = "reasoning",
    ) -> None:
        self._handler, self.runtime, self._reasoning_key = handler, runtime, reasoning_key
        self._planner = Planner(
            handler, runtime, efforts, penalties_carry=penalties_carry, trusts_templates=trusts_templates
        )
        if runtime.form is not None:
            tokenizer = handler.renderer.tokenizer
            handler.parser_cls = phase_parser(handler.parser_cls, tokenizer, runtime.form, tool_parser)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    async def create_chat_completion(
        self, request: ChatCompletionRequest, raw_request: Request | None = None
    ) -> AsyncGenerator[str, None] | ChatCompletionResponse | ErrorResponse:
        """vLLM's own, with the request's plan on its way in and the account on its way out."""
        try:
            plan = planned_chat(self._planner, request, raw_request)
        except DrrError as error:
            return self._planner.refusal(error)
        made = await self._handler.create_chat_completion(request, raw_request)
        if isinstance(made, ErrorResponse):
            return made
        choices = request.n or 1
        whole = isinstance(made, ChatCompletionResponse)
        reports = choice_reports(plan, choices) if whole else []
        if raw_request is not None:
            setattr(raw_request.state, OUTCOME_HEADER, short_account(reports) if whole else announcement(plan))
        if not whole:
            return with_reasoning_named(with_reports(made, plan, choices), self._reasoning_key)
        _complete(made, plan, reports)
        for choice in made.choices:
            name_reasoning(choice.message, self._reasoning_key)
        return made


def planned_chat(
    planner: Planner,
    request: ChatCompletionRequest,
    raw_request: Request | None,
    *,
    drr: Any = None,
    effort: str | None = None,
    template: Any = None,
) -> ResponsePlan:
    """The plan of a chat completion, put into it. `drr`, `effort` and `template` are for requests that have been made
    of another endpoint's: its `drr` object, its word for the effort where that is not the template's, and the template
    that it brought. DrrError as
    `Planner.plan`."""
    model, alias = planner.take_alias(request.model, raw_request)
    request.model = model or request.model
    wish = _wish(request, alias, drr, effort, template)
    plan = planner.plan(wish, raw_request)
    planner.read(plan, wish, request, Sampled.of_chat(request))
    request.vllm_xargs = with_plan(request.vllm_xargs, plan)
    return plan


def _wish(request: ChatCompletionRequest, alias: Mode | None, drr: Any, effort: str | None, template: Any) -> Wish:
    extra = request.model_extra or {}
    return Wish(
        model=request.model or "",
        drr=extra.get("drr") if drr is None else drr,
        extra=extra,
        xargs=request.vllm_xargs,
        alias=alias,
        effort=effort or request.reasoning_effort,
        temperature=request.temperature,
        budget=request.thinking_token_budget,
        beam_search=request.use_beam_search,
        penalised_by=penalties(request),
        tools=_tools(request),
        choices=request.n or 1,
        seed=request.seed,
        template=request.chat_template if template is None else template,
        template_kwargs=request.chat_template_kwargs,
    )


def _tools(request: ChatCompletionRequest) -> Tools:
    choice = request.tool_choice
    if not request.tools or choice == "none":
        return "none"
    return "may" if choice in (None, "auto") else "must"


def _complete(response: ChatCompletionResponse, plan: ResponsePlan, reports: list[dict[str, Any]]) -> None:
    """Put the account into a whole response, and a refusal where OpenAI has it."""
    usage = response.usage.model_dump()
    correct_usage(usage, plan)
    response.usage = UsageInfo.model_validate(usage)
    if reports and plan.settings.report != "none":
        response.drr = response_object(reports)  # type: ignore[attr-defined]
    for choice in response.choices:
        refused = refused_text(plan, choice.index)
        if refused is not None:
            choice.message.refusal = refused
            choice.message.content, choice.message.tool_calls = None, []
            choice.finish_reason = "stop"

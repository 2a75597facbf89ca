"""Chat completions: the `drr` object in, the loop's account out. Everything else is vLLM's own handler.

The handler is wrapped, not subclassed: it is given a plan with the request, and a parser that takes the loop's word for
what is reasoning and what is content; what it makes is completed here with DRR's account.
"""

import dataclasses
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from fastapi import Request

from drr.judge.dm_input import question_text
from drr.loop.formats import Channels
from drr.loop.policy import StopCause
from server.canaries import may_be_canary, rule_of
from server.chat_templates import UNTRUSTED, brings_template
from server.endpoints import ALIAS_STATE, HEADER, OUTCOME_HEADER, served_names, split_alias
from server.keys import EFFORTS, Mode
from server.parsing import phase_parser
from server.plan import PLAN_KEY, ResponsePlan, Tools
from server.promise import broken_by
from server.report import announcement, choice_reports, correct_usage, response_object, short_account
from server.resolve import Asked, resolve
from server.runtime import DrrRuntime
from server.schema import DrrError, DrrRequest
from server.settings import Defaults, Settings
from server.streams import with_reports
from server.vllm_api import (
    ChatCompletionRequest,
    ChatCompletionResponse,
    ErrorResponse,
    OpenAIServingChat,
    UsageInfo,
)

_UNSTEERED = frozenset({"dm", "report", "thinking_in", "max_thinking_tokens", "answer_tokens", "max_steps"})
"""Keys that say nothing about how sure a judge has to be."""

_BESIDE_BEAMS = frozenset({"mode", "report"})
"""Keys that have an effect without the loop."""


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
            named = error if _in_body(request) else error.in_header()
            refused: ErrorResponse = self._handler.create_error_response(str(named), param=named.param)
            return refused
        scorer = self.runtime.scorers[settings.judge] if settings.judge is not None else None
        plan = ResponsePlan(
            settings,
            question_text([message for message in request.messages if isinstance(message, dict)]),
            scorer.id if scorer is not None else None,
            self._broken_by(request, settings),
            _tools(request),
        )
        request.vllm_xargs = {**(request.vllm_xargs or {}), PLAN_KEY: plan}  # type: ignore[dict-item]
        made = await self._handler.create_chat_completion(request, raw_request)
        if isinstance(made, ErrorResponse):
            return made
        choices = request.n or 1
        whole = isinstance(made, ChatCompletionResponse)
        reports = choice_reports(plan, choices) if whole else []
        if raw_request is not None:
            setattr(raw_request.state, OUTCOME_HEADER, short_account(reports) if whole else announcement(plan))
        if not whole:
            return with_reports(made, plan, choices)
        _complete(made, plan, reports)
        return made

    def _settings(self, request: ChatCompletionRequest, raw_request: Request | None) -> Settings:
        if not self._handler.trust_request_chat_template:
            named = brings_template(request.chat_template, request.chat_template_kwargs)
            if named is not None:
                raise DrrError(named, UNTRUSTED)
        asked = self._asked(request, raw_request)
        forced_mode: Mode | None = getattr(raw_request.state, ALIAS_STATE, None) if raw_request is not None else None
        forced_mode = forced_mode or self._take_alias(request)
        asked = self._with_effort(request, asked, forced_mode)
        budget = request.thinking_token_budget
        beside = Asked(
            forced_mode,
            self._temperature(request),
            budget if isinstance(budget, int) and budget >= 0 else None,
            explicit=_in_body(request),
        )
        settings = resolve(asked, self.runtime.defaults, beside)
        if settings.thinking_in == "content" and isinstance(self.runtime.form, Channels):
            raise DrrError("drr.thinking_in", "channels cannot be shown as content")
        if request.use_beam_search:
            if asked is not None and (settings.loops or not asked.given() <= _BESIDE_BEAMS):
                raise DrrError("use_beam_search", "of drr, beam search takes mode off and a report, nothing else")
            bare = DrrRequest(mode="off", report=None if asked is None else asked.report)
            settings = resolve(bare, self.runtime.defaults, Asked(beam_search=True))
        if settings.acts and not self._penalties_carry:
            for name in ("presence_penalty", "frequency_penalty"):
                if getattr(request, name):
                    raise DrrError(
                        name, "with speculative decoding it cannot be carried past a stop; use drr.mode off, or none"
                    )
        return settings if forced_mode is not None else self._as_canary(request, asked, settings)

    def _as_canary(self, request: ChatCompletionRequest, asked: DrrRequest | None, settings: Settings) -> Settings:
        """The settings of a response that thinks in full all the same, where this is one."""
        canaries = self.runtime.canaries
        if canaries is None or not may_be_canary(asked, settings, request.n or 1):
            return settings
        if not canaries.picks(request.messages, request.seed, self._temperature(request)):
            return settings
        return replace(settings, canary=rule_of(settings))

    def _asked(self, request: ChatCompletionRequest, raw_request: Request | None) -> DrrRequest | None:
        """The `drr` object, in the body or in the header; null is none."""
        extra = request.model_extra or {}
        if isinstance(extra.get("extra_body"), dict) and "drr" in extra["extra_body"]:
            raise DrrError("extra_body", "is an argument of OpenAI's SDKs, which send its keys beside the others")
        if PLAN_KEY in (request.vllm_xargs or {}):
            raise DrrError("vllm_xargs", f"the key {PLAN_KEY!r} is taken; give the drr object beside it")
        body = extra.get("drr")
        header = _header(raw_request.headers.getlist(HEADER)) if raw_request is not None else None
        if body is None:
            return header
        if header is not None:
            raise DrrError("drr", "give either the drr object or the X-DRR header, not both")
        return DrrRequest.parse(body)

    def _with_effort(
        self, request: ChatCompletionRequest, asked: DrrRequest | None, forced_mode: Mode | None
    ) -> DrrRequest | None:
        """The request with what its `reasoning_effort` means to a calibrated judge, where it does not say so itself."""
        defaults = self.runtime.defaults
        meant = EFFORTS.get(request.reasoning_effort or "")
        given = asked.given() if asked is not None else set[str]()
        if meant is None or not given <= _UNSTEERED or not _judged_by_calibrated_dm(asked, defaults):
            return asked
        if defaults.mode != "auto" or forced_mode == "off":
            return asked
        if meant.mode is not None and (forced_mode is not None or "dm" in given):
            return asked  # somebody is to judge
        if asked is not None and asked.max_thinking_tokens == 0:
            return asked  # nothing is thought that a judge could be surer of
        chosen = {name: value for name, value in dataclasses.asdict(meant).items() if value is not None}
        return DrrRequest.model_validate({**(asked.model_dump(exclude_none=True) if asked else {}), **chosen})

    def _broken_by(self, request: ChatCompletionRequest, settings: Settings) -> list[str]:
        """What breaks the promise of the risk that was asked for, if one was."""
        if settings.max_lost_correct is None:
            return []
        lora = request.model in self._handler.models.lora_requests
        return broken_by(request, settings, self.runtime.around, lora=lora)

    def _temperature(self, request: ChatCompletionRequest) -> float:
        """What the request is sampled at, the model's own default filled in."""
        given = request.temperature
        return float(self._handler.default_sampling_params.get("temperature", 1.0) if given is None else given)

    def _take_alias(self, request: ChatCompletionRequest) -> Mode | None:
        """Strip `:drr` or `:full` from the model's name, unless a model is really called that."""
        found = split_alias(request.model or "", served_names(self._handler.models))
        if found is None:
            return None
        request.model, mode = found
        return mode


def _judged_by_calibrated_dm(asked: DrrRequest | None, defaults: Defaults) -> bool:
    """Whether the DM that the request names has been calibrated, or else that of `--dm`, where that one judges."""
    if asked is not None and asked.dm is not None:
        named = defaults.beside.get(asked.dm)
        return named is not None and named.calibration is not None
    return defaults.scorer == "dm" and defaults.calibration is not None


def _in_body(request: ChatCompletionRequest) -> bool:
    """Whether the request brought a `drr` object in its body."""
    return (request.model_extra or {}).get("drr") is not None


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
        outcome = plan.account.outcomes.get(choice.index)
        if outcome is not None and outcome.stop_cause is StopCause.ABSTAINED:
            choice.message.refusal = "".join(plan.account.of(choice.index).refusal)
            choice.message.content, choice.message.tool_calls = None, []
            choice.finish_reason = "stop"


def _header(values: list[str]) -> DrrRequest | None:
    if not values:
        return None
    if len(values) > 1:
        raise DrrError("X-DRR", "the header is given more than once")
    try:
        parsed = json.loads(values[0])
    except (ValueError, RecursionError) as error:
        raise DrrError("X-DRR", f"the header is not JSON: {error}") from None
    return None if parsed is None else DrrRequest.parse(parsed, "X-DRR")

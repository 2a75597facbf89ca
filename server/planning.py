"""From what a request of any endpoint says to its plan: `drr` object, X-DRR header, the model's alias, the effort.

Endpoints say what they want in a `Wish`; all else about DRR's options is decided here, once for all of them.
"""

from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request

from drr.judge.dm_input import question_text
from drr.loop.formats import Channels
from server.canaries import may_be_canary, rule_of
from server.chat_templates import UNTRUSTED, brings_template
from server.efforts import Efforts
from server.endpoints import ALIAS_STATE, HEADER, served_names, split_alias
from server.keys import Mode
from server.plan import PLAN_KEY, ResponsePlan, Tools
from server.promise import Sampled, broken_by
from server.resolve import Asked, resolve
from server.runtime import DrrRuntime
from server.schema import DrrError, DrrRequest
from server.settings import Settings
from server.vllm_api import ErrorResponse

_BESIDE_BEAMS = frozenset({"mode", "report"})
"""Keys that have an effect without the loop."""

PARAM_STATE = "drr_param"
"""Where a request's state names the field at fault, for error shapes of vLLM's that have no place for it."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request says that its plan rests on. `drr` is the object in its body, `extra` its fields that vLLM does
    not know; `alias` the mode that its model's alias meant; `budget` vLLM's own limit on thinking; `penalised_by` the
    penalties that it sets."""

    model: str
    drr: Any = None
    extra: Any = None
    xargs: Any = None
    alias: Mode | None = None
    effort: str | None = None
    temperature: float | None = None
    budget: int | None = None
    beam_search: bool = False
    penalised_by: tuple[str, ...] = ()
    tools: Tools = "none"
    choices: int = 1
    seed: int | None = None
    template: Any = None
    template_kwargs: Any = None


class Planner:
    """Makes plans for the requests that a vLLM handler serves. `penalties_carry` tells whether what a penalty has
    counted can be carried into another engine request, `trusts_templates` whether requests may bring chat templates."""

    def __init__(
        self,
        handler: Any,
        runtime: DrrRuntime,
        efforts: Efforts | None = None,
        *,
        penalties_carry: bool = True,
        trusts_templates: bool = False,
    ) -> None:
        self._handler, self.runtime, self._penalties_carry = handler, runtime, penalties_carry
        self._efforts, self._trusts_templates = efforts or Efforts(), trusts_templates

    def take_alias(self, model: str | None, raw_request: Request | None) -> tuple[str, Mode | None]:
        """The model's own name, and the mode that its alias means: `:drr` or `:full` is stripped, unless a model is
        really called that."""
        forced: Mode | None = getattr(raw_request.state, ALIAS_STATE, None) if raw_request is not None else None
        found = split_alias(model or "", served_names(self._handler.models)) if forced is None else None
        return (model or "", forced) if found is None else found

    def plan(self, wish: Wish, raw_request: Request | None) -> ResponsePlan:
        """The plan of a request; DrrError where it contradicts itself or asks for what is not there."""
        try:
            self._check_template(wish)
            asked, settings = self._settings(wish, raw_request)
        except DrrError as error:
            named = error if wish.drr is not None else error.in_header()
            if raw_request is not None:
                setattr(raw_request.state, PARAM_STATE, named.param)
            raise named from None
        scorer = self.runtime.scorers[settings.judge] if settings.judge is not None else None
        plan = ResponsePlan(settings, "", scorer.id if scorer is not None else None, tools=wish.tools)
        plan.may_be_canary = wish.alias is None and may_be_canary(asked, settings, wish.choices)
        return plan

    def read(self, plan: ResponsePlan, wish: Wish, request: Any, sampled: Sampled) -> None:
        """Tell a plan what the judge is to see, whether the response thinks in full for comparison, and what breaks the
        promise of a risk that was asked for."""
        plan.question = question_text([message for message in sampled.messages if isinstance(message, dict)])
        if plan.settings.max_lost_correct is not None:
            lora = wish.model in self._handler.models.lora_requests
            plan.broken_by = broken_by(request, plan.settings, self.runtime.around, sampled, lora=lora)
        canaries = self.runtime.canaries
        if canaries is None or not plan.may_be_canary:
            return
        if canaries.picks(sampled.messages, wish.seed, self._temperature(wish)):
            plan.settings = replace(plan.settings, canary=rule_of(plan.settings))

    def refusal(self, error: DrrError) -> ErrorResponse:
        """HTTP 400 in vLLM's shape, which names the field."""
        refused: ErrorResponse = self._handler.create_error_response(str(error), param=error.param)
        return refused

    def wants_drr(self, wish: Wish, raw_request: Request | None) -> bool:
        """Whether a request asks for anything of DRR's in so many words."""
        header = raw_request is not None and HEADER in raw_request.headers
        return wish.drr is not None or header or wish.alias not in (None, "off")

    def _check_template(self, wish: Wish) -> None:
        """DrrError where a request brings a chat template, unless the operator trusts those of requests."""
        named = None if self._trusts_templates else brings_template(wish.template, wish.template_kwargs)
        if named is not None:
            raise DrrError(named, UNTRUSTED)

    def _temperature(self, wish: Wish) -> float:
        """What the request is sampled at, the model's own default filled in."""
        given = wish.temperature
        return float(self._handler.default_sampling_params.get("temperature", 1.0) if given is None else given)

    def _settings(self, wish: Wish, raw_request: Request | None) -> tuple[DrrRequest | None, Settings]:
        """What was asked for, the effort's meaning included, and what that comes to."""
        asked = _asked(wish, raw_request)
        defaults = self.runtime.defaults
        if not wish.beam_search:
            asked = self._efforts.joined(asked, wish.effort, defaults, wish.alias)
        budget = wish.budget if isinstance(wish.budget, int) and wish.budget >= 0 else None
        beside = Asked(wish.alias, self._temperature(wish), budget, explicit=wish.drr is not None)
        settings = resolve(asked, defaults, beside)
        if settings.thinking_in == "content" and isinstance(self.runtime.form, Channels):
            raise DrrError("drr.thinking_in", "channels cannot be shown as content")
        if wish.beam_search:
            if asked is not None and (settings.loops or not asked.given() <= _BESIDE_BEAMS):
                raise DrrError("use_beam_search", "of drr, beam search takes mode off and a report, nothing else")
            bare = DrrRequest(mode="off", report=None if asked is None else asked.report)
            settings = resolve(bare, defaults, Asked(beam_search=True))
        if settings.acts and wish.penalised_by and not self._penalties_carry:
            why = "with speculative decoding it cannot be carried past a stop; use drr.mode off, or none"
            raise DrrError(wish.penalised_by[0], why)
        return asked, settings


def penalties(request: Any) -> tuple[str, ...]:
    """The penalties that a request sets whose counts have to be carried past a stop."""
    return tuple(name for name in ("presence_penalty", "frequency_penalty") if getattr(request, name))


def _asked(wish: Wish, raw_request: Request | None) -> DrrRequest | None:
    """The `drr` object, in the body or in the header; null is none."""
    inner = (wish.extra or {}).get("extra_body")
    if isinstance(inner, dict) and "drr" in inner:
        raise DrrError("extra_body", "is an argument of OpenAI's SDKs, which send its keys beside the others")
    if PLAN_KEY in (wish.xargs or {}):
        raise DrrError("vllm_xargs", f"the key {PLAN_KEY!r} is taken; give the drr object beside it")
    return DrrRequest.asked(wish.drr, [] if raw_request is None else raw_request.headers.getlist(HEADER))

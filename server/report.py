"""The `drr` object of a response."""

from dataclasses import dataclass
from typing import Any

from drr.policy import StopCause
from drr.response import Outcome, StepReport
from server.schema import Settings


@dataclass(frozen=True, slots=True)
class ResponsePlan:
    """What the HTTP layer tells the engine about one request."""

    settings: Settings
    question: str
    dm_id: str | None


def step_object(step: StepReport) -> dict[str, Any]:
    """One step as the client sees it; probabilities are null where no score came in time."""
    return {
        "index": step.index,
        "tokens": step.tokens,
        "p_now": _rounded(step.p_now, 4),
        "p_later": _rounded(step.p_later, 4),
        "verdict": step.verdict.value,
        "ms": _rounded(step.ms, 2),
        "late": step.late,
    }


def outcome_object(plan: ResponsePlan, outcome: Outcome) -> dict[str, Any]:
    """The summary of one choice."""
    timed = [step.ms for step in outcome.steps if step.ms is not None]
    report: dict[str, Any] = {
        "stop_cause": outcome.stop_cause.value,
        "thinking_tokens": outcome.thinking_tokens,
        "discarded_tokens": outcome.discarded_tokens,
        "injected_tokens": outcome.injected_tokens,
        "attempts": 1,
        "nudges": outcome.nudges,
        "settings": plan.settings.as_dict(),
        "dm": None,
    }
    if plan.settings.report == "steps":
        report["steps"] = [step_object(step) for step in outcome.steps]
    if plan.dm_id is not None and plan.settings.judged:
        report["dm"] = {
            "id": plan.dm_id,
            "decisions": len(timed),
            "late": outcome.late,
            "failed": outcome.failed,
            "mean_ms": _rounded(sum(timed) / len(timed), 2) if timed else None,
        }
    return report


def off_object(plan: ResponsePlan, thinking_tokens: int) -> dict[str, Any]:
    """The summary of a choice that plain vLLM generated."""
    return outcome_object(plan, Outcome(stop_cause=StopCause.OFF, thinking_tokens=thinking_tokens))


def response_object(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """The `drr` object of a whole response: the choice's own, or for several choices one per choice."""
    if len(choices) == 1:
        return choices[0]
    shared = choices[0]["settings"]
    own = [{key: value for key, value in choice.items() if key != "settings"} for choice in choices]
    return {"settings": shared, "choices": [{"index": index, **choice} for index, choice in enumerate(own)]}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)

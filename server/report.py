"""The `drr` object of a response."""

from collections.abc import Mapping
from typing import Any

from drr.loop.policy import StopCause
from drr.loop.response import AttemptReport, Outcome, StepReport
from server.plan import ResponsePlan
from server.settings import Settings


def step_object(step: StepReport) -> dict[str, Any]:
    """One step as the client sees it; probabilities are null where no score came in time."""
    return {
        "attempt": step.attempt,
        "index": step.index,
        "tokens": step.tokens,
        "p_now": _rounded(step.p_now, 4),
        "p_later": _rounded(step.p_later, 4),
        "verdict": step.verdict.value,
        "ms": _rounded(step.ms, 2),
        "late": step.late,
    }


def _attempt_object(attempt: AttemptReport) -> dict[str, Any]:
    return {
        "thinking_tokens": attempt.thinking_tokens,
        "generated_tokens": attempt.generated_tokens,
        "p_now": _rounded(attempt.p_now, 4),
        "fate": attempt.fate.value,
    }


def outcome_object(plan: ResponsePlan, outcome: Outcome) -> dict[str, Any]:
    """The summary of one choice."""
    timed = [step.ms for step in outcome.steps if step.ms is not None]
    report: dict[str, Any] = {
        "stop_cause": _cause(plan, outcome).value,
        "thinking_tokens": outcome.thinking_tokens,
        "discarded_tokens": outcome.discarded_tokens,
        "injected_tokens": outcome.injected_tokens,
        "probe_tokens": outcome.probe_tokens,
        "attempts": max(1, len(outcome.attempts)),
        "nudges": outcome.nudges,
        "settings": plan.settings.as_dict(),
        "risk": plan.risk,
        "dm": None,
    }
    if plan.settings.report == "steps":
        report["steps"] = [step_object(step) for step in outcome.steps]
        if plan.settings.rejects:
            report["attempt_details"] = [_attempt_object(attempt) for attempt in outcome.attempts]
    if plan.scorer_id is not None and plan.settings.judged:
        report["dm"] = {
            "id": plan.scorer_id,
            "decisions": len(timed),
            "late": outcome.late,
            "late_tokens": outcome.late_tokens,
            "failed": outcome.failed,
            "mean_ms": _rounded(sum(timed) / len(timed), 2) if timed else None,
        }
    return report


def _cause(plan: ResponsePlan, outcome: Outcome) -> StopCause:
    if plan.settings.uncertified and outcome.stop_cause in (StopCause.NATURAL, StopCause.OFF):
        return StopCause.UNCERTIFIED
    return outcome.stop_cause


def risk_object(settings: Settings, sampling: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is promised about a response whose rule is a certified one, and what breaks the promise.

    `sampling` is how the request samples; the promise holds for requests sampled like the calibration's.
    """
    calibration = settings.calibration
    if settings.max_lost_correct is None or calibration is None:
        return None
    certificate = settings.certificate
    if certificate is None:
        return {"max_lost_correct": settings.max_lost_correct, "certified": None, "holds": True, "broken_by": []}
    broken = [name for name, value in calibration.sampling.items() if _differs(name, sampling.get(name), value)]
    broken += [name for name in ("max_steps", "max_thinking_tokens") if getattr(settings, name) is not None]
    broken += ["nudge"] if settings.nudge else []
    broken += ["max_rethinks"] if settings.rejects else []
    broken += ["min_steps"] if settings.min_steps > 1 else []
    broken += ["min_step_tokens"] if settings.min_step_tokens else []
    return {
        "max_lost_correct": settings.max_lost_correct,
        "certified": certificate.max_lost_correct,
        "confidence": calibration.confidence,
        "calibrated_on": f"{calibration.right} questions answered right",
        "holds": not broken,
        "broken_by": broken,
    }


def _differs(name: str, asked: float | None, calibrated: float) -> bool:
    if name == "max_tokens":  # more room than the calibration had cuts nothing short
        return asked is not None and asked < calibrated
    if name == "top_k":  # 0 and -1 both mean all
        return max(0, asked or 0) != max(0, calibrated)
    return asked is not None and abs(asked - calibrated) > 1e-9


def response_report(plan: ResponsePlan, choices: int) -> dict[str, Any]:
    """The response's `drr` object; empty where the loop has not come to an end of it."""
    account = plan.account
    if account.looped:
        objects = [outcome_object(plan, outcome) for _, outcome in sorted(account.outcomes.items())]
    else:
        objects = [outcome_object(plan, Outcome(stop_cause=plan.settings.unjudged_cause)) for _ in range(choices)]
    return response_object(objects) if objects else {}


def correct_usage(usage: dict[str, Any], plan: ResponsePlan) -> None:
    """Make `usage` say what was generated: discarded tokens and probes count, injected ones do not. Whatever is no part
    of the content is in `reasoning_tokens`."""
    if not plan.account.looped:
        return  # vLLM's own count is all there is
    outcomes = plan.account.outcomes.values()
    completion = sum(outcome.generated_tokens + outcome.probe_tokens for outcome in outcomes)
    reasoning = sum(outcome.discarded_tokens + outcome.probe_tokens for outcome in outcomes)
    if plan.settings.thinking_in == "reasoning":
        reasoning += sum(outcome.thinking_tokens for outcome in outcomes)
    usage["completion_tokens"] = completion
    usage["total_tokens"] = usage["prompt_tokens"] + completion
    details = usage.get("completion_tokens_details") or {}
    usage["completion_tokens_details"] = {**details, "reasoning_tokens": reasoning}


def response_object(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """The `drr` object of a whole response: the choice's own, or for several choices one per choice."""
    if len(choices) == 1:
        return choices[0]
    shared = choices[0]["settings"]
    bare = [{key: value for key, value in choice.items() if key != "settings"} for choice in choices]
    return {"settings": shared, "choices": [{"index": index, **choice} for index, choice in enumerate(bare)]}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)

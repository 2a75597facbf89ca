"""The `drr` object of a response, its short form, and its usage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drr.loop.policy import StopCause
from drr.loop.response import AttemptReport, Outcome, StepReport
from server.plan import ResponsePlan
from server.promise import risk_object

_OF_ALL = ("settings", "cost")
"""What is told once of a response, however many choices it has."""


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
        "discarded_tokens": attempt.discarded_tokens,
        "p_now": _rounded(attempt.p_now, 4),
        "fate": attempt.fate.value,
    }


def outcome_object(plan: ResponsePlan, outcome: Outcome, *, cut: bool = False) -> dict[str, Any]:
    """The summary of one choice; `cut` tells that a limit cut it off."""
    settings = plan.settings
    report: dict[str, Any] = {
        "stop_cause": stop_cause(plan, outcome).value,
        "thinking_tokens": outcome.thinking_tokens,
        "answer_tokens": outcome.answer_tokens,
        "discarded_tokens": outcome.discarded_tokens,
        "probe_tokens": outcome.probe_tokens,
        "injected_tokens": outcome.injected_tokens,
        "attempts": max(1, len(outcome.attempts)),
        "nudges": outcome.nudges,
        "canary": settings.canary is not None,
        "settings": settings.as_dict(),
        "risk": risk_object(settings, plan.broken_by, outcome, cut=cut),
        "judge": _judge_object(plan, outcome),
    }
    if plan.account.cost is not None:
        report["cost"] = plan.account.cost()
    if settings.report == "steps":
        report["steps"] = [step_object(step) for step in outcome.steps]
        if settings.rejects:
            report["attempt_details"] = [_attempt_object(attempt) for attempt in outcome.attempts]
    return report


def _judge_object(plan: ResponsePlan, outcome: Outcome) -> dict[str, Any] | None:
    """Who judged, and how fast."""
    if plan.scorer_id is None:
        return None
    timed = [step.ms for step in outcome.steps if step.ms is not None]
    return {
        "scorer": plan.settings.scorer,
        "id": plan.scorer_id,
        "decisions": len(timed),
        "late": outcome.late,
        "late_tokens": outcome.late_tokens,
        "failed": outcome.failed,
        "mean_ms": _rounded(sum(timed) / len(timed), 2) if timed else None,
    }


def stop_cause(plan: ResponsePlan, outcome: Outcome) -> StopCause:
    """Why the thinking ended, as the client is told."""
    if plan.settings.uncertified and outcome.stop_cause in (StopCause.NATURAL, StopCause.OFF):
        return StopCause.UNCERTIFIED
    return outcome.stop_cause


def choice_reports(plan: ResponsePlan, choices: int) -> list[dict[str, Any]]:
    """The summaries of a response's choices, in order; none where the loop has not come to an end of it."""
    account = plan.account
    if account.looped:
        return [
            outcome_object(plan, outcome, cut=choice in account.cut)
            for choice, outcome in sorted(account.outcomes.items())
        ]
    report = outcome_object(plan, Outcome(stop_cause=plan.settings.unjudged_cause))
    uncounted = {name: None for name in report if name.endswith("_tokens")}
    return [{**report, **uncounted} for _ in range(choices)]


def response_object(choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The `drr` object of a whole response: the choice's own, or for several choices one per choice."""
    if len(choices) == 1:
        return choices[0]
    shared = {key: choices[-1][key] for key in _OF_ALL if key in choices[-1]}
    bare = [{key: value for key, value in choice.items() if key not in shared} for choice in choices]
    return {**shared, "choices": [{"index": index, **choice} for index, choice in enumerate(bare)]}


def short_account(reports: Sequence[dict[str, Any]]) -> str:
    """A response's account in the form of a structured header (RFC 9651): numbers are sums over its choices."""
    causes = [report["stop_cause"] for report in reports]
    parts = [f"cause={causes[0]}" if len(causes) == 1 else f"cause=({' '.join(causes)})"]
    for name in ("thinking", "answer", "discarded", "probe"):
        counts = [report[f"{name}_tokens"] for report in reports]
        if None not in counts:
            parts.append(f"{name}={sum(counts)}")
    parts.append(f"attempts={sum(report['attempts'] for report in reports)}")
    parts.append(f"mode={reports[0]['settings']['mode']}")
    if any(report["canary"] for report in reports):
        parts.append("canary=?1")
    judge, risks = reports[0]["judge"], [report["risk"] for report in reports if report["risk"] is not None]
    if judge is not None:
        parts.append(f'judge="{_quoted(judge["id"])}"')
    if risks:
        holds = all(risk["holds"] for risk in risks)
        parts += [f"risk={risks[0]['max_lost_correct']:g}", f"holds=?{int(holds)}"]
    return ", ".join(parts)


def announcement(plan: ResponsePlan) -> str:
    """The same for a stream, whose headers go out before anything is known of it."""
    judge = "" if plan.scorer_id is None else f', judge="{_quoted(plan.scorer_id)}"'
    canary = "" if plan.settings.canary is None else ", canary=?1"
    return f"mode={plan.settings.mode}{canary}{judge}, account=last-chunk"


def _quoted(text: str) -> str:
    """Text as it may stand in a header's string."""
    plain = "".join(character if " " <= character <= "~" else "?" for character in text)
    return plain.replace("\\", "\\\\").replace('"', '\\"')


@dataclass(frozen=True, slots=True)
class Counts:
    """What has been generated for a response so far, in tokens: `reasoning` is whatever is no part of the content, what
    a cut had `discarded` and the judge's `probes` among it."""

    completion: int
    reasoning: int
    discarded: int
    probes: int

    @property
    def details(self) -> dict[str, int]:
        """What usage says of them beside the sum."""
        return {
            "reasoning_tokens": self.reasoning,
            "discarded_tokens": self.discarded,
            "probe_tokens": self.probes,
        }


def counts_of(plan: ResponsePlan) -> Counts | None:
    """Every token that was generated for a response; injected ones were not. None where the loop did not make it:
    vLLM's own count is all there is."""
    if not plan.account.looped:
        return None
    outcomes = [running() for running in plan.account.running]
    discarded = sum(outcome.discarded_tokens for outcome in outcomes)
    probes = sum(outcome.probe_tokens for outcome in outcomes)
    completion = sum(outcome.generated_tokens for outcome in outcomes) + probes
    reasoning = discarded + probes
    if plan.settings.thinking_in == "reasoning":
        reasoning += sum(outcome.thinking_tokens for outcome in outcomes)
    else:
        reasoning += sum(outcome.earlier_tokens for outcome in outcomes)
    return Counts(completion, reasoning, discarded, probes)


def correct_usage(usage: dict[str, Any], plan: ResponsePlan) -> None:
    """Make a chat completion's `usage` say what has been generated."""
    counts = counts_of(plan)
    if counts is None:
        return
    usage["completion_tokens"] = counts.completion
    usage["total_tokens"] = usage["prompt_tokens"] + counts.completion
    usage["completion_tokens_details"] = {**(usage.get("completion_tokens_details") or {}), **counts.details}


def account_of(plan: ResponsePlan) -> dict[str, Any] | None:
    """The `drr` object of a response with one choice; None where it is not told."""
    reports = choice_reports(plan, 1) if plan.settings.report != "none" else []
    return response_object(reports) if reports else None


def told_steps(plan: ResponsePlan) -> list[dict[str, Any]]:
    """The steps that have closed since this was asked last, as streamed objects; none for a client that did not send a
    `drr` object, or wants none."""
    if not (plan.settings.explicit and plan.settings.report == "steps"):
        return []
    taken = list(plan.account.steps)
    plan.account.steps.clear()
    return [{"step": {"choice": choice, **step_object(step)}} for choice, step in taken]


def refused_text(plan: ResponsePlan, choice: int = 0) -> str | None:
    """What is said in place of an answer; None where there is one."""
    outcome = plan.account.outcomes.get(choice)
    if outcome is None or outcome.stop_cause is not StopCause.ABSTAINED:
        return None
    return "".join(plan.account.of(choice).refusal)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)

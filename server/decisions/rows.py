"""The rows of the decision log, as plain values. They are made in the writer's thread."""

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drr.loop.response import AttemptOutput, AttemptReport, Fate, Outcome, StepReport
from server.plan import ResponsePlan
from server.report import stop_cause
from server.vllm_api import SamplingParams

_OWN_TEXTS = ("refusal", "separator")
"""Settings that are texts of the client's choice."""

_MOST = 2**31 - 1
"""What a column of the log can hold."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """What all rows of a server have in common."""

    model: str
    reasoner: str
    step_rule: str
    key: bytes
    """Of the hashes of questions."""

    def hashed(self, question: str) -> str:
        """16 hex digits that are equal for the same question, but for case and white space, and that say nothing to
        those who do not have the key."""
        folded = " ".join(question.casefold().split())
        return hmac.digest(self.key, folded.encode(errors="replace"), "sha256").hex()[:16]


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of a request before it is answered; `options` are those of its engine requests."""

    id: str
    plan: ResponsePlan
    prompt: Mapping[str, Any]
    params: SamplingParams
    options: Mapping[str, Any]

    @property
    def prompt_ids(self) -> list[int]:
        """The whole prompt's."""
        ids: list[int] = self.prompt["prompt_token_ids"]
        return ids


@dataclass(frozen=True, slots=True)
class Ended:
    """A choice at its end. An aborted one has no `finish_reason`; `outputs` are there where text is logged."""

    index: int
    time: float
    outcome: Outcome
    steps: tuple[StepReport, ...]
    finish_reason: str | None
    outputs: list[AttemptOutput]


def row_of(identity: LogIdentity, request: Request, ended: Ended, *, text: bool) -> Row:
    """The row of a choice, with what was said only where `text` is asked for."""
    plan, outcome = request.plan, ended.outcome
    settings, adapter = plan.settings, request.options.get("lora_request")
    complete = ended.finish_reason is not None
    return {
        "id": request.id,
        "choice": ended.index,
        "time": round(ended.time * 1000),
        "model": identity.model,
        "reasoner": identity.reasoner,
        "adapter": None if adapter is None else adapter.lora_name,
        "step_rule": identity.step_rule,
        "mode": settings.mode,
        "acts": settings.limited or (settings.judged and settings.mode != "shadow" and settings.canary is None),
        "scorer": settings.scorer,
        "judge": plan.scorer_id,
        "settings": json.dumps({k: v for k, v in settings.as_dict().items() if k not in _OWN_TEXTS}),
        "sampling": _sampling(request.params),
        "shaped_by": _shaped_by(request),
        "finish": "complete" if complete else "aborted",
        "finish_reason": ended.finish_reason,
        "stop_cause": stop_cause(plan, outcome).value if complete else None,
        "tokens": {
            "prompt": len(request.prompt_ids),
            "thinking": outcome.thinking_tokens,
            "answer": outcome.answer_tokens,
            "discarded": outcome.discarded_tokens,
            "probe": outcome.probe_tokens,
            "injected": outcome.injected_tokens,
            "late": outcome.late_tokens,
            "earlier": outcome.earlier_tokens,
        },
        "nudges": outcome.nudges,
        "late": outcome.late,
        "failed": outcome.failed,
        "question": identity.hashed(plan.question),
        "attempts": [
            {
                "fate": attempt.fate.value,
                "thinking_tokens": attempt.thinking_tokens,
                "generated_tokens": attempt.generated_tokens,
                "discarded_tokens": attempt.discarded_tokens,
                "p_now": attempt.p_now,
            }
            for attempt in outcome.attempts or [_only_attempt(ended)]
        ],
        "boundaries": _boundaries(ended.steps),
        "canary": None if settings.canary is None else json.dumps({"rule": settings.canary}),
        "text": _text(request, ended) if text else None,
    }


def _only_attempt(ended: Ended) -> AttemptReport:
    """The attempt of a response that could have had no other."""
    outcome = ended.outcome
    p_now = next((step.p_now for step in reversed(ended.steps) if step.p_now is not None), None)
    stands = Fate.UNJUDGED if p_now is None else Fate.ACCEPTED
    fate = Fate.ABANDONED if ended.finish_reason is None else stands
    return AttemptReport(outcome.thinking_tokens, outcome.generated_tokens, outcome.discarded_tokens, p_now, fate)


def _sampling(params: SamplingParams) -> Row:
    return {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": min(params.top_k, _MOST),
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "seed": params.seed,
        "max_tokens": None if params.max_tokens is None else min(params.max_tokens, _MOST),
    }


def _shaped_by(request: Request) -> list[str]:
    """What shaped the output beside prompt and sampling: whoever draws it again would have to do the same."""
    params = request.params
    shapes = {
        "grammar": params.structured_outputs is not None,
        "stop": bool(params.stop) or bool(params.stop_token_ids) or params.ignore_eos or params.min_tokens > 0,
        "tools": request.plan.tools != "none",
        "penalties": bool(params.presence_penalty or params.frequency_penalty),
        "bias": bool(params.logit_bias or params.allowed_token_ids or params.bad_words),
        "processors": bool(params.extra_args),
        "pictures": bool(request.prompt.get("multi_modal_data") or request.prompt.get("mm_kwargs")),
    }
    return [name for name, there in shapes.items() if there]


def _boundaries(steps: Sequence[StepReport]) -> list[Row]:
    """The boundaries, each with its place in the attempt's thinking, in tokens."""
    rows, offsets = [], dict[int, int]()
    for step in steps:
        offset = offsets[step.attempt] = offsets.get(step.attempt, 0) + step.tokens
        rows.append(
            {
                "attempt": step.attempt,
                "index": step.index,
                "offset": offset,
                "tokens": step.tokens,
                "p_now": step.p_now,
                "p_later": step.p_later,
                "verdict": step.verdict.value,
                "ms": step.ms,
                "late": step.late,
                "features": step.features,
            }
        )
    return rows


def _text(request: Request, ended: Ended) -> Row:
    plan = request.plan
    return {
        "question": _readable(plan.question),
        "answer": _readable("".join(plan.account.of(ended.index).content)),
        "prompt_ids": request.prompt_ids,
        "attempts": [_output(output) for output in ended.outputs],
    }


def _readable(text: str) -> str:
    """The text without what no file can hold: halves of characters, which JSON can spell."""
    return text.encode(errors="replace").decode()


def _output(output: AttemptOutput) -> Row:
    tokens = output.tokens
    return {
        "ids": [token.id for token in tokens],
        "logprobs": [token.logprob for token in tokens],
        "injected": [place for place, token in enumerate(tokens) if token.injected],
        "thinking_from": output.thinking_from,
        "thinking_to": output.thinking_to,
        "closed": output.closed,
    }

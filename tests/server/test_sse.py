"""Golden transcripts: DRR's chunks among vLLM's, for clients that asked and for clients that did not."""

import json
from collections.abc import AsyncGenerator
from typing import Any

from drr.loop.policy import StopCause, Verdict
from drr.loop.response import Outcome, StepReport
from drr.loop.rule import Rule
from server.plan import ResponsePlan
from server.resolve import Asked, resolve
from server.schema import DrrRequest
from server.settings import Defaults
from server.streams import with_reports

STEP = StepReport(0, 3, 0.951234, 0.97, Verdict.STOP, 1.234)
OUTCOME = Outcome(StopCause.SURE, 3, 2, 1, 9, steps=[STEP])


def plan_for(asked: dict[str, Any] | None) -> ResponsePlan:
    request = None if asked is None else DrrRequest.parse(asked)
    settings = resolve(request, Defaults(mode="auto", rule=Rule(0.9)), Asked(explicit=request is not None))
    plan = ResponsePlan(settings, "q", "a-dm")
    plan.account.looped = True
    plan.account.running = [lambda: OUTCOME]
    return plan


def chunk(delta: dict[str, Any] | None, finish: str | None = None, usage: dict[str, Any] | None = None) -> str:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    body: dict[str, Any] = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "m",
        "choices": choices,
    }
    return f"data: {json.dumps(body if usage is None else {**body, 'usage': usage}, separators=(',', ':'))}\n\n"


async def vllm_stream(plan: ResponsePlan, usage: bool) -> AsyncGenerator[str, None]:
    """What vLLM's handler does while the engine works: a role chunk, a chunk per output, perhaps the usage, the end."""
    yield chunk({"role": "assistant", "content": ""})
    yield chunk({"reasoning": 'a "finish_reason":"stop" b'})
    plan.account.steps.append((0, STEP))
    yield chunk({"reasoning": "ab"})
    plan.end(0, OUTCOME, "stop")
    yield chunk({}, "stop")
    if usage:
        yield chunk(None, usage={"prompt_tokens": 4, "completion_tokens": 7, "total_tokens": 11})
    yield "data: [DONE]\n\n"


async def transcript(asked: dict[str, Any] | None, usage: bool = False) -> list[Any]:
    plan = plan_for(asked)
    events = [event async for event in with_reports(vllm_stream(plan, usage), plan, 1)]
    assert all(event.startswith("data: ") and event.endswith("\n\n") for event in events)
    bodies = [event[len("data: ") :].strip() for event in events]
    assert bodies[-1] == "[DONE]"
    return [json.loads(body) for body in bodies[:-1]]


STEP_OBJECT = {
    "attempt": 0,
    "index": 0,
    "tokens": 3,
    "p_now": 0.9512,
    "p_later": 0.97,
    "verdict": "stop",
    "ms": 1.23,
    "late": False,
}


async def test_a_client_that_did_not_ask_never_sees_a_chunk_without_choices() -> None:
    chunks = await transcript(None)
    assert [len(own["choices"]) for own in chunks] == [1, 1, 1, 1]
    assert [own["choices"][0]["finish_reason"] for own in chunks] == [None, None, None, "stop"]
    assert ["drr" in own for own in chunks] == [False, False, False, True]
    assert chunks[-1]["drr"]["stop_cause"] == "sure"
    assert chunks[-1]["choices"][0]["delta"]["drr"] == chunks[-1]["drr"], "where the SDKs' helpers keep it"
    assert chunks[-1]["drr"]["steps"] == [STEP_OBJECT]


async def test_a_client_that_asked_gets_a_chunk_per_step_and_the_summary_on_the_last_of_the_answer() -> None:
    chunks = await transcript({"threshold": 0.9}, usage=True)
    assert [sorted(set(own) - {"id", "object", "created", "model"}) for own in chunks] == [
        ["choices"],
        ["choices"],
        ["choices", "drr"],
        ["choices"],
        ["choices", "drr"],
        ["choices", "usage"],
    ]
    assert chunks[2] == {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "m",
        "choices": [],
        "drr": {"step": {"choice": 0, **STEP_OBJECT}},
    }
    summary = chunks[4]["drr"]
    assert (summary["stop_cause"], summary["thinking_tokens"], summary["discarded_tokens"]) == ("sure", 3, 2)
    assert summary["answer_tokens"] == 4
    assert summary["settings"]["threshold"] == 0.9
    assert summary["judge"] == {
        "scorer": "dm",
        "id": "a-dm",
        "decisions": 1,
        "late": 0,
        "late_tokens": 0,
        "failed": 0,
        "mean_ms": 1.23,
    }
    assert chunks[5]["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 9,
        "total_tokens": 13,
        "completion_tokens_details": {"reasoning_tokens": 5, "discarded_tokens": 2, "probe_tokens": 0},
    }


async def test_a_summary_has_no_steps() -> None:
    chunks = await transcript({"report": "summary"})
    assert "drr" in chunks[-1]
    assert "steps" not in chunks[-1]["drr"]
    assert sum("drr" in own for own in chunks) == 1


async def test_report_none_says_nothing() -> None:
    assert not any("drr" in own for own in await transcript({"report": "none"}, usage=True))

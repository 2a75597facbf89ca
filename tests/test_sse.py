"""Golden transcripts: DRR's chunks among vLLM's, for clients that asked and for clients that did not."""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

from vllm.outputs import RequestOutput

from drr.policy import StopCause, Verdict
from drr.replay import Rule
from drr.response import Outcome, StepReport
from server.engine import DrrExtra, DrrRuntime
from server.report import ResponsePlan
from server.schema import Defaults, DrrRequest, resolve
from server.serving import Tap, _with_reports

from .fakes import FORM

STEP = StepReport(0, 3, 0.951234, 0.97, Verdict.STOP, 1.234)
OUTCOME = Outcome(StopCause.DM_STOP, 3, 2, 1, 9, steps=[STEP])


def plan_for(asked: dict[str, Any] | None) -> ResponsePlan:
    request = None if asked is None else DrrRequest.parse(asked)
    return ResponsePlan(resolve(request, None, Defaults(mode="auto", rule=Rule(0.9))), "q", "a-dm")


def output(*, texts: int = 1, extra: DrrExtra | None = None, finished: bool = False) -> RequestOutput:
    return cast(RequestOutput, SimpleNamespace(outputs=[None] * texts, drr=extra, finished=finished))


async def engine_outputs() -> AsyncIterator[RequestOutput]:
    yield output()
    yield output(texts=0, extra=DrrExtra(0, step=STEP))
    yield output()
    yield output(extra=DrrExtra(0, outcome=OUTCOME), finished=True)


def chunk(delta: dict[str, Any] | None, finish: str | None = None, usage: dict[str, Any] | None = None) -> str:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    body: dict[str, Any] = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "m",
        "choices": choices,
    }
    return f"data: {json.dumps(body if usage is None else {**body, 'usage': usage})}\n\n"


async def vllm_stream(tap: Tap, usage: bool) -> AsyncIterator[str]:
    """What vLLM's handler does: a role chunk, a chunk per output, perhaps the usage, the end."""
    first = True
    async for item in tap:
        if first:
            yield chunk({"role": "assistant", "content": ""})
            first = False
        yield chunk({}, "stop") if item.finished else chunk({"reasoning": "ab"})
    if usage:
        yield chunk(None, usage={"prompt_tokens": 4, "completion_tokens": 7, "total_tokens": 11})
    yield "data: [DONE]\n\n"


async def transcript(asked: dict[str, Any] | None, usage: bool = False) -> list[Any]:
    tap = Tap(engine_outputs(), plan_for(asked), DrrRuntime(FORM, None, None, None))  # type: ignore[arg-type]
    events = [event async for event in _with_reports(vllm_stream(tap, usage), tap, "c", "m")]
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
    assert chunks[-1]["drr"]["stop_cause"] == "dm_stop"
    assert chunks[-1]["drr"]["steps"] == [STEP_OBJECT]


async def test_a_client_that_asked_gets_a_chunk_per_step_and_the_summary_before_the_usage() -> None:
    chunks = await transcript({"threshold": 0.9}, usage=True)
    assert [sorted(set(own) - {"id", "object", "created", "model"}) for own in chunks] == [
        ["choices"],
        ["choices"],
        ["choices", "drr"],
        ["choices"],
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
    summary = chunks[5]["drr"]
    assert chunks[5]["choices"] == []
    assert (summary["stop_cause"], summary["thinking_tokens"], summary["discarded_tokens"]) == ("dm_stop", 3, 2)
    assert summary["settings"]["threshold"] == 0.9
    assert summary["dm"] == {"id": "a-dm", "decisions": 1, "late": 0, "failed": 0, "mean_ms": 1.23}
    assert chunks[6]["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 9,
        "total_tokens": 13,
        "completion_tokens_details": {"reasoning_tokens": 3},
    }


async def test_without_usage_the_summary_comes_before_done() -> None:
    chunks = await transcript({"report": "summary"})
    assert "drr" in chunks[-1]
    assert "steps" not in chunks[-1]["drr"]
    assert sum("drr" in own for own in chunks) == 1


async def test_report_none_says_nothing() -> None:
    assert not any("drr" in own for own in await transcript({"report": "none"}, usage=True))

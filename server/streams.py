"""A streamed response with DRR's account in it."""

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from server.plan import ResponsePlan
from server.report import choice_reports, correct_usage, refused_text, response_object, told_steps


async def with_reports(
    stream: AsyncGenerator[str, None], plan: ResponsePlan, choices: int
) -> AsyncGenerator[str, None]:
    """vLLM's SSE events with DRR's among them.

    The summary rides on the last chunk of the answer, for every client: at its top level, and in the `delta` of each
    choice's last chunk, where the SDKs' `.stream()` helpers keep it. A client that sent a `drr` object also gets a
    chunk without choices per closed step; one that did not may index `choices[0]` of every chunk.
    """
    account, reports = plan.account, plan.settings.report != "none"
    base: dict[str, Any] = {}
    finished = 0
    async with contextlib.AsyncExitStack() as stack:
        if account.stream is not None:
            await stack.enter_async_context(contextlib.aclosing(account.stream))
        await stack.enter_async_context(contextlib.aclosing(stream))
        async for event in stream:
            if not base:
                base = _base(event)
            for step in told_steps(plan):
                yield _event({**base, "choices": [], "drr": step})
            ends = '"finish_reason":"' in event
            finished += ends
            if ends or '"usage":{' in event:
                chunk = _parsed(event)
                if ends:
                    _end_choices(chunk, plan)
                if ends and reports:
                    _tell(chunk, plan, choices, last=finished == choices)
                if chunk.get("usage"):
                    correct_usage(chunk["usage"], plan)
                event = _event(chunk)
            yield event


def _end_choices(chunk: dict[str, Any], plan: ResponsePlan) -> None:
    """An abstention is no tool call, whatever the client asked for."""
    for choice in chunk["choices"]:
        if refused_text(plan, choice["index"]) is not None:
            choice["finish_reason"] = "stop"


def _tell(chunk: dict[str, Any], plan: ResponsePlan, choices: int, *, last: bool) -> None:
    """Put the account of the choices that end here into the chunk, and in the last that of all."""
    done = sorted(plan.account.outcomes) if plan.account.looped else range(choices)
    reports = dict(zip(done, choice_reports(plan, choices), strict=True))
    for choice in chunk["choices"]:
        report = reports.get(choice["index"])
        if report is not None:
            choice["delta"] = {**choice["delta"], "drr": report}
    if last and reports:
        chunk["drr"] = response_object(list(reports.values()))


def _base(event: str) -> dict[str, Any]:
    """What all chunks of a stream share, from its first."""
    if not event.startswith("data: {"):
        return {}
    chunk = _parsed(event)
    return {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def _parsed(event: str) -> dict[str, Any]:
    chunk: dict[str, Any] = json.loads(event[len("data: ") :])
    return chunk

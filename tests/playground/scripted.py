"""A server of a few lines that plays what the real one recorded, in the real one's wire format, and what goes wrong.

    python -m tests.playground.scripted 8400

The first word of a question says what is played; any other question plays the first recorded example.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from server.playground.files import playground_routes

MODEL, KEY = "drr-reference", "the-right-key"
EXAMPLES = Path(__file__).parents[2] / "server" / "playground" / "static" / "examples.json"
RISKS = [0.005, 0.01, 0.02, 0.05, 0.1]
_BASE = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795799323, "model": MODEL}
_FASTER = 20
"""How many times as fast as recorded the examples are played."""

_BARE = "<!doctype html><title>bare</title><link rel=icon href='data:,'><p>Nothing but this."

_HELD = 7
"""How many events of a held answer come before it waits: two steps, and the beginning of the third."""

Events = list[list[Any]]


def examples() -> list[dict[str, Any]]:
    """The recorded traces."""
    traces: list[dict[str, Any]] = json.loads(EXAMPLES.read_text())
    return traces


def recorded(number: int, name: str) -> Events:
    """The events of a run of an example."""
    run = next(run for run in examples()[number]["runs"] if run["name"] == name)
    events: Events = run["events"]
    return events


def chunk(kind: str, value: Any) -> str:
    """The chunk that tells of an event, as the server writes it."""
    match kind:
        case "step":
            body: dict[str, Any] = {**_BASE, "choices": [], "drr": {"step": value}}
        case "usage":
            body = {**_BASE, "choices": [], "usage": value}
        case "account":
            delta = {"content": "", "drr": value}
            body = {**_BASE, "choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}], "drr": value}
        case "finish":
            return ""  # it comes with the account
        case _:
            body = {**_BASE, "choices": [{"index": 0, "delta": {kind: value}, "logprobs": None, "finish_reason": None}]}
    return f"data: {json.dumps(body)}\n\n"


def long_trace(steps: int = 400, tokens: int = 10) -> Events:
    """4,000 tokens of thinking, at once."""
    events: Events = []
    for index in range(steps):
        p_now = min(0.8, index / steps)
        step = {"choice": 0, "attempt": 0, "index": index, "tokens": tokens, "p_now": round(p_now, 4)}
        events.append([index, "step", {**step, "p_later": 0.9, "verdict": "continue", "ms": 0.2, "late": False}])
        events.append([index, "reasoning", f"step {index}: we look at this once more, and then go on.\n\n"])
    account = {"stop_cause": "natural", "thinking_tokens": steps * tokens, "answer_tokens": 4, "discarded_tokens": 0}
    settings = {"threshold": 0.9, "hopeless": None, "min_gain": None, "patience": 1, "min_steps": 1}
    more = {"probe_tokens": 0, "injected_tokens": 0, "attempts": 1, "nudges": 0, "risk": None, "judge": None}
    return [*events, [steps, "content", "Forty-two."], [steps, "account", {**account, **more, "settings": settings}]]


def make_app(*, needs_key: bool = False, judged: bool = True, knows_drr: bool = True) -> FastAPI:
    """The app. In its state `asked` holds the bodies that came, `left` is set when a client goes in the middle of an
    answer, and `resumed` lets an answer go on that is held back."""
    app = FastAPI()
    app.router.routes[:0] = playground_routes()
    app.state.asked = asked = []
    app.state.left = left = asyncio.Event()
    app.state.resumed = resumed = asyncio.Event()

    def refused(request: Request) -> Response | None:
        if not needs_key or request.headers.get("authorization") == f"Bearer {KEY}":
            return None
        return _error(401, "A key that this server knows is needed: Authorization: Bearer KEY.", "invalid_api_key")

    @app.get("/bare")
    async def bare() -> Response:
        return HTMLResponse(_BARE)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        card: dict[str, Any] = {"id": MODEL, "object": "model"}
        if knows_drr:
            card["drr"] = abilities(judged)
        return refused(request) or JSONResponse({"object": "list", "data": [card]})

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        if (refusal := refused(request)) is not None:
            return refusal
        body = await request.json()
        asked.append(body)
        scenario = body["messages"][-1]["content"].partition(" ")[0]
        name = "full" if (body.get("drr") or {}).get("mode") == "shadow" else "drr"
        if scenario == "bad":
            return _error(400, "drr.threshold: Input should be less than or equal to 1 (got 3)", 400)
        if scenario == "busy":
            told = "The server has as many requests as it can serve and keep waiting."
            return _error(429, told, "rate_limit_exceeded", {"retry-after": "7"})
        return StreamingResponse(_played(scenario, name, left, resumed), media_type="text/event-stream")

    return app


def abilities(judged: bool) -> dict[str, Any]:
    """The `drr` object of the model's card."""
    rule = {"threshold": 0.86, "hopeless": 0.1, "min_gain": 0.0, "patience": 1}
    if not judged:
        settings = {"mode": "off", **dict.fromkeys(rule), "patience": 1}
        nobody: dict[str, Any] = {"judge": None, "step_rule": "blank_line", "risks": []}
        return {**nobody, "settings": settings, "auto": None, "thinking_again": None}
    judge = {"judge": "drr-reference-dm-head", "step_rule": "blank_line", "risks": RISKS}
    auto = {"mode": "auto", **rule}
    return {**judge, "settings": auto, "auto": auto, "thinking_again": {**auto, "accept": 0.5}}


async def _played(scenario: str, name: str, left: asyncio.Event, resumed: asyncio.Event) -> AsyncIterator[str]:
    try:
        match scenario:
            case "slow":
                yield chunk("reasoning", "Let me think about this.")
                await asyncio.sleep(60)
            case "cut":
                for _, kind, value in recorded(0, name)[:12]:
                    yield chunk(kind, value)
            case "held":
                events = recorded(0, name)
                for _, kind, value in events[:_HELD]:
                    yield chunk(kind, value)
                await resumed.wait()
                for _, kind, value in events[_HELD:]:
                    yield chunk(kind, value)
                yield "data: [DONE]\n\n"
            case "failing":
                yield chunk("reasoning", "So far so good.")
                yield f"data: {json.dumps({'error': {'message': 'The response took longer than 5 seconds.'}})}\n\n"
                yield "data: [DONE]\n\n"
            case "plain":
                for kind, text in (("reasoning_content", "Two and two."), ("content", "Four.")):
                    yield chunk(kind, text)
                yield "data: [DONE]\n\n"
            case "markup":
                evil = '<img src="https://elsewhere.invalid/x" onerror="alert(1)"><script>alert(2)</script>'
                for kind in ("reasoning", "content"):
                    yield chunk(kind, evil)
                yield "data: [DONE]\n\n"
            case "long":
                for _, kind, value in long_trace():
                    yield chunk(kind, value)
                yield "data: [DONE]\n\n"
            case _:
                async for event in _paced(recorded(1 if scenario == "rethink" else 0, name)):
                    yield event
                yield "data: [DONE]\n\n"
    except asyncio.CancelledError:
        left.set()
        raise


async def _paced(events: Events) -> AsyncIterator[str]:
    before = 0
    for ms, kind, value in events:
        await asyncio.sleep((ms - before) / 1000 / _FASTER)
        before = ms
        yield chunk(kind, value)


def _error(status: int, message: str, code: str | int, headers: dict[str, str] | None = None) -> JSONResponse:
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return JSONResponse(body, status, headers)


if __name__ == "__main__":
    uvicorn.run(make_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")

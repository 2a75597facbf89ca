"""Who leaves lets go of the engine: at every endpoint, streamed or not, while thinking or between two attempts."""

import asyncio
import json
from typing import Any

import pytest

from tests.server.played_app import MODEL, PlayedServer, played_server

MESSAGES = [{"role": "user", "content": "2 + 3?"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": "2 + 3?"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 1500},
}
LONG = "so: 1+2=3.\n\nSo the answer is 5.\n\nLet me check.\n\n" * 20
WHEN, ALL = 30, 400
"""Tokens after which the client leaves, and fewer than there would be."""


async def ask_and_leave(served: PlayedServer, path: str, body: dict[str, Any]) -> None:
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": json.dumps({**body, "model": MODEL}).encode(), "more_body": False}
        while served.played.generated < WHEN:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "scheme": "http",
        "headers": [(b"content-type", b"application/json"), (b"host", b"played")],
        "server": ("played", 80),
        "client": ("client", 1),
    }
    await served.app(scope, receive, send)


@pytest.mark.parametrize("drr", [{}, {"mode": "rethink", "accept": 0.9, "max_rethinks": 5, "parallel": 3}])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
async def test_nothing_is_generated_for_nobody(
    monkeypatch: pytest.MonkeyPatch, path: str, stream: bool, drr: dict[str, Any]
) -> None:
    served = await played_server(monkeypatch)
    served.play(LONG, scores=[0.1])
    served.played.pace = 0.003
    await ask_and_leave(served, path, {**BODIES[path], "stream": stream, "drr": drr})
    await asyncio.sleep(0.05)
    assert WHEN <= served.played.generated < ALL
    assert served.played.running == served.scorer.running == 0
    generated = served.played.generated
    await asyncio.sleep(0.05)
    assert served.played.generated == generated

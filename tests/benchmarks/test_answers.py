"""What became of a request: complete, an error that says why, or neither; nothing in between."""

import json
from typing import Any

import httpx
import pytest

from benchmarks.answers import ask, quantile, tally


def chunk(content: str | None = None, reason: str | None = None, **beside: Any) -> str:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice], **beside})}\n\n"


DONE = "data: [DONE]\n\n"
WHOLE = {"choices": [{"finish_reason": "stop", "message": {"content": "7"}}], "drr": {"attempts": 1}}
ABORTED = {"choices": [{"finish_reason": "abort", "message": {"content": None}}]}


@pytest.mark.parametrize(
    ("status", "text", "stream", "fate"),
    [
        (200, json.dumps(WHOLE), False, ("complete", "stop")),
        (200, json.dumps(ABORTED), False, ("broken", "finish reason abort with no content")),
        (200, "null", False, ("broken", "no completion")),
        (200, chunk("7") + chunk(None, "stop", drr={"attempts": 1}) + DONE, True, ("complete", "stop")),
        (200, chunk("7") + DONE, True, ("broken", "finish reason None with some content")),
        (200, chunk("7") + chunk(None, "stop"), True, ("broken", "the stream has no end")),
        (200, "", True, ("broken", "the stream has no end")),
        (200, chunk("7") + 'data: {"error": {"code": "timeout"}}\n\n' + DONE, True, ("error", "timeout")),
        (429, '{"error": {"message": "come again"}}', True, ("error", "429")),
        (500, "Internal Server Error", False, ("broken", "500 without a reason")),
        (503, '{"error": {"message": ""}}', False, ("broken", "503 without a reason")),
    ],
)
async def test_fates(status: int, text: str, stream: bool, fate: tuple[str, str]) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["stream"] is stream
        return httpx.Response(status, text=text, headers={"retry-after": "7"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
        answer = await ask(client, "http://server", 3, stream=stream)
    assert (answer.fate, answer.code) == fate
    assert answer.retry_after == (7.0 if status != 200 else 0.0)
    assert answer.account == ({"attempts": 1} if answer.fate == "complete" else {})
    assert tally([answer, answer]) == f"2 {fate[0]} ({fate[1]})"


async def test_a_connection_that_breaks_is_no_answer() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("gone")

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
        answer = await ask(client, "http://server", 3, stream=True)
    assert (answer.fate, answer.code) == ("broken", "ReadError")


def test_quantiles() -> None:
    assert [quantile([4.0, 1.0, 3.0, 2.0], share) for share in (0.0, 0.5, 0.95)] == [1.0, 3.0, 4.0]
    assert quantile([], 0.95) == 0.0

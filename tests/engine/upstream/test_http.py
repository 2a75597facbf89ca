"""The client of an upstream, before servers that fail in every way."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from drr.engine.upstream.errors import UpstreamError
from drr.engine.upstream.http import UpstreamClient, api_root

Handler = Callable[[httpx.Request], httpx.Response]
SSE = {"content-type": "text/event-stream; charset=utf-8"}
LAST = {"choices": [{"text": "b", "finish_reason": "stop"}]}


def sse(*events: Any, done: bool = True) -> bytes:
    lines = [f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def client(handler: Handler, **options: Any) -> UpstreamClient:
    return UpstreamClient("http://upstream:8000", transport=httpx.MockTransport(handler), **options)


async def collected(upstream: UpstreamClient) -> list[dict[str, Any]]:
    async with aclosing(upstream.events("completions", {})) as events:
        return [event async for event in events]


async def fault(upstream: UpstreamClient) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await collected(upstream)
    assert upstream.open == 0
    return caught.value


def stream(content: bytes) -> Handler:
    return lambda request: httpx.Response(200, headers=SSE, content=content)


async def test_a_stream_is_read_to_its_end_whatever_its_line_ends() -> None:
    content = b": hello\r\nevent: x\r\ndata:" + json.dumps({"n": 1}).encode() + b"\r\n\r\n" + sse(LAST)
    ended: list[str] = []
    upstream = client(stream(content), note=ended.append)
    assert await collected(upstream) == [{"n": 1}, LAST]
    assert (upstream.open, ended) == (0, ["ok"])


async def test_a_finish_reason_is_an_end_without_done() -> None:
    assert await collected(client(stream(sse(LAST, done=False)))) == [LAST]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (sse({"choices": [{"text": "a", "finish_reason": None}]}, done=False), "cut"),
        (sse("{not json"), "malformed"),
        (sse("[1]"), "malformed"),
        (sse({"error": {"message": "out of memory", "code": 500}}), "unavailable"),
        (sse({"error": {"message": "too long", "code": 400, "param": "prompt"}}), "refused"),
    ],
)
async def test_a_broken_stream_is_told_by_its_kind(content: bytes, kind: str) -> None:
    assert (await fault(client(stream(content)))).kind == kind


async def test_a_refusal_names_status_reason_and_field() -> None:
    body = {"error": {"message": "too long", "type": "BadRequestError", "param": "prompt", "code": 400}}
    error = await fault(client(lambda request: httpx.Response(400, json=body)))
    assert (error.kind, error.status, error.param) == ("refused", 400, "prompt")
    assert str(error) == "the upstream answered 400: too long"


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_upstream_is_tried_again(status: int) -> None:
    answers = [
        httpx.Response(status, headers={"retry-after": "0"}),
        httpx.Response(200, headers=SSE, content=sse(LAST)),
    ]
    ended: list[str] = []
    assert await collected(client(lambda request: answers.pop(0), note=ended.append)) == [LAST]
    assert ended == ["retried", "ok"]


async def test_an_upstream_that_stays_busy_is_given_up_within_the_patience() -> None:
    asked: list[float] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(time.monotonic())
        return httpx.Response(429, headers={"retry-after": "60"})

    error = await fault(client(handler, patience=5.0))
    assert (error.kind, error.retry_after, len(asked)) == ("busy", 60.0, 1)


async def test_no_connection_is_tried_again_and_then_told() -> None:
    asked: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(1)
        raise httpx.ConnectError("connection refused")

    error = await fault(client(handler, retries=2))
    assert (error.kind, len(asked)) == ("unavailable", 3)
    assert "connection refused" in str(error)


async def test_nothing_is_generated_twice_once_an_event_was_seen() -> None:
    asked: list[int] = []

    async def broken() -> AsyncIterator[bytes]:
        yield sse({"choices": [{"text": "a", "finish_reason": None}]}, done=False)
        raise httpx.ReadError("reset by peer")

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(1)
        return httpx.Response(200, headers=SSE, content=broken())

    error = await fault(client(handler))
    assert (error.kind, len(asked)) == ("cut", 1)


async def test_a_redirect_is_not_followed() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(307, headers={"location": "http://elsewhere/v1/completions"})

    assert (await fault(client(handler))).kind == "refused"
    assert seen == ["http://upstream:8000/v1/completions"]


async def test_json_where_a_stream_was_asked_for_is_malformed() -> None:
    assert (await fault(client(lambda request: httpx.Response(200, json=LAST)))).kind == "malformed"


async def test_closing_the_events_closes_the_request() -> None:
    closed: list[bool] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield sse({"choices": []}, done=False)
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    upstream = client(lambda request: httpx.Response(200, headers=SSE, content=endless()))
    events = upstream.events("completions", {})
    assert await anext(events) == {"choices": []}
    assert upstream.open == 1
    await events.aclose()
    assert upstream.open == 0
    await upstream.aclose()


async def test_silence_is_bounded() -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + sse({"choices": []}, done=False))
        await writer.drain()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    gone = asyncio.Event()
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    upstream = UpstreamClient(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", timeout=0.2)
    began = time.monotonic()
    assert (await fault(upstream)).kind == "timeout"
    assert time.monotonic() - began < 5
    await upstream.aclose()
    await gone.wait()
    listening.close()
    await listening.wait_closed()


async def test_keys_and_passwords_go_with_requests_and_into_no_message() -> None:
    headers: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        headers.append(request.headers["authorization"])
        return httpx.Response(401, json={"error": {"message": "no such key: s3cret"}})

    for url, key in (("http://upstream", "s3cret"), ("http://user:s3cret@upstream", None)):
        upstream = UpstreamClient(url, key=key, transport=httpx.MockTransport(handler))
        with pytest.raises(UpstreamError) as caught:
            await upstream.get("models")
        assert "s3cret" not in upstream.url
        assert key is None or "s3cret" not in str(caught.value)
    assert headers == ["Bearer s3cret", "Basic dXNlcjpzM2NyZXQ="]


async def test_an_answer_that_is_no_object_is_malformed() -> None:
    for content in (b"<html>", b"[]"):
        with pytest.raises(UpstreamError) as caught:
            await client(lambda request, content=content: httpx.Response(200, content=content)).post("x", {})  # type: ignore[misc]
        assert caught.value.kind == "malformed"


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/v1/", "http://h:1/v1"),
        ("https://u:p@h/api/v3?x=1", "https://h/api/v3"),
    ],
)
def test_where_an_api_begins(url: str, root: str) -> None:
    assert api_root(url) == root

"""The end of a server, and of connections: over real sockets, with an application that takes its time."""

import argparse
import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.middleware import Middleware

from server import listening
from server.admission.middleware import Admission
from server.errors import EngineDiedError
from server.lifecycle import Lifecycle
from tests.server.admission.asgi import door, until

ARGS = argparse.Namespace(
    host="127.0.0.1",
    port=0,
    uvicorn_log_level="error",
    disable_uvicorn_access_log=True,
    disable_access_log_for_endpoints=None,
    log_config_file=None,
    ssl_keyfile=None,
    ssl_certfile=None,
    ssl_ca_certs=None,
    ssl_cert_reqs=0,
    ssl_ciphers=None,
    enable_ssl_refresh=False,
    h11_max_incomplete_event_size=2048,
    h11_max_header_count=10,
)


@dataclass
class Running:
    url: str
    lifecycle: Lifecycle
    task: "asyncio.Task[None]"
    begun: list[str] = field(default_factory=list)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    is_dead: bool = False

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)


@contextlib.asynccontextmanager
async def running(limit: float = 5.0, lead: float = 0.0, stall: float = 5.0) -> AsyncIterator[Running]:
    app = FastAPI()
    lifecycle = Lifecycle(door(running=9, stall=stall), lead, limit)
    app.user_middleware.append(Middleware(Admission, door=lifecycle.door))
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    started = asyncio.Event()

    @app.post("/v1/chat/completions")
    async def whole() -> PlainTextResponse:
        found.begun.append("whole")
        await found.may_end.wait()
        return PlainTextResponse("done")

    @app.post("/v1/completions")
    async def streamed() -> StreamingResponse:
        async def events() -> AsyncIterator[bytes]:
            found.begun.append("streamed")
            yield b"data: 1\n\n"
            await found.may_end.wait()
            yield b"data: 2\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.post("/v1/responses")
    async def endless() -> StreamingResponse:
        async def events() -> AsyncIterator[bytes]:
            found.begun.append("endless")
            while True:
                yield b"x" * 65536

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.get("/ready")
    async def ready() -> PlainTextResponse:
        return PlainTextResponse("", status_code=200 if lifecycle.why_not_ready is None else 503)

    task = asyncio.create_task(listening.listen(app, ARGS, sock, lifecycle, lambda: found.is_dead, started.set))
    found = Running(f"http://127.0.0.1:{sock.getsockname()[1]}", lifecycle, task)
    await asyncio.wait_for(started.wait(), 10)
    try:
        yield found
    finally:
        lifecycle.on_signal()
        lifecycle.on_signal()
        await asyncio.gather(asyncio.wait_for(task, 20), return_exceptions=True)
        sock.close()


async def asked(client: httpx.AsyncClient, url: str, path: str = "/v1/chat/completions") -> Any:
    try:
        return await client.post(url + path, json={}, timeout=20)
    except httpx.HTTPError as error:
        return error


async def test_what_is_under_way_finishes_and_nothing_new_begins() -> None:
    async with running() as server, httpx.AsyncClient() as client:
        paths = ("/v1/chat/completions", "/v1/completions")
        tasks = [asyncio.create_task(asked(client, server.url, path)) for path in paths]
        await until(lambda: len(server.begun) == 2)
        assert (await client.get(server.url + "/ready")).status_code == 200
        server.lifecycle.on_signal()
        await until(lambda: server.lifecycle.door.closed is not None)
        assert (await client.get(server.url + "/ready")).status_code == 503
        late = await asked(client, server.url)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "service_unavailable")
        server.may_end.set()
        whole, streamed = await asyncio.gather(*tasks)
        assert (whole.text, streamed.text) == ("done", "data: 1\n\ndata: 2\n\n")
        await asyncio.wait_for(server.task, 10)


async def test_who_asks_again_on_an_open_connection_is_told_that_the_server_ends() -> None:
    async with running() as server:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(REQUEST.replace(b"chat/", b""))
        await reader.readuntil(b"data: 1")
        server.lifecycle.on_signal()
        await until(lambda: server.lifecycle.door.closed is not None)
        server.may_end.set()
        await reader.readuntil(b"0\r\n\r\n")
        await asyncio.sleep(0.1)
        writer.write(REQUEST)
        told = await read_all(reader)
        assert b" 503 " in told
        assert b"connection: close" in told
        await asyncio.wait_for(server.task, 5)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(*server.address)
        writer.close()


async def test_a_response_that_begins_while_the_server_ends_is_its_connections_last() -> None:
    async with running() as server:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(REQUEST)
        await until(lambda: bool(server.begun))
        server.lifecycle.on_signal()
        await until(lambda: server.lifecycle.door.closed is not None)
        server.may_end.set()
        told = await read_all(reader)
        assert told.endswith(b"done")
        assert told.lower().count(b"connection: close") == 1
        writer.close()


async def test_load_balancers_get_time_to_notice() -> None:
    async with running(lead=0.4) as server, httpx.AsyncClient() as client:
        server.may_end.set()
        server.lifecycle.on_signal()
        await until(lambda: not server.lifecycle.ready)
        assert (await client.get(server.url + "/ready")).status_code == 503
        assert (await asked(client, server.url)).status_code == 200
        await asyncio.wait_for(server.task, 10)


@pytest.mark.parametrize("twice", [True, False])
async def test_what_takes_too_long_is_cut_off_with_a_reason(twice: bool) -> None:
    """At the limit, or at once where a second signal comes."""
    async with running(limit=60 if twice else 0.2) as server, httpx.AsyncClient() as client:
        paths = ("/v1/chat/completions", "/v1/completions")
        tasks = [asyncio.create_task(asked(client, server.url, path)) for path in paths]
        await until(lambda: len(server.begun) == 2)
        server.lifecycle.on_signal()
        if twice:
            server.lifecycle.on_signal()
        whole, streamed = await asyncio.gather(*tasks)
        assert (whole.status_code, whole.json()["error"]["code"]) == (503, "service_unavailable")
        assert streamed.text.startswith("data: 1\n\n")
        assert "service_unavailable" in streamed.text
        assert streamed.text.endswith("data: [DONE]\n\n")
        await asyncio.wait_for(server.task, 10)


async def test_an_engine_that_dies_ends_the_server_with_an_error() -> None:
    async with running() as server, httpx.AsyncClient() as client:
        task = asyncio.create_task(asked(client, server.url))
        await until(lambda: bool(server.begun))
        server.is_dead = True
        assert (await task).status_code == 503
        with pytest.raises(EngineDiedError, match="engine has died"):
            await asyncio.wait_for(server.task, 10)


async def test_an_engine_that_dies_while_the_server_ends_is_told_too() -> None:
    async with running() as server, httpx.AsyncClient() as client:
        task = asyncio.create_task(asked(client, server.url))
        await until(lambda: bool(server.begun))
        server.lifecycle.on_signal()
        await until(lambda: server.lifecycle.door.closed is not None)
        server.is_dead = True
        assert (await task).status_code == 503
        with pytest.raises(EngineDiedError):
            await asyncio.wait_for(server.task, 10)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", b"POST / HTTP/1.1\r\nhost: x\r\n"])
async def test_connections_on_which_no_request_comes_are_dropped(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(listening, "_SECONDS_FOR_HEADERS", 0.2)
    async with running() as server:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(sent)
        assert await read_all(reader) == b""
        writer.close()


@pytest.mark.parametrize("headers", [b"x: y\r\n" * 13, b"x: " + b"y" * 3000])
async def test_headers_without_end_are_refused(headers: bytes) -> None:
    async with running() as server:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"POST / HTTP/1.1\r\n" + headers)
        assert b"431" in await read_all(reader)
        writer.close()


async def test_a_connection_serves_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_SECONDS_FOR_HEADERS", 0.3)
    async with running() as server, httpx.AsyncClient() as client:
        server.may_end.set()
        for _ in range(4):
            assert (await asked(client, server.url)).text == "done"
            await asyncio.sleep(0.15)


REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


async def test_a_connection_that_says_nothing_after_its_response_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_SECONDS_FOR_HEADERS", 0.3)
    async with running() as server:
        server.may_end.set()
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(REQUEST)
        await reader.readuntil(b"done")
        writer.write(b"\r\n")  # ends uvicorn's own wait, and begins nothing
        assert await read_all(reader) == b""
        writer.close()


async def test_a_connection_waits_longer_for_its_next_request_than_for_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_SECONDS_FOR_HEADERS", 0.1)
    async with running() as server:
        server.may_end.set()
        reader, writer = await asyncio.open_connection(*server.address)
        for _ in range(2):
            writer.write(REQUEST)
            await reader.readuntil(b"done")
            await asyncio.sleep(0.5)
        writer.write(REQUEST[:9])
        assert await read_all(reader) == b"", "half a request is not waited for so long"
        writer.close()


@pytest.mark.parametrize(("usual", "named"), [(1, None), (75, "1")])
async def test_a_connection_without_a_next_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, usual: int, named: str | None
) -> None:
    monkeypatch.setattr(listening, "_SECONDS_BETWEEN_REQUESTS", usual)
    if named is not None:
        monkeypatch.setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", named)
    async with running() as server:
        server.may_end.set()
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(REQUEST)
        await reader.readuntil(b"done")
        assert await read_all(reader) == b""
        writer.close()


async def test_the_beginning_of_a_next_request_ends_no_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_SECONDS_FOR_HEADERS", 0.2)
    async with running() as server:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(REQUEST + b"P")
        await until(lambda: bool(server.begun))
        await asyncio.sleep(0.4)
        server.may_end.set()
        assert (await read_all(reader)).endswith(b"done")
        writer.close()


@pytest.mark.parametrize("more", [0, 1, 3])
async def test_of_requests_sent_at_once_the_one_under_way_hears_that_its_client_left(
    more: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as server:
        caplog.set_level(logging.ERROR, "uvicorn.error")
        _, writer = await asyncio.open_connection(*server.address)
        writer.write((REQUEST * (1 + more)).replace(b"chat/", b""))
        under_way = server.lifecycle.door.under_way
        await until(lambda: bool(server.begun))
        writer.transport.abort()
        await until(lambda: len(under_way) == 0)
        assert not server.may_end.is_set()
        await asyncio.sleep(0.1)
        assert len(server.begun) == 1, "what nobody waits for is not begun"
        assert not caplog.records


async def test_requests_sent_at_once_are_answered_one_after_the_other() -> None:
    async with running() as server:
        server.may_end.set()
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(REQUEST * 3)
        for _ in range(3):
            assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"done"), 10)
        writer.close()


async def test_a_body_is_no_header() -> None:
    async with running() as server:
        server.may_end.set()
        reader, writer = await asyncio.open_connection(*server.address)
        body = b"x" * 900
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n" + body + REQUEST[:9]
        )
        await reader.readuntil(b"done")
        writer.write(REQUEST[9:])
        assert b"200 OK" in await reader.readuntil(b"done")
        writer.close()


async def test_who_is_refused_unread_is_not_read_further() -> None:
    async with running() as server:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nxx")
        told = await read_all(reader)
        assert b" 413 " in told
        assert b"connection: close" in told
        writer.close()


async def test_a_client_that_does_not_read_is_dropped() -> None:
    async with running(stall=0.3) as server:
        _, writer = await asyncio.open_connection(*server.address)
        writer.write(b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        under_way = server.lifecycle.door.under_way
        await until(lambda: bool(server.begun))
        await until(lambda: len(under_way) == 0, 10)
        app_server = server.task
        assert not app_server.done()
        writer.close()

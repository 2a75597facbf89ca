"""Connections that are lent one by one: whoever is cancelled at whatever moment leaves none open, and nobody waits
behind others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest

from drr.engine import connections
from drr.engine.connections import Connections


@dataclass
class Plain:
    """A server that answers whatever it is asked with a few chunks, and counts its connections and its requests."""

    url: str = ""
    open: int = 0
    accepted: int = 0
    arrived: list[int] = field(default_factory=list)
    """At which turn of the loop each request came."""
    turn: int = 0
    silent: bool = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.accepted += 1
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.arrived.append(self.turn)
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                for _ in range(3):
                    writer.write(b"1\r\nx\r\n")
                    await asyncio.sleep(0)
                if not self.silent:
                    writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    def count_turns(self) -> None:
        self.turn += 1
        self.counting = asyncio.get_running_loop().call_soon(self.count_turns)


@contextlib.asynccontextmanager
async def plain() -> AsyncIterator[Plain]:
    server = Plain()
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    server.count_turns()
    try:
        yield server
    finally:
        server.counting.cancel()
        listening.close()
        async with asyncio.timeout(5):
            while server.open:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def exchange(lent: Connections, url: str) -> None:
    async with lent.one() as http, http.stream("GET", url) as response:
        async for _ in response.aiter_bytes():
            pass


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("used", [False, True], ids=["new", "used before"])
async def test_who_is_cancelled_at_any_turn_of_the_loop_leaves_no_connection(used: bool) -> None:
    async with plain() as server:
        lent, cut, ended = Connections(timeout=10.0), 0, 0
        while ended < 5:
            if used:
                await exchange(lent, server.url)
            elif lent.idle:
                await lent.aclose()
                lent = Connections(timeout=10.0)
            task = asyncio.create_task(exchange(lent, server.url))
            await turns(cut + ended)
            task.cancel()
            await asyncio.wait({task})
            cut, ended = cut + task.cancelled(), ended + (not task.cancelled())
            assert lent.lent == 0
            async with asyncio.timeout(5):
                while server.open > lent.idle:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        assert cut > 5  # some of them in the middle
        await lent.aclose()


async def test_a_second_cancellation_does_not_stop_the_closing() -> None:
    async with plain() as server:
        server.silent = True
        for count in range(8):
            lent = Connections(timeout=10.0)
            task = asyncio.create_task(exchange(lent, server.url))
            while not server.open:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            task.cancel()
            await turns(count)
            task.cancel()
            await asyncio.wait({task})
            await lent.aclose()
            async with asyncio.timeout(5):
                while server.open:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)


async def test_of_many_at_once_nobody_waits_for_another() -> None:
    async with plain() as server:
        lent = Connections(timeout=10.0)
        for _ in range(2):
            server.arrived.clear()
            began = server.turn
            await asyncio.gather(*(exchange(lent, server.url) for _ in range(64)))
            assert (len(server.arrived), lent.lent, lent.idle, server.accepted) == (64, 0, 64, 64)
        assert max(server.arrived) - began < 20  # httpx's own pool takes more than 64
        await lent.aclose()


async def test_a_failure_keeps_the_connection_and_errors_pass_through() -> None:
    async with plain() as server:
        lent = Connections(timeout=10.0)

        async def failing() -> None:
            async with lent.one() as http:
                await http.get(server.url)
                await http.get("gopher://elsewhere")

        with pytest.raises(httpx.UnsupportedProtocol):
            await failing()
        await exchange(lent, server.url)
        assert (lent.idle, server.accepted, len(server.arrived)) == (1, 1, 2)
        await lent.aclose()
        with pytest.raises(httpx.ConnectError):
            await exchange(Connections(), "http://127.0.0.1:1")


async def test_what_nobody_uses_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async with plain() as server:
        lent = Connections(timeout=10.0)
        await asyncio.gather(*(exchange(lent, server.url) for _ in range(3)))
        assert lent.idle == 3
        monkeypatch.setattr(connections, "_KEPT_SECONDS", 0.02)
        await asyncio.sleep(0.05)
        await exchange(lent, server.url)
        assert lent.idle == 1
        await lent.aclose()


async def test_what_is_given_back_behind_the_end_is_closed() -> None:
    async with plain() as server:
        lent = Connections(timeout=10.0)
        async with lent.one() as http:
            await http.get(server.url)
            await lent.aclose()
        assert lent.idle == 0
        await lent.aclose()

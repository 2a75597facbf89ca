"""Clients of a server that things happen to: patient ones, leaving ones, slow readers, and senders of huge bodies."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from benchmarks.answers import Answer, ask, question

_LIMIT = 120.0
"""Seconds after which an answer counts as lost."""

_HUGE = 100 << 20
_PIECE = 256 << 10
_BETWEEN_HUGE = 10.0
_SLOW_PIECE, _SLOW_PAUSE = 256, 0.02
"""Bytes that a slow client reads at once, and its pauses in seconds."""


@dataclass
class Told:
    """What clients saw. `answers` are of those that stayed, with the second of the run in which each was asked; `cut`
    counts those that left; `huge` what became of huge bodies."""

    answers: list[tuple[float, Answer]] = field(default_factory=list)
    cut: int = 0
    huge: Counter[str] = field(default_factory=Counter)

    def admitted(self) -> list[tuple[float, Answer]]:
        """The answers of clients that stayed and were let in."""
        return [(when, answer) for when, answer in self.answers if answer.code != "429"]


class Clients:
    """Asks until `stop` is set. A client that is told 429 waits as long as it is told, and asks again."""

    def __init__(self, url: str, seed: int) -> None:
        self._url, self._rng = url, random.Random(seed)
        self._begun = time.monotonic()
        self.stop = asyncio.Event()
        self.told = Told()

    async def run(self, clients: int) -> None:
        """All of them; one in eight is a slow reader."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=_LIMIT, limits=limits) as http, asyncio.TaskGroup() as group:
            group.create_task(self._send_huge())
            for client in range(clients):
                group.create_task(self._read_slowly(client) if client % 8 == 7 else self._ask(http, client))

    async def _ask(self, http: httpx.AsyncClient, client: int) -> None:
        number = client
        while not self.stop.is_set():
            number += 100
            stream, drr = self._rng.random() < 0.5, self._rng.choice(({}, {}, {"mode": "rethink"}, {"mode": "off"}))
            asking = asyncio.create_task(ask(http, self._url, number, stream=stream, drr=drr))
            if self._rng.random() < 0.15:
                await asyncio.wait({asking}, timeout=self._rng.uniform(0.0, 0.6))
                if not asking.done():
                    asking.cancel()
                    await asyncio.wait({asking})
                    self.told.cut += 1
                    continue
            await self._note(await asking)

    async def _note(self, answer: Answer) -> None:
        self.told.answers.append((time.monotonic() - self._begun - answer.seconds, answer))
        if answer.code == "429":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), answer.retry_after)

    async def _read_slowly(self, client: int) -> None:
        number = client
        while not self.stop.is_set():
            number += 100
            begun = time.perf_counter()
            try:
                async with asyncio.timeout(_LIMIT):
                    text = await self._slow_answer(number)
            except (OSError, TimeoutError) as error:
                text, code = b"", type(error).__name__
            else:
                code = text.split(b" ", 2)[1].decode() if text else "no answer"
            fate = "complete" if b"data: [DONE]" in text and b'"error"' not in text else "broken"
            if code == "429":
                fate = "error"
            name = "read slowly" if fate == "complete" else code
            await self._note(Answer(fate, name, 0.0, time.perf_counter() - begun, retry_after=1.0))

    async def _slow_answer(self, number: int) -> bytes:
        messages = [{"role": "user", "content": question(number)}]
        body = {"model": "drr-reference", "messages": messages, "seed": number, "stream": True}
        parts = urlsplit(self._url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1024)
        try:
            writer.write(_request(json.dumps(body).encode(), len(json.dumps(body))))
            text = b""
            while piece := await reader.read(_SLOW_PIECE):
                text += piece
                await asyncio.sleep(_SLOW_PAUSE)
            return text
        finally:
            await _closed(writer)

    async def _send_huge(self) -> None:
        """Bodies of 100 MB, announced as such and not."""
        announced = True
        while not self.stop.is_set():
            try:
                async with asyncio.timeout(_LIMIT):
                    self.told.huge[await self._huge_answer(announced=announced)] += 1
            except TimeoutError:
                self.told.huge["no answer"] += 1
            announced = not announced
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), _BETWEEN_HUGE)

    async def _huge_answer(self, *, announced: bool) -> str:
        parts = urlsplit(self._url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        sending = asyncio.create_task(_send(writer, announced=announced))
        try:
            line = await reader.readline()
            return line.split(b" ", 2)[1].decode() if line else "closed"
        except OSError:
            return "closed"
        finally:
            sending.cancel()
            await _closed(writer)


def _request(body: bytes, size: int | None) -> bytes:
    length = "transfer-encoding: chunked" if size is None else f"content-length: {size}"
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: drr\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return f"{head}{length}\r\n\r\n".encode() + body


async def _send(writer: asyncio.StreamWriter, *, announced: bool) -> None:
    piece = b" " * _PIECE
    wrapped = piece if announced else f"{_PIECE:x}\r\n".encode() + piece + b"\r\n"
    with contextlib.suppress(OSError):
        writer.write(_request(b"", _HUGE if announced else None))
        for _ in range(_HUGE // _PIECE):
            writer.write(wrapped)
            await writer.drain()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()

"""A client that takes little of a CPU: requests are bytes made beforehand, answers are read as bytes.

A client on the server's machine uses cores that the server needs, and so distorts what it measures; one that is busy
also sees late what came early."""

import asyncio
import json
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_END_OF_CHUNKS = b"0\r\n\r\n"
_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer in bytes: `head` and `body`, which may be in chunks. `first` and `seconds` are from the request to the
    first byte and to the last. Status 0: the connection broke."""

    status: int
    head: bytes
    body: bytes
    first: float
    seconds: float

    @property
    def text(self) -> str:
        """The body, without the frames of its chunks."""
        if b"transfer-encoding: chunked" not in self.head.lower():
            return self.body.decode()
        rest, parts = self.body, []
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            parts.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        return b"".join(parts).decode()

    def header(self, name: str) -> str | None:
        """A header's value; None where there is none."""
        found = re.search(rb"^" + name.encode() + rb": *(.*?)\r?$", self.head, re.IGNORECASE | re.MULTILINE)
        return None if found is None else found[1].decode()


def request(path: str, body: dict[str, Any]) -> bytes:
    """The bytes of a request."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: drr\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class LightClient:
    """Sends requests on connections that are kept, as many as are needed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._idle: list[_Connection] = []

    async def ask(self, content: bytes) -> Reply:
        """Send these bytes; what becomes of it is never an exception."""
        connection = None
        while self._idle and connection is None:
            connection = self._idle.pop()
            if not connection.is_open:
                connection = None
        if connection is None:
            try:
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(_Connection, self._host, self._port)
            except OSError:
                return Reply(0, b"", b"", 0.0, 0.0)
        reply = await connection.ask(content)
        if connection.is_open:
            self._idle.append(connection)
        return reply

    def close(self) -> None:
        """Close what is open."""
        for connection in self._idle:
            connection.close()


class _Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Reply] | None = None
        self._parts = list[bytes]()
        self._head: bytes | None = None
        self._left: int | None = None
        """Bytes of the body that are still to come; None of one in chunks."""
        self._sent = self._first = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, content: bytes) -> "asyncio.Future[Reply]":
        """Send a request; its reply, in time."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._parts, self._head, self._left, self._first = [], None, None, 0.0
        self._sent = time.perf_counter()
        self._transport.write(content)
        return self._answer

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._first == 0.0:
            self._first = time.perf_counter()
        self._parts.append(data)
        if self._head is None:
            head, found, body = b"".join(self._parts).partition(b"\r\n\r\n")
            if not found:
                return
            self._head, self._parts, data = head, [body], body
            length = _LENGTH.search(head)
            self._left = None if length is None else int(length[1])
        if self._left is not None:
            self._left -= len(data)
        if self._left == 0 or (self._left is None and self._ends()):
            self._done()

    def _ends(self) -> bool:
        tail = self._parts[-1]
        if len(tail) < len(_END_OF_CHUNKS):
            tail = b"".join(self._parts[-6:])
        return tail.endswith(_END_OF_CHUNKS)

    def _done(self) -> None:
        assert self._head is not None
        status = int(self._head.split(b" ", 2)[1])
        now = time.perf_counter()
        reply = Reply(status, self._head, b"".join(self._parts), self._first - self._sent, now - self._sent)
        if b"connection: close" in self._head.lower():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            seconds = time.perf_counter() - self._sent
            self._answer.set_result(Reply(0, self._head or b"", b"".join(self._parts), 0.0, seconds))

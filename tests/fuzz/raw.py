"""Send bytes to a server, and judge what comes back."""

import asyncio
import contextlib
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11

from tests.fuzz.malformed import Malformed

_PATIENCE = 1.0
"""Seconds after which a request that need not be answered is given up."""


@dataclass
class Reply:
    """What came back. `status` is 0 where nothing did. `wrong` is what must not be, one sentence each."""

    number: int
    kind: str
    status: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


async def send(url: str, malformed: Malformed, limit: float) -> Reply:
    """The server's reply, judged. A request that has to be answered and is not within `limit` seconds hangs."""
    reply, begun = Reply(malformed.number, malformed.kind), time.perf_counter()
    parts = urlsplit(url)
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, parts.port), limit)
    except OSError as error:
        reply.wrong.append(f"no connection: {error!r}")
        return reply
    writing = asyncio.create_task(_write(writer, malformed))
    try:
        if malformed.expected == "leaves":
            await writing
            await asyncio.sleep(malformed.after)
        else:
            await _read(reader, malformed, reply, limit if malformed.expected == "answer" else _PATIENCE)
    finally:
        writing.cancel()
        if malformed.rude:
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    reply.seconds = time.perf_counter() - begun
    return reply


async def _write(writer: asyncio.StreamWriter, malformed: Malformed) -> None:
    """Send all of it; a server may close before it has read the rest."""
    with contextlib.suppress(OSError):
        for start in range(0, len(malformed.content), malformed.piece):
            writer.write(malformed.content[start : start + malformed.piece])
            await writer.drain()


async def _read(reader: asyncio.StreamReader, malformed: Malformed, reply: Reply, limit: float) -> None:
    answer = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    answer.send(h11.Request(method=malformed.method, target="/", headers=[("host", "drr")]))
    answer.send(h11.EndOfMessage())
    headers: dict[bytes, bytes] = {}
    body = b""
    try:
        async with asyncio.timeout(limit):
            while True:
                event = answer.next_event()
                if event is h11.NEED_DATA:
                    answer.receive_data(await reader.read(1 << 16))
                elif isinstance(event, h11.Response):
                    reply.status, headers = event.status_code, dict(event.headers)
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                    break
    except TimeoutError:
        if malformed.expected == "answer":
            reply.wrong.append(f"no end within {limit:g} s")
        return
    except (OSError, h11.RemoteProtocolError) as error:
        # Where more is sent than the server reads, the kernel resets the connection; the answer may be lost by that.
        if malformed.expected == "answer":
            reply.wrong.append(f"{'no answer' if reply.status == 0 else 'half an answer'}: {error!r}")
        return
    judge(malformed, reply, headers, body)


def judge(malformed: Malformed, reply: Reply, headers: dict[bytes, bytes], body: bytes) -> None:
    """Note what is wrong with an answer that has come to its end."""
    if reply.status == 0:
        return
    if reply.status >= 500:
        reply.wrong.append(f"HTTP {reply.status}: {body[:300]!r}")
    elif headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        _judge_stream(reply, body)
    elif headers.get(b"content-type", b"").startswith(b"application/json") and malformed.method != "HEAD":
        _judge_json(reply, body)
    elif reply.status == 200 and malformed.kind == "fields":
        reply.wrong.append(f"an answer that is no JSON: {headers.get(b'content-type')!r}")


def _judge_json(reply: Reply, body: bytes) -> None:
    try:
        told = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        reply.wrong.append(f"not JSON ({error}): {body[:200]!r}")
        return
    if 400 <= reply.status < 500 and not _says_why(told):
        reply.wrong.append(f"HTTP {reply.status} without a reason: {body[:200]!r}")


def _judge_stream(reply: Reply, body: bytes) -> None:
    """A server that lives has no error to tell of inside a stream: what is wrong with a request is known before 200."""
    for line in re.findall(rb"^data: (.*)$", body, re.MULTILINE):
        if line.strip() == b"[DONE]":
            continue
        try:
            event = json.loads(line, parse_constant=_refuse)
        except ValueError as error:
            reply.wrong.append(f"an event that is not JSON ({error}): {line[:200]!r}")
            return
        if _is_error(event):
            reply.wrong.append(f"an error in a stream: {line[:300]!r}")


def _is_error(event: Any) -> bool:
    """Whether an event tells of an error: OpenAI's shapes (chunks and the events of Responses), or Anthropic's."""
    if not isinstance(event, dict):
        return False
    return bool(event.get("error")) or event.get("type") in ("error", "response.failed")


def _says_why(told: Any) -> bool:
    """OpenAI's shape or Anthropic's; FastAPI's where no route was found."""
    error = told.get("error") if isinstance(told, dict) else None
    return (
        bool(error.get("message")) if isinstance(error, dict) else bool(isinstance(told, dict) and told.get("detail"))
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")

"""HTTP to an upstream: connections that are kept, patience that is bounded, and streams of server-sent events.

A request is tried again, after a growing and jittered delay or the one that the upstream names, where the upstream is
away or busy (no connection, a connection that broke before the answer, 429, 502, 503, 529), and only before the first
event: what a caller has seen is never generated twice. Redirects are not followed, and keys are never shown.
"""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx

from drr.engine.connections import Connections, credentials
from drr.engine.upstream.errors import UpstreamError, error_from

Made = TypeVar("Made")

RETRIED = (429, 502, 503, 529)
"""Statuses after which the same request may succeed."""

_CONNECT_SECONDS = 5.0
_SECONDS_TO_END = 1.0
_FIRST_DELAY, _LONGEST_DELAY = 0.25, 8.0
_LONGEST_ERROR = 64 << 10
_LONGEST_LINE = 16 << 20
"""Bytes of an error that are read, and of one event."""

_READ_AHEAD = 64
"""Events of a stream that may wait for their reader."""


class UpstreamClient:
    """An upstream's API, `base_url` as in http://host:8000/v1 (without a path, /v1 is added). Close it when done.

    `key` goes as a bearer token, a name and a password in the address as basic authentication. `timeout` is the
    longest silence in seconds, before an answer and in the middle of one. A request is tried again `retries` times at
    most, and never when it would have to wait past `patience` seconds in all. `note` is told how each POST ended:
    `ok`, `closed` by the caller, or the fault's kind, and `retried` for each further try.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 300.0,
        retries: int = 4,
        patience: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
        note: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self.url = api_root(base_url)
        self.open = 0
        """Requests that are under way."""
        self.note = note
        self._retries, self._timeout = retries, timeout
        self.patience = patience
        self._key = key
        self._tasks = set[asyncio.Task[Any]]()
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        self.connections = Connections(
            headers={**(headers or {}), **authorization},
            auth=None if key else credentials(base_url),
            timeout=httpx.Timeout(timeout, connect=min(_CONNECT_SECONDS, timeout)),
            follow_redirects=False,
            transport=transport,
        )

    async def get(self, path: str, *, patience: float | None = None) -> dict[str, Any]:
        """The JSON object at `path`. UpstreamError where there is none."""
        return await self._object("GET", path, None, patience)

    async def post(self, path: str, body: Mapping[str, Any], *, patience: float | None = None) -> dict[str, Any]:
        """The JSON object that is answered. UpstreamError where there is none."""
        return await self._object("POST", path, body, patience)

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The JSON objects of a stream of server-sent events, to its [DONE] or its end behind a finish reason.

        Closing the generator closes the request. UpstreamError for whatever keeps the stream from its end.
        """
        read = asyncio.Queue[dict[str, Any] | Exception | None](_READ_AHEAD)

        async def reading() -> None:
            try:
                async with contextlib.aclosing(self._events(path, body)) as events:
                    async for event in events:
                        await read.put(event)
            except Exception as error:
                await read.put(error)
            else:
                await read.put(None)

        task = self._begun(reading())
        try:
            while (event := await read.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        with self._counted():
            async with self._answer("POST", path, body, None) as response:
                kind = response.headers.get("content-type", "")
                if not kind.startswith("text/event-stream"):
                    await response.aread()
                    raise UpstreamError(
                        "malformed", f"the upstream answered a stream's request with {kind or 'no type'}"
                    )
                finished = False
                async with contextlib.aclosing(_data(response)) as lines:
                    async for line in lines:
                        if line == b"[DONE]":
                            await _drained(lines)
                            return
                        event = _event(line)
                        finished = finished or _finishes(event)
                        yield event
                if not finished:
                    raise UpstreamError("cut", "the upstream's stream ended in the middle")

    async def aclose(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.connections.aclose()

    def _begun(self, making: Coroutine[Any, Any, Made]) -> "asyncio.Task[Made]":
        """A task for one request. It is cancelled once, by whoever asked for it, and has the time to end in order;
        that one may itself be cancelled again and again."""
        task = asyncio.create_task(making)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _object(
        self, method: str, path: str, body: Mapping[str, Any] | None, patience: float | None
    ) -> dict[str, Any]:
        task = self._begun(self._asked(method, path, body, patience))
        try:
            return await asyncio.shield(task)
        finally:
            if not task.done():
                task.cancel()

    async def _asked(
        self, method: str, path: str, body: Mapping[str, Any] | None, patience: float | None
    ) -> dict[str, Any]:
        with self._counted(noted=method == "POST"):
            async with self._answer(method, path, body, patience) as response:
                content = await response.aread()
        try:
            found = json.loads(content)
        except ValueError as error:
            raise UpstreamError("malformed", f"the upstream's answer to {path} is not JSON") from error
        if not isinstance(found, dict):
            raise UpstreamError("malformed", f"the upstream's answer to {path} is not an object")
        return found

    @contextlib.contextmanager
    def _counted(self, *, noted: bool = True) -> Iterator[None]:
        self.open += 1
        outcome = "closed"
        try:
            yield
            outcome = "ok"
        except UpstreamError as error:
            outcome = error.kind
            if self._key:
                error.message = error.message.replace(self._key, "***")
            raise
        except httpx.TimeoutException as error:
            outcome = "timeout"
            raise UpstreamError("timeout", f"the upstream was silent for {self._timeout:g} seconds") from error
        except (httpx.TransportError, httpx.StreamError) as error:
            outcome = "cut"
            raise UpstreamError("cut", f"the upstream's answer was cut: {_told(error)}") from error
        except httpx.DecodingError as error:
            outcome = "malformed"
            raise UpstreamError("malformed", f"the upstream's answer cannot be decoded: {_told(error)}") from error
        finally:
            self.open -= 1
            if noted:
                self.note(outcome)

    @contextlib.asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: Mapping[str, Any] | None, patience: float | None
    ) -> AsyncIterator[httpx.Response]:
        """The response to a request that the upstream accepts, its body unread."""
        async with self.connections.one() as http:
            asked = http.build_request(method, f"{self.url}/{path.lstrip('/')}", json=body)
            response = await self._tried(http, asked, self.patience if patience is None else patience)
            try:
                yield response
            finally:
                await response.aclose()

    async def _tried(self, http: httpx.AsyncClient, asked: httpx.Request, patience: float) -> httpx.Response:
        began, tries = time.monotonic(), 0
        while True:
            try:
                return await _once(http, asked)
            except UpstreamError as error:
                delay = error.retry_after if error.retry_after is not None else _delay(tries)
                late = time.monotonic() - began + delay > patience
                if not _passes(error) or late or tries >= self._retries:
                    raise
            tries += 1
            self.note("retried")
            await asyncio.sleep(delay)


def api_root(url: str) -> str:
    """Where an API's paths begin: the address without credentials, query and last slash; /v1 where it has no path."""
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/") or "/v1"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))


async def _once(http: httpx.AsyncClient, asked: httpx.Request) -> httpx.Response:
    try:
        response = await http.send(asked, stream=True)
    except httpx.ConnectTimeout as error:
        raise UpstreamError("unavailable", "the upstream cannot be reached: no answer to a connection") from error
    except httpx.TimeoutException:
        raise
    except (httpx.TransportError, OSError) as error:
        raise UpstreamError("unavailable", f"the upstream cannot be reached: {_told(error)}") from error
    if response.status_code == httpx.codes.OK:
        return response
    try:
        raise await _refusal(response)
    finally:
        await response.aclose()


async def _refusal(response: httpx.Response) -> UpstreamError:
    status = response.status_code
    if response.is_redirect:
        return UpstreamError("refused", f"the upstream answered {status}, a redirect, which is not followed", status)
    content = b""
    with contextlib.suppress(httpx.HTTPError):
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > _LONGEST_ERROR:
                break
    try:
        body = json.loads(content)
    except ValueError:
        body = content.decode(errors="replace")
        body = "" if "<html" in body.lower() else body
    return error_from(status, body, _retry_after(response.headers.get("retry-after")))


def _retry_after(text: str | None) -> float | None:
    """Seconds, from a number or a date."""
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def _passes(error: UpstreamError) -> bool:
    """Whether what went wrong may pass; a connection that failed has no status."""
    return error.status in RETRIED or (error.kind == "unavailable" and error.status is None)


def _delay(tries: int) -> float:
    """Seconds before the next try: twice as long each time, half of it drawn, so that clients do not come together."""
    longest = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0**tries)
    return longest * random.uniform(0.5, 1.0)


async def _data(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """What stands behind `data:`, event by event."""
    rest, parts = b"", list[bytes]()
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise UpstreamError("malformed", "the upstream sent an event without an end")
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                parts.append(line[5:].lstrip(b" "))
            elif not line and parts:
                yield b"\n".join(parts)
                parts = []
    if rest.startswith(b"data:"):
        parts.append(rest[5:].strip())
    if parts:
        yield b"\n".join(parts)


async def _drained(lines: AsyncGenerator[bytes, None]) -> None:
    """Read what is left of a response that has been told to be over: its connection can then be used again."""
    with contextlib.suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(_SECONDS_TO_END):
            async for _ in lines:
                pass


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise UpstreamError("malformed", "the upstream sent an event that is not JSON") from error
    if not isinstance(event, dict):
        raise UpstreamError("malformed", "the upstream sent an event that is not an object")
    if event.get("error"):
        raise error_from(None, event)
    return event


def _finishes(event: Mapping[str, Any]) -> bool:
    choices = event.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") is not None for choice in choices
    )


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__

"""Connections to one server, each of them one exchange's at a time.

httpx's own pool falls short in two ways under a server's load. It promises one idle connection to everybody who waits
and lets all but one of them try again, so that the last of many wait for seconds. And an exchange that is cancelled
just while its connection opens or closes leaves that connection in the pool for good.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

_KEPT_SECONDS = 20.0
"""How long a connection that nobody uses stays open."""


class Connections:
    """Lends httpx clients of one connection each. `options` are those of httpx.AsyncClient. Close it when done."""

    def __init__(self, **options: Any) -> None:
        self._options = {"verify": httpx.create_ssl_context(), **options}
        self._idle = deque[tuple[float, httpx.AsyncClient]]()
        self._closing = set[asyncio.Task[None]]()
        self._closed = False
        self.lent = 0
        """Clients that are in use."""

    @property
    def idle(self) -> int:
        """Clients that wait for their next use."""
        return len(self._idle)

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for one exchange at a time. If the block is cancelled, the client's connection is closed whatever
        state it is in; a response that is left in any other way has to be closed in the block."""
        client = self._taken()
        self.lent += 1
        try:
            yield client
        except Exception:
            self._give_back(client)
            raise
        except BaseException:
            await asyncio.shield(self._begin_to_close(client))
            raise
        else:
            self._give_back(client)
        finally:
            self.lent -= 1

    async def aclose(self) -> None:
        """Close what is idle and, once it is given back, what is lent; wait for what is being closed."""
        self._closed = True
        while self._idle:
            self._begin_to_close(self._idle.pop()[1])
        await asyncio.gather(*self._closing)

    def _taken(self) -> httpx.AsyncClient:
        """The one that was used last, so that those that are not needed grow old."""
        if self._idle:
            return self._idle.pop()[1]
        limits = httpx.Limits(max_connections=None, keepalive_expiry=_KEPT_SECONDS)
        return httpx.AsyncClient(**{"limits": limits, **self._options})

    def _give_back(self, client: httpx.AsyncClient) -> None:
        now = time.monotonic()
        self._idle.append((now, client))
        while self._idle and (self._closed or self._idle[0][0] < now - _KEPT_SECONDS):
            self._begin_to_close(self._idle.popleft()[1])

    def _begin_to_close(self, client: httpx.AsyncClient) -> "asyncio.Task[None]":
        """In a task of its own: nobody who is cancelled again interrupts it."""
        task = asyncio.create_task(client.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task


def credentials(url: str) -> tuple[str, str] | None:
    """The name and the password in an address."""
    parts = urlsplit(url)
    return None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))

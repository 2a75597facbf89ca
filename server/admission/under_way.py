"""Requests under way, each of which can be ended from outside with an error that its client understands."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextvars import ContextVar
from typing import Any, Protocol

from server import metrics
from server.endpoints import path_of
from server.refusals import Refusal

logger = logging.getLogger("drr")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

ABORT = "drr.abort"
"""The extension of a scope that drops the connection without waiting for what has not been read."""

_CLOSED = "the handler is closed"
"""uvloop's word of a connection that its client has just reset, before uvicorn knows."""

_SECONDS_TO_KNOW = 1.0
"""What uvicorn may take to hear of that."""

_SECONDS_TO_END = 5.0
"""What an application that was told that its client left may take before it is cancelled."""


class Exchange:
    """One request and its response. The application sees a client that leaves when `cut` is called; what it still
    sends is dropped, and the client is told why."""

    def __init__(
        self,
        app: App,
        scope: Any,
        receive: Receive,
        send: Send,
        first: list[Message],
        since: float,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`first` are the messages of `receive` that have been read already; `since` is when the request came, by the
        monotonic clock. `on_end` is called just before the last
        message is sent: what follows is no work, and whoever reads that message may ask again at once."""
        self._app, self._scope, self._receive_more, self._send_on = app, scope, receive, send
        self._first, self._on_end = list(first), on_end
        self._cut = asyncio.Event()
        self._refusal: Refusal | None = None
        self._begun = self._complete = self._streams = False
        self.since = since
        self.cut_by: str | None = None
        """Why the response was ended from outside, if it was."""
        self.request_id: str | None = None
        """The engine's name of the response, once it has one."""
        self.makers = 0
        """How many are at work on the response in the engine; each of them tells the log if it is cut off."""
        self.logged = False
        """Whether the log knows already that the response ended early."""
        self.sending_since: float | None = None
        """When the message was handed over that the client has not made room for yet."""

    def cut(self, refusal: Refusal | None, reason: str) -> None:
        """End the response, with this error, or without a word where the client does not listen. It is counted under
        `reason`, once."""
        if not self._cut.is_set():
            metrics.CUT.labels(reason).inc()
            self._refusal, self.cut_by = refusal, reason
            self._cut.set()

    async def run(self) -> None:
        """Have the application answer."""
        token = CURRENT.set(self)
        answering = asyncio.ensure_future(self._app(self._scope, self._receive, self._send))
        cutting = asyncio.ensure_future(self._cut.wait())
        try:
            await asyncio.wait({answering, cutting}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                await asyncio.wait({answering}, timeout=_SECONDS_TO_END)
        finally:
            CURRENT.reset(token)
            cutting.cancel()
            if not answering.done():
                answering.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await answering
        if not self._cut.is_set():
            answering.result()
            return
        if not self.logged and not self.makers:  # nothing was being generated
            named = {} if self.request_id is None else {"request_id": self.request_id}
            logger.warning("A response at %s was cut off by %s", path_of(self._scope), self.cut_by, extra=named)
        if not self._complete:
            await self._end()

    async def _receive(self) -> Message:
        if self._first:
            return self._first.pop(0)
        if self._cut.is_set():
            return {"type": "http.disconnect"}
        more, cut = asyncio.ensure_future(self._receive_more()), asyncio.ensure_future(self._cut.wait())
        try:
            await asyncio.wait({more, cut}, return_when=asyncio.FIRST_COMPLETED)
            return more.result() if more.done() else {"type": "http.disconnect"}
        finally:
            more.cancel()
            cut.cancel()

    async def _send(self, message: Message) -> None:
        if self._cut.is_set():
            return
        await self._hand_over(message)

    async def _hand_over(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
            self._begun, self._streams = True, any(kind.startswith(b"text/event-stream") for kind in kinds)
        is_last = message["type"] == "http.response.body" and not message.get("more_body")
        if is_last:
            self._on_end()
        self.sending_since = time.monotonic()
        try:
            await self._send_on(message)
        except RuntimeError as error:
            if _CLOSED not in str(error):
                raise
            await self._gone()
        finally:
            self.sending_since = None
        self._complete = self._complete or is_last

    async def _gone(self) -> None:
        """Wait until uvicorn knows, too, that the client has gone: it logs a response as never completed that ends
        before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS_TO_KNOW):
                while (await self._receive_more())["type"] != "http.disconnect":
                    pass

    async def _end(self) -> None:
        """Say why the response ends here, where that can still be said; else drop the connection."""
        try:
            async with asyncio.timeout(_SECONDS_TO_END):
                if await self._said():
                    return
        except TimeoutError:
            pass
        abort = self._scope.get("extensions", {}).get(ABORT)
        if abort is not None:
            abort()

    async def _said(self) -> bool:
        if self._refusal is None or (self._begun and not self._streams):
            return False
        if self._begun:
            event = self._refusal.event(path_of(self._scope))
            await self._hand_over({"type": "http.response.body", "body": event, "more_body": False})
        else:
            await self._refusal.response(path_of(self._scope))(self._scope, self._receive, self._hand_over)
        return True


CURRENT: ContextVar[Exchange | None] = ContextVar("drr_exchange", default=None)
"""The exchange that the running task works for."""


class Watched(Protocol):
    """What is under way: since when, by the monotonic clock, and since when its client has not read."""

    since: float
    sending_since: float | None

    def cut(self, refusal: Refusal | None, reason: str) -> None:
        """As Exchange.cut."""
        ...


class UnderWay:
    """All exchanges under way. A round every `tick` seconds ends those that take longer than `limit`, and those whose
    client has not read for `stall` seconds."""

    def __init__(self, limit: float | None, stall: float, tick: float = 0.25) -> None:
        self.limit, self._stall, self._tick = limit, stall, tick
        self._exchanges = set[Watched]()
        self._idle = asyncio.Event()
        self._idle.set()
        self._rounds: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._exchanges)

    @contextlib.contextmanager
    def holding(self, exchange: Watched) -> Iterator[None]:
        """While the block runs, this exchange is watched."""
        self._exchanges.add(exchange)
        self._idle.clear()
        if self._rounds is None:
            self._rounds = asyncio.create_task(self._go_round())
        try:
            yield
        finally:
            self._exchanges.discard(exchange)
            if not self._exchanges:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until there are none."""
        await self._idle.wait()

    def cut_all(self, refusal: Refusal) -> int:
        """End all of them with this error; returns how many."""
        for exchange in self._exchanges:
            exchange.cut(refusal, "shutdown")
        return len(self._exchanges)

    async def _go_round(self) -> None:
        while self._exchanges:
            await asyncio.sleep(self._tick)
            now = time.monotonic()
            for exchange in list(self._exchanges):
                if exchange.sending_since is not None and now - exchange.sending_since > self._stall:
                    exchange.cut(None, "stall")
                elif self.limit is not None and now - exchange.since > self.limit:
                    exchange.cut(too_long(self.limit), "time")
        self._rounds = None


def too_long(limit: float) -> Refusal:
    """What is said of a request that took longer than `limit` seconds."""
    message = f"The response took longer than the {limit:g} seconds that this server allows (--drr-request-seconds)."
    return Refusal(504, message, kind="timeout", code="request_timeout", headers={"x-should-retry": "false"})

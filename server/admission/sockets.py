"""WebSockets under way: each takes a place as a request does, is waited for when the server ends, and can be ended."""

import asyncio
import contextlib
import time

from server import metrics
from server.admission.under_way import App, Message, Receive, Send
from server.refusals import Refusal

POLICY_VIOLATION, GOING_AWAY, TRY_AGAIN = 1008, 1001, 1013
"""The codes with which a WebSocket is closed: it may not be opened, the server ends it, there is no place for it."""

_LONGEST_REASON = 120
"""Bytes; the protocol allows 123."""

_SECONDS_TO_END = 5.0


def closing(code: int, why: str) -> Message:
    """The message that closes a socket."""
    return {"type": "websocket.close", "code": code, "reason": why.encode()[:_LONGEST_REASON].decode(errors="ignore")}


class Socket:
    """One WebSocket from its opening on. It is watched like an exchange."""

    sending_since: float | None = None
    """A socket is never said to stall: what waits for its client is bounded by the server's own limits."""

    def __init__(self, app: App, scope: object, receive: Receive, send: Send) -> None:
        self._app, self._scope, self._receive, self._send = app, scope, receive, send
        self._cut = asyncio.Event()
        self._why = ""
        self.since = time.monotonic()

    def cut(self, refusal: Refusal | None, reason: str) -> None:
        """Close it, and tell why."""
        if not self._cut.is_set():
            metrics.CUT.labels(reason).inc()
            self._why = "" if refusal is None else refusal.message
            self._cut.set()

    async def run(self) -> None:
        """Have the application speak with the client."""
        speaking = asyncio.ensure_future(self._app(self._scope, self._receive, self._send))
        cutting = asyncio.ensure_future(self._cut.wait())
        try:
            await asyncio.wait({speaking, cutting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cutting.cancel()
            was_done = speaking.done()
            if not was_done:
                speaking.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await asyncio.wait_for(speaking, _SECONDS_TO_END)
        if was_done:
            speaking.result()
        else:
            with contextlib.suppress(Exception):  # the client may have gone
                await self._send(closing(GOING_AWAY, self._why))

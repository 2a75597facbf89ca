"""The door of the server: who has no key stays out, what is too large is not read, what is too much waits or is told
when to come again, and whoever is in gets an answer or a reason."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from server import metrics
from server.admission.api_keys import ApiKey, ApiKeys
from server.admission.bodies import Bodies, BodyLimits, LeftError, RefusedError
from server.admission.gate import FullError, Gate
from server.admission.shares import USING, Share, Shares
from server.admission.under_way import App, Exchange, Message, Receive, Send, UnderWay
from server.endpoints import endpoint_of
from server.refusals import Refusal, busy, unavailable

OPEN_PATHS = frozenset({"/health", "/live", "/ready", "/ping", "/version"})
"""What tells how the server is, and nothing else."""

METRICS_PATH = "/metrics"

_NO_KEY = Refusal(
    401,
    "A key that this server knows is needed: Authorization: Bearer KEY.",
    code="invalid_api_key",
    headers={"www-authenticate": "Bearer"},
)
_POLICY_VIOLATION = 1008
"""The code with which a WebSocket is closed that may not be opened."""


@dataclass(slots=True)
class Door:
    """The state of the server's admission. `open_paths` are served to everybody."""

    keys: ApiKeys
    bodies: Bodies
    gate: Gate
    under_way: UnderWay
    open_paths: frozenset[str] = OPEN_PATHS | {METRICS_PATH}
    shares: Shares = field(default_factory=Shares)
    closed: Refusal | None = None
    """Why nothing new is begun; None while the server takes requests."""

    @classmethod
    def of(
        cls, keys: ApiKeys, limits: BodyLimits, gate: Gate, under_way: UnderWay, *, protect_metrics: bool = False
    ) -> "Door":
        paths = OPEN_PATHS if protect_metrics else OPEN_PATHS | {METRICS_PATH}
        return cls(keys, Bodies(limits), gate, under_way, paths)


class Admission:
    """ASGI middleware: whatever reaches the application has passed the door."""

    def __init__(self, app: App, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        key = None
        if self._door.keys and path not in self._door.open_paths and scope.get("method") != "OPTIONS":
            key = self._door.keys.find(scope["headers"])
            if key is None:
                await self._refuse(_NO_KEY, scope, receive, send)
                return
        if scope["type"] == "websocket" or scope["method"] != "POST":
            await self._app(scope, receive, send)
        else:
            await self._posted(path, key, scope, receive, send)

    async def _posted(self, path: str, key: ApiKey | None, scope: Any, receive: Receive, send: Send) -> None:
        door = self._door
        if door.closed is not None:
            await self._refuse(door.closed, scope, receive, send)
            return
        held = door.bodies.holding()
        try:
            body = await door.bodies.read(scope, receive, held)
            if endpoint_of(path).thinks:
                await self._in_turn(key, scope, receive, send, body)
            else:
                await self._answer(scope, receive, send, body)
        except RefusedError as error:
            await self._refuse(error.refusal, scope, receive, send)
        except LeftError:
            metrics.REFUSED.labels("left").inc()
        finally:
            held.let_go()

    async def _in_turn(self, key: ApiKey | None, scope: Any, receive: Receive, send: Send, body: list[Message]) -> None:
        """Answer when it is this request's turn. RefusedError where it does not get one."""
        door, share = self._door, None if key is None else self._door.shares.of(key)
        refusal = None if share is None else share.refusal()
        if refusal is not None:
            raise RefusedError(refusal)
        with _counted(share):
            await self._turn(receive)
            place = _Place(door.gate)
            try:
                if door.closed is not None:
                    raise RefusedError(door.closed)
                with_limits = send if share is None else _with_headers(share, send)
                await self._answer(scope, receive, with_limits, body, place.free)
            finally:
                place.free()

    async def _turn(self, receive: Receive) -> None:
        """Wait until it is this request's turn. LeftError where its client does not wait as long, RefusedError where
        there is no place to wait."""
        gate = self._door.gate
        if gate.entered():
            return
        turn, left = asyncio.ensure_future(gate.turn()), asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({turn, left}, return_when=asyncio.FIRST_COMPLETED)
            if not turn.done():
                raise LeftError
            turn.result()
        except FullError as error:
            told = "The server has as many requests as it can serve and keep waiting."
            raise RefusedError(busy(told, error.seconds)) from error
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                gate.leave(0.0)
            raise
        finally:
            left.cancel()
            turn.cancel()

    async def _answer(
        self,
        scope: Any,
        receive: Receive,
        send: Send,
        body: list[Message],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        exchange = Exchange(self._app, scope, receive, send, body, on_end)
        with self._door.under_way.holding(exchange):
            await exchange.run()

    async def _refuse(self, refusal: Refusal, scope: Any, receive: Receive, send: Send) -> None:
        metrics.REFUSED.labels(str(refusal.status)).inc()
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": refusal.message})
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        await refusal.response(path)(scope, receive, send)


class _Place:
    """One request's place behind the gate, which is given up once."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._begun = gate, time.monotonic()
        self._is_free = False

    def free(self) -> None:
        if not self._is_free:
            self._is_free = True
            self._gate.leave(time.monotonic() - self._begun)


@contextlib.contextmanager
def _counted(share: Share | None) -> Iterator[None]:
    """While the block runs, a request of this share is under way, and what it uses is told to the share."""
    if share is None:
        yield
        return
    share.running += 1
    token = USING.set(share if share.counts else None)
    try:
        yield
    finally:
        USING.reset(token)
        share.running -= 1


async def _left(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _with_headers(share: Share, send: Send) -> Send:
    """`send` that tells, with the response, what is left of a limit."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [(name.encode(), value.encode()) for name, value in share.headers().items()]
            message = {**message, "headers": [*message["headers"], *own]}
        await send(message)

    return sent


def draining(seconds: float) -> Refusal:
    """What is said to whoever comes while the server finishes what it has begun."""
    return unavailable("The server is being shut down and begins nothing new.", seconds)

"""The door of the server: who has no key stays out, what is too large is not read, what is too much waits or is told
when to come again, and whoever is in gets an answer or a reason."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from server import metrics
from server.admission.api_keys import ApiKey, ApiKeys
from server.admission.bodies import Bodies, BodyLimits, LeftError, RefusedError
from server.admission.branches import BRANCHES, Branches
from server.admission.gate import FullError, Gate
from server.admission.shares import USING, Share, Shares
from server.admission.sockets import POLICY_VIOLATION, TRY_AGAIN, Socket, closing
from server.admission.under_way import App, Exchange, Message, Receive, Send, UnderWay, too_long
from server.endpoints import endpoint_of, path_of
from server.refusals import Refusal, busy, unavailable

OPEN_PATHS = frozenset({"/health", "/live", "/ready", "/ping", "/version"})
"""What tells how the server is, and nothing else."""

METRICS_PATH = "/metrics"
_READING = ("GET", "HEAD")

_NO_KEY = Refusal(
    401,
    "A key that this server knows is needed: Authorization: Bearer KEY.",
    code="invalid_api_key",
    headers={"www-authenticate": "Bearer"},
)
MOST_BRANCHES = 256
"""Sequences that one request may have made, where nobody says otherwise."""


@dataclass(slots=True)
class Door:
    """The state of the server's admission. `open_paths` are served to everybody."""

    keys: ApiKeys
    bodies: Bodies
    gate: Gate
    under_way: UnderWay
    open_paths: frozenset[str] = OPEN_PATHS | {METRICS_PATH}
    shares: Shares = field(default_factory=Shares)
    most_branches: int = MOST_BRANCHES
    """Sequences that one request may have made."""
    closed: Refusal | None = None
    """Why nothing new is begun; None while the server takes requests."""

    def close(self, refusal: Refusal) -> None:
        """Begin nothing new, for this reason: not for those either who wait for their turn."""
        self.closed = refusal
        self.gate.close(RefusedError(refusal))

    @classmethod
    def of(
        cls,
        keys: ApiKeys,
        limits: BodyLimits,
        gate: Gate,
        under_way: UnderWay,
        *,
        protect_metrics: bool = False,
        most_branches: int = MOST_BRANCHES,
        also_open: frozenset[str] = frozenset(),
    ) -> "Door":
        paths = OPEN_PATHS if protect_metrics else OPEN_PATHS | {METRICS_PATH}
        return cls(keys, Bodies(limits), gate, under_way, paths | also_open, most_branches=most_branches)


class Admission:
    """ASGI middleware: whatever reaches the application has passed the door."""

    def __init__(self, app: App, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path = path_of(scope)
        key = None
        is_open = path in self._door.open_paths and scope.get("method") in _READING
        if self._door.keys and not is_open:
            key = self._door.keys.find(scope["headers"])
            if key is None:
                await self._refuse(_NO_KEY, scope, receive, send)
                return
        if scope["type"] == "websocket":
            await self._socket(key, scope, receive, send)
        elif scope["method"] != "POST" or path in OPEN_PATHS:
            await self._app(scope, receive, send)
        else:
            await self._posted(path, key, scope, receive, send)

    async def _socket(self, key: ApiKey | None, scope: Any, receive: Receive, send: Send) -> None:
        """A WebSocket takes a place for as long as it is open; it is not kept waiting for one."""
        door, share = self._door, None if key is None else self._door.shares.of(key)
        refusal = door.closed or (None if share is None else share.refusal())
        if refusal is None and not door.gate.is_open:
            refusal = busy("The server has as many requests as it can serve.", 1.0)
        if refusal is not None:
            await self._refuse(refusal, scope, receive, send)
            return
        with _counted(share, door.most_branches) as place:
            await door.gate.turn()
            place.enter(door.gate)
            socket = Socket(self._app, scope, receive, send)
            with door.under_way.holding(socket):
                await socket.run()

    async def _posted(self, path: str, key: ApiKey | None, scope: Any, receive: Receive, send: Send) -> None:
        door, begun = self._door, time.monotonic()
        if door.closed is not None:
            await self._refuse(door.closed, scope, receive, send)
            return
        held = door.bodies.holding()
        try:
            body = await door.bodies.read(scope, receive, held)
            if endpoint_of(path).thinks:
                await self._in_turn(key, scope, receive, send, body, begun)
            else:
                await self._answer(scope, receive, send, body, begun)
        except RefusedError as error:
            await self._refuse(error.refusal, scope, receive, send)
        except LeftError:
            metrics.REFUSED.labels("left").inc()
        finally:
            held.let_go()

    async def _in_turn(
        self, key: ApiKey | None, scope: Any, receive: Receive, send: Send, body: list[Message], begun: float
    ) -> None:
        """Answer when it is this request's turn. RefusedError where it does not get one."""
        door, share = self._door, None if key is None else self._door.shares.of(key)
        refusal = None if share is None else share.refusal()
        if refusal is not None:
            raise RefusedError(refusal)
        with _counted(share, door.most_branches) as place:
            await self._turn(receive, begun)
            place.enter(door.gate)
            if door.closed is not None:
                raise RefusedError(door.closed)
            with_limits = send if share is None else _with_headers(send, share.headers)
            await self._answer(scope, receive, with_limits, body, begun, place.free)

    async def _turn(self, receive: Receive, begun: float) -> None:
        """Wait until it is this request's turn. LeftError where its client does not wait as long, RefusedError where
        there is no place to wait, or its time is over."""
        gate, limit = self._door.gate, self._door.under_way.limit
        try:
            turn = gate.turn()
        except FullError as error:
            told = "The server has as many requests as it can serve and keep waiting."
            raise RefusedError(busy(told, error.seconds)) from error
        if turn.done():
            return
        left = asyncio.ensure_future(_left(receive))
        try:
            timeout = None if limit is None else max(0.0, limit - (time.monotonic() - begun))
            await asyncio.wait({turn, left}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if left.done() and not turn.done():
                raise LeftError
            if not turn.done():
                assert limit is not None
                raise RefusedError(too_long(limit))
            turn.result()
        except BaseException:
            gate.give_up(turn)
            raise
        finally:
            left.cancel()

    async def _answer(
        self,
        scope: Any,
        receive: Receive,
        send: Send,
        body: list[Message],
        begun: float,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        exchange = Exchange(self._app, scope, receive, _with_headers(send, self._last_headers), body, begun, on_end)
        with self._door.under_way.holding(exchange):
            await exchange.run()

    def _last_headers(self) -> dict[str, str]:
        """What a response says that begins when the door is closed: it is its connection's last."""
        return {} if self._door.closed is None else {"connection": "close"}

    async def _refuse(self, refusal: Refusal, scope: Any, receive: Receive, send: Send) -> None:
        metrics.REFUSED.labels(str(refusal.status)).inc()
        if scope["type"] == "websocket":
            code = POLICY_VIOLATION if refusal.status == 401 else TRY_AGAIN
            await send(closing(code, refusal.message))
            return
        if refusal.status != 429:  # what is left of the body is never read: the connection cannot be used again
            refusal = refusal.closing()
        await refusal.response(path_of(scope))(scope, receive, send)


class _Place:
    """What one request takes of its key's share, and behind the gate. It is given up once."""

    def __init__(self, share: Share | None) -> None:
        self._share, self._begun = share, 0.0
        self._gate: Gate | None = None
        self._is_free = False
        if share is not None:
            share.running += 1

    def enter(self, gate: Gate) -> None:
        """It is behind the gate, too."""
        self._gate, self._begun = gate, time.monotonic()

    def free(self) -> None:
        if self._is_free:
            return
        self._is_free = True
        if self._share is not None:
            self._share.running -= 1
        if self._gate is not None:
            self._gate.leave(time.monotonic() - self._begun)


@contextlib.contextmanager
def _counted(share: Share | None, most_branches: int) -> Iterator[_Place]:
    """A request's place, given up at the end of the block at the latest; within it what is used is told to the share,
    and so many branches may be made."""
    place = _Place(share)
    token = USING.set(share if share is not None and share.counts else None)
    branching = BRANCHES.set(Branches(most_branches))
    try:
        yield place
    finally:
        USING.reset(token)
        BRANCHES.reset(branching)
        place.free()


async def _left(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _with_headers(send: Send, headers: Callable[[], Mapping[str, str]]) -> Send:
    """`send` that adds to a response what `headers` gives when it begins."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [(name.encode(), value.encode()) for name, value in headers().items()]
            message = {**message, "headers": [*message["headers"], *own]}
        await send(message)

    return sent


def draining(seconds: float) -> Refusal:
    """What is said to whoever comes while the server finishes what it has begun."""
    return unavailable("The server is being shut down and begins nothing new.", seconds)

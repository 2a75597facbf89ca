"""An ASGI client by hand: what it sends, what it gets, when it leaves, when it does not read."""

import asyncio
import json
from typing import Any

from server.admission.api_keys import ApiKeys
from server.admission.bodies import BodyLimits
from server.admission.gate import Gate
from server.admission.middleware import Admission, Door
from server.admission.under_way import UnderWay

LIMITS = BodyLimits(size=1000, messages=4, seconds=0.2, together=2000)


def door(
    keys: ApiKeys | None = None,
    limits: BodyLimits = LIMITS,
    running: int = 2,
    waiting: int = 1,
    seconds: float | None = None,
    stall: float = 5.0,
    *,
    protect_metrics: bool = False,
) -> Door:
    watch = UnderWay(seconds, stall, tick=0.02)
    return Door.of(keys or ApiKeys(), limits, Gate(running, waiting), watch, protect_metrics=protect_metrics)


_STREAM = [(b"content-type", b"text/event-stream")]


class Client:
    """One request to an app."""

    def __init__(
        self,
        app: Any,
        body: bytes = b"{}",
        path: str = "/v1/chat/completions",
        method: str = "POST",
        headers: dict[str, str] | None = None,
        chunks: list[bytes] | None = None,
    ) -> None:
        self.messages: list[Any] = []
        self.aborted = False
        self.reads = asyncio.Event()
        self.reads.set()
        self._left = asyncio.Event()
        parts = chunks if chunks is not None else [body]
        self._parts = [
            {"type": "http.request", "body": part, "more_body": place + 1 < len(parts)}
            for place, part in enumerate(parts)
        ]
        given = {} if chunks is not None else {"content-length": str(len(body))}
        given |= headers or {}
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "root_path": "",
            "query_string": b"",
            "headers": [
                (name.lower().encode(), value.encode()) for name, value in {**given, **(headers or {})}.items()
            ],
            "extensions": {"drr.abort": self._abort},
        }
        self.task = asyncio.ensure_future(app(self.scope, self.receive, self.send))

    def _abort(self) -> None:
        self.aborted = True

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> Any:
        if self._parts:
            return self._parts.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        self.messages.append(message)

    async def done(self) -> "Client":
        await asyncio.wait_for(self.task, 5)
        return self

    @property
    def status(self) -> int | None:
        return self.messages[0]["status"] if self.messages else None

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.messages[1:]).decode()

    @property
    def complete(self) -> bool:
        return len(self.messages) > 1 and not self.messages[-1].get("more_body")

    @property
    def error(self) -> Any:
        return json.loads(self.text)["error"]


class Answering:
    """An application. It reads the body, waits for `may_end`, and answers: whole, or as a stream that has begun."""

    def __init__(self, *, streams: bool = False) -> None:
        self.may_end = asyncio.Event()
        self.begun = 0
        self.running = 0
        self.bodies: list[bytes] = []
        self.left = 0
        self._streams = streams

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        self.running += 1
        try:
            self.bodies.append(await self._body(receive))
            if self._streams:
                await send(
                    {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
                )
                await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
            leaving = asyncio.ensure_future(self._left(receive))
            ending = asyncio.ensure_future(self.may_end.wait())
            done, _ = await asyncio.wait({leaving, ending}, return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
            ending.cancel()
            if leaving in done:
                self.left += 1
                return
            if not self._streams:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"done", "more_body": False})
        finally:
            self.running -= 1

    async def _body(self, receive: Any) -> bytes:
        parts = []
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b"".join(parts)
            parts.append(message["body"])
            if not message["more_body"]:
                return b"".join(parts)

    async def _left(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


def guarded(app: Any, of: Door | None = None) -> tuple[Admission, Door]:
    found = of or door()
    return Admission(app, found), found


async def until(true: Any, seconds: float = 3.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

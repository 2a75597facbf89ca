"""WebSockets: they need a key, take a place, are waited for, and are ended with a word."""

import asyncio
from typing import Any

import pytest

from server.admission.api_keys import ApiKeys
from server.admission.middleware import Admission, Door, draining
from server.refusals import unavailable
from tests.server.admission.asgi import door, until

KEY = (b"authorization", b"Bearer " + b"k" * 16)


class Speaking:
    """An application that speaks until it may end."""

    def __init__(self) -> None:
        self.may_end, self.open = asyncio.Event(), 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.open += 1
        try:
            await send({"type": "websocket.accept"})
            await self.may_end.wait()
            await send({"type": "websocket.close", "code": 1000})
        finally:
            self.open -= 1


def opened(app: Any, of: Door, *headers: tuple[bytes, bytes]) -> tuple["asyncio.Task[None]", list[Any]]:
    sent = list[Any]()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": list(headers)}
    return asyncio.ensure_future(Admission(app, of)(scope, receive, send)), sent


async def test_a_socket_takes_a_place_and_there_are_so_many_only() -> None:
    app, of = Speaking(), door(ApiKeys(["k" * 16]), running=1)
    first, sent = opened(app, of, KEY)
    await until(lambda: app.open == 1)
    assert (of.gate.running, len(of.under_way)) == (1, 1)
    second, refused = opened(app, of, KEY)
    await asyncio.wait_for(second, 5)
    assert [(message["type"], message["code"]) for message in refused] == [("websocket.close", 1013)]
    third, refused = opened(app, of)
    await asyncio.wait_for(third, 5)
    assert refused[0]["code"] == 1008
    app.may_end.set()
    await asyncio.wait_for(first, 5)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert (of.gate.running, len(of.under_way)) == (0, 0)


async def test_a_server_that_ends_waits_for_sockets_and_then_closes_them() -> None:
    app, of = Speaking(), door()
    task, sent = opened(app, of)
    await until(lambda: app.open == 1)
    of.close(draining(1))
    late, refused = opened(app, of)
    await asyncio.wait_for(late, 5)
    assert "being shut down" in refused[0]["reason"]
    idle = asyncio.ensure_future(of.under_way.idle())
    await asyncio.sleep(0.02)
    assert not idle.done()
    assert of.under_way.cut_all(unavailable("The end. " * 50)) == 1
    await asyncio.wait_for(task, 5)
    await asyncio.wait_for(idle, 5)
    assert (sent[-1]["code"], len(sent[-1]["reason"])) == (1001, 120)
    assert (app.open, of.gate.running) == (0, 0)


async def test_a_socket_has_its_time() -> None:
    app, of = Speaking(), door(seconds=0.05)
    task, sent = opened(app, of)
    await asyncio.wait_for(task, 5)
    assert "longer than" in sent[-1]["reason"]


async def test_what_the_application_raises_comes_through() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("broken")

    of = door()
    task, _ = opened(broken, of)
    with pytest.raises(ValueError, match="broken"):
        await asyncio.wait_for(task, 5)
    assert (of.gate.running, len(of.under_way)) == (0, 0)

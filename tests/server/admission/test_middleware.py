"""The door: who comes in, who waits, who is told what; and that everybody who is in gets an answer or a reason."""

import asyncio
import json

import pytest

from server import metrics
from server.admission.api_keys import ApiKeys, KeyLimits
from server.admission.middleware import draining
from server.admission.shares import USING
from server.admission.under_way import Exchange
from server.refusals import unavailable
from tests.server.admission.asgi import Answering, Client, door, guarded, until

KEY = {"authorization": "Bearer alice-alice-alice-1"}


async def test_a_body_arrives_as_it_was_sent() -> None:
    app = Answering()
    app.may_end.set()
    guard, of = guarded(app)
    client = await Client(guard, chunks=[b"{", b'"a"', b": 1}"]).done()
    assert (client.status, client.text, app.bodies) == (200, "done", [b'{"a": 1}'])
    assert (of.bodies.held, len(of.under_way), of.gate.running) == (0, 0, 0)


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/invocations", "/tokenize", "/scale_elastic_ep", "/docs", "/"]
)
async def test_every_path_needs_a_key(path: str) -> None:
    app = Answering()
    app.may_end.set()
    guard, _ = guarded(app, door(ApiKeys(["alice-alice-alice-1"])))
    for method in ("GET", "POST", "DELETE"):
        refused = await Client(guard, path=path, method=method).done()
        assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == "Bearer"
    assert app.begun == 0
    assert (await Client(guard, path=path, headers=KEY).done()).status == 200


async def test_what_tells_of_the_server_needs_none() -> None:
    app = Answering()
    app.may_end.set()
    for protect, status in ((False, 200), (True, 401)):
        guard, _ = guarded(app, door(ApiKeys(["k" * 16]), protect_metrics=protect))
        assert (await Client(guard, path="/metrics", method="GET").done()).status == status
        for path in ("/health", "/live", "/ready", "/ping", "/version"):
            assert (await Client(guard, path=path, method="GET").done()).status == 200
            assert (await Client(guard, path=path, method="POST").done()).status == 401
        assert (await Client(guard, path="/metrics", method="OPTIONS").done()).status == 401


async def test_errors_have_the_shape_that_the_client_expects() -> None:
    guard, of = guarded(Answering(), door(ApiKeys(["k" * 16])))
    client = await Client(guard, path="/v1/messages").done()
    assert json.loads(client.text) == {
        "type": "error",
        "error": {"type": "authentication_error", "message": client.error["message"]},
    }
    assert b"event: error" in unavailable("gone").event("/v1/messages")
    assert b'"type": "error"' in unavailable("gone").event("/v1/responses")
    assert unavailable("gone").event("/v1/chat/completions").endswith(b"data: [DONE]\n\n")
    assert of.gate.running == 0


async def test_large_bodies_are_not_read() -> None:
    app = Answering()
    app.may_end.set()
    guard, of = guarded(app)
    announced = Client(guard, body=b"x" * 1001)
    assert ((await announced.done()).status, announced.error["code"]) == (413, "request_too_large")
    assert len(announced._parts) == 1  # nothing of it was read
    told = await Client(guard, chunks=[b"x" * 400] * 4).done()
    assert told.status == 413
    assert (await Client(guard, body=b"x" * 1000).done()).status == 200
    many = await Client(guard, body=json.dumps({"messages": [{"role": "user"}] * 5}).encode()).done()
    assert (many.status, many.error["param"]) == (400, "messages")
    spoken = json.dumps({"messages": [{"role": "user", "content": json.dumps([{"role": 1}] * 9)}]}).encode()
    assert (await Client(guard, body=spoken).done()).status == 200  # a text may speak of roles
    wide = await Client(guard, body=json.dumps({"messages": [{"role": "user"}] * 5}).encode("utf-16")).done()
    assert (wide.status, wide.error["param"]) == (400, "body")
    assert of.bodies.held == 0


async def test_who_manages_does_not_wait_behind_those_who_generate() -> None:
    app = Answering()
    guard, of = guarded(app, door(running=1, waiting=0))
    inside = Client(guard)
    await until(lambda: app.begun == 1)
    resume = Client(guard, path="/resume")
    await until(lambda: app.begun == 2)
    assert (of.gate.running, of.gate.waiting) == (1, 0)
    app.may_end.set()
    assert (await resume.done()).status == (await inside.done()).status == 200


async def test_all_bodies_together_are_limited() -> None:
    app = Answering()
    guard, of = guarded(app, door(running=9))
    inside = [Client(guard, body=b"x" * 900) for _ in range(2)]
    await until(lambda: app.begun == 2)
    assert (await Client(guard, body=b"x" * 900).done()).status == 503
    app.may_end.set()
    for client in inside:
        assert (await client.done()).status == 200
    assert of.bodies.held == 0


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    guard, of = guarded(Answering())
    slow = Client(guard, chunks=[b"{"])
    slow._parts[0]["more_body"] = True
    assert (await slow.done()).status == 408
    left = Client(guard, chunks=[b"{"])
    left._parts[0]["more_body"] = True
    left.leave()
    assert (await left.done()).messages == []
    assert (of.bodies.held, of.gate.running) == (0, 0)


async def test_more_than_can_wait_are_told_when_to_come_again() -> None:
    app = Answering()
    guard, of = guarded(app)
    clients = [Client(guard) for _ in range(3)]
    await until(lambda: app.begun == 2 and of.gate.waiting == 1)
    refused = await Client(guard).done()
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    assert 0 < int(refused.headers["retry-after-ms"]) <= 1000 * int(refused.headers["retry-after"])
    app.may_end.set()
    for client in clients:
        assert (await client.done()).status == 200
    assert (of.gate.running, of.gate.waiting) == (0, 0)


async def test_who_has_the_last_word_may_ask_again_at_once() -> None:
    """The place is free before the client can know that its response is complete."""
    app = Answering()
    app.may_end.set()
    guard, of = guarded(app, door(running=1, waiting=0))
    running = []

    async def send(message: object) -> None:
        running.append(of.gate.running)

    client = Client(guard)
    await client.done()
    client = Client(guard)
    client.send = send  # type: ignore[method-assign,assignment]
    await guard(client.scope, Client(guard).receive, send)
    assert running == [1, 0]
    assert of.gate.running == 0


async def test_a_place_that_becomes_free_in_the_same_moment_is_not_lost() -> None:
    app = Answering()
    guard, of = guarded(app, door(running=1, waiting=2))
    first = Client(guard)
    await until(lambda: app.begun == 1)
    second = Client(guard)
    app.may_end.set()
    third = Client(guard)
    for client in (first, second, third):
        assert (await client.done()).status == 200
    assert (of.gate.running, of.gate.waiting) == (0, 0)


async def test_the_wait_for_a_turn_counts() -> None:
    app = Answering()
    guard, _ = guarded(app, door(running=1, waiting=2, seconds=0.2))
    clients = [Client(guard) for _ in range(3)]
    begun = asyncio.get_running_loop().time()
    for client in clients:
        assert (await client.done()).status == 504
    assert asyncio.get_running_loop().time() - begun < 0.5


async def test_a_key_s_place_is_free_before_the_last_byte_is_sent() -> None:
    app = Answering()
    app.may_end.set()
    guard, of = guarded(app, door(ApiKeys(["alice-alice-alice-1"], None, KeyLimits(running=1))))
    running = []

    async def send(message: object) -> None:
        running.append(next(iter(of.shares._by_name.values())).running)

    client = Client(guard, headers=KEY)
    await client.done()
    await guard(client.scope, Client(guard).receive, send)
    assert running == [1, 0]


async def test_what_is_cut_is_counted_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("server.admission.under_way._SECONDS_TO_END", 0.2)

    async def deaf(scope: object, receive: object, send: object) -> None:
        await asyncio.Event().wait()

    guard, _ = guarded(deaf, door(seconds=0.05))
    before = metrics.CUT.labels("time")._value.get()
    await Client(guard).done()
    assert metrics.CUT.labels("time")._value.get() == before + 1
    assert [line for line in caplog.messages if "cut off" in line] == [
        "A response at /v1/chat/completions was cut off by time"
    ]


async def test_who_leaves_while_waiting_is_not_answered() -> None:
    app = Answering()
    guard, of = guarded(app, door(running=1, waiting=2))
    first, second, third = (Client(guard) for _ in range(3))
    await until(lambda: of.gate.waiting == 2)
    second.leave()
    await second.done()
    assert (of.gate.waiting, second.messages) == (1, [])
    app.may_end.set()
    assert (await third.done()).status == (await first.done()).status == 200
    assert app.begun == 2
    assert (of.gate.running, of.gate.waiting) == (0, 0)


async def test_who_is_cancelled_while_waiting_gives_the_place_on() -> None:
    app = Answering()
    guard, of = guarded(app, door(running=1, waiting=2))
    first, second, third = (Client(guard) for _ in range(3))
    await until(lambda: of.gate.waiting == 2)
    app.may_end.set()
    second.task.cancel()
    await asyncio.gather(second.task, return_exceptions=True)
    assert (await third.done()).status == (await first.done()).status == 200
    assert (of.gate.running, of.gate.waiting) == (0, 0)


async def test_a_key_has_its_share() -> None:
    app = Answering()
    keys = ApiKeys(["alice-alice-alice-1", "b" * 16], None, KeyLimits(running=1, tokens=60))
    guard, of = guarded(app, door(keys, running=9))
    first = Client(guard, headers=KEY)
    await until(lambda: app.begun == 1)
    assert (await Client(guard, headers=KEY).done()).error["type"] == "requests"
    other = Client(guard, headers={"authorization": f"Bearer {'b' * 16}"})
    app.may_end.set()
    assert (await other.done()).status == 200
    assert (await first.done()).headers["x-ratelimit-limit-tokens"] == "60"

    async def uses(scope: object, receive: object, send: object) -> None:
        share = USING.get()
        assert share is not None
        await asyncio.create_task(asyncio.to_thread(share.use, 500))
        await Answering.__call__(app, scope, receive, send)

    guard, _ = guarded(uses, of)
    assert (await Client(guard, headers=KEY).done()).status == 200
    assert (await Client(guard, headers=KEY).done()).error["type"] == "tokens"
    assert USING.get() is None


@pytest.mark.parametrize("streams", [True, False])
async def test_what_takes_too_long_ends_with_a_reason(streams: bool) -> None:
    app = Answering(streams=streams)
    guard, of = guarded(app, door(seconds=0.05))
    client = await Client(guard).done()
    assert client.complete
    if streams:
        error, end = client.text.removeprefix("data: {}\n\n").split("\n\n")[:2]
        assert (json.loads(error.removeprefix("data: "))["error"]["code"], end) == ("request_timeout", "data: [DONE]")
    else:
        assert (client.status, client.headers["x-should-retry"]) == (504, "false")
    assert (app.left, app.running, len(of.under_way), of.gate.running) == (1, 0, 0, 0)


async def test_who_does_not_read_is_dropped() -> None:
    app = Answering(streams=True)
    guard, of = guarded(app, door(stall=0.05))
    client = Client(guard)
    client.reads.clear()
    async with asyncio.timeout(8):
        await client.task
    assert client.aborted
    assert (app.running, len(of.under_way), of.gate.running) == (0, 0, 0)


async def test_an_application_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.admission.under_way._SECONDS_TO_END", 0.05)
    ended = asyncio.Event()

    async def deaf(scope: object, receive: object, send: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    guard, of = guarded(deaf, door(seconds=0.05))
    client = await Client(guard).done()
    assert (client.status, ended.is_set(), of.gate.running) == (504, True, 0)


async def test_errors_of_the_application_come_through() -> None:
    async def broken(scope: object, receive: object, send: object) -> None:
        raise ValueError("broken")

    guard, of = guarded(broken)
    client = Client(guard)
    with pytest.raises(ValueError, match="broken"):
        await client.done()
    assert (of.gate.running, len(of.under_way), of.bodies.held) == (0, 0, 0)


async def test_a_closed_door_lets_finish_what_is_inside() -> None:
    app = Answering()
    guard, of = guarded(app, door(running=1))
    inside, waiting = Client(guard), Client(guard)
    await until(lambda: of.gate.waiting == 1)
    of.close(draining(7))
    assert (await waiting.done()).status == 503  # at once: what it waited for will not come
    late = await Client(guard).done()
    assert (late.status, late.headers["retry-after"], late.headers["connection"]) == (503, "7", "close")
    app.may_end.set()
    assert (await inside.done()).status == 200
    assert of.gate.running == 0


async def test_a_socket_needs_a_key_too() -> None:
    app = Answering()
    guard, _ = guarded(app, door(ApiKeys(["k" * 16])))
    sent = []

    async def send(message: object) -> None:
        sent.append(message)

    await guard({"type": "websocket", "path": "/v1/realtime", "headers": []}, lambda: None, send)  # type: ignore[arg-type,return-value]
    assert [message["type"] for message in sent] == ["websocket.close"]  # type: ignore[index]
    assert app.begun == 0


async def test_who_resets_the_connection_while_it_is_answered_is_no_error() -> None:
    """uvloop knows before uvicorn, and says so by an error that no handler can do anything about."""
    app = Answering()
    app.may_end.set()
    for said, is_error in (("unable to perform operation; the handler is closed", False), ("something else", True)):
        gone = asyncio.Event()
        told = list[str]()

        async def closed(message: object, said: str = said, gone: asyncio.Event = gone) -> None:
            gone.set()
            raise RuntimeError(said)

        async def leaves(gone: asyncio.Event = gone, told: list[str] = told) -> dict[str, object]:
            await gone.wait()
            await asyncio.sleep(0.05)
            told.append("left")
            return {"type": "http.disconnect"}

        scope = {"type": "http", "path": "/v1/chat/completions", "root_path": "", "headers": []}
        body = {"type": "http.request", "body": b"{}", "more_body": False}
        exchange = Exchange(app, scope, leaves, closed, [body], 0.0)
        if is_error:
            with pytest.raises(RuntimeError, match=said):
                await exchange.run()
        else:
            await exchange.run()
            assert told, "uvicorn, which calls it an error where a response ends before, has heard of it"

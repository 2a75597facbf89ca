"""Whatever an upstream does, its clients get a complete answer or a clean error; and nothing is left open there."""

import asyncio
import contextlib
import json
import random
from collections import deque
from typing import Any

import psutil
import pytest

from tests.upstream.serving import QUESTION, Served, WordDm, serving
from tests.upstream.vendors import MODEL, Anthropic, DeepSeek, Fault, OpenAI, OpenEngine, Said, Vendor, in_turn

SAID = Said("Seventeen and four.\n\nThat is 21, so it is.", "The answer is 21, as everybody knows.")
VENDORS = [OpenAI, Anthropic, DeepSeek, OpenEngine]
BELIEFS = {"21": 0.9}

ONCE = {
    "429": Fault(status=429, retry_after="0"),
    "503": Fault(status=503, retry_after="0"),
    "cut at once": Fault(cut=True, after=0),
    "cut": Fault(cut=True),
    "malformed": Fault(malformed=True),
    "error": Fault(error=True),
    "no usage": Fault(no_usage=True),
    "slow": Fault(slow=0.02),
}
PASSES = {"429", "503", "no usage", "slow"}
"""Faults behind which there is a complete answer in any case."""

ALWAYS = {
    "429": (Fault(status=429, retry_after="0"), 429),
    "503": (Fault(status=503, retry_after="0"), 503),
    "500": (Fault(status=500), 503),
    "401": (Fault(status=401), 502),
    "cut at once": (Fault(cut=True, after=0), 502),
    "malformed": (Fault(malformed=True, after=0), 502),
    "silent": (Fault(slow=60.0), 504),
}


def told(response: Any) -> tuple[str | None, dict[str, Any] | None]:
    """The answer and the error of a whole response or of a stream, which has to end with [DONE]."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        reply = response.json()
        return (None, reply["error"]) if "error" in reply else (reply["choices"][0]["message"]["content"], None)
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    errors = [chunk["error"] for chunk in chunks if "error" in chunk]
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk.get("choices"))
    return (None, errors[0]) if errors else (said, None)


async def closed(served: Served) -> None:
    """Nothing is left open, here or there."""
    async with asyncio.timeout(20):
        while served.vendor.open or served.client.open:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def connected(served: Served) -> int:
    """Connections to the vendor."""
    port = int(served.client.url.partition("//")[2].partition("/")[0].rpartition(":")[2])
    found = psutil.Process().net_connections("tcp")
    return sum(one.status == psutil.CONN_ESTABLISHED and one.raddr[1:] == (port,) for one in found)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", VENDORS)
async def test_every_fault_ends_in_an_answer_or_in_an_error(kind: type[Vendor], stream: bool) -> None:
    async with serving(kind(in_turn(SAID)), dm=WordDm(BELIEFS), retries=1) as served:
        for name, fault in ONCE.items():
            for drr in (None, {"mode": "off"}, {"mode": "rethink"}):
                served.vendor.faults = deque([fault])
                response = await served.ask(stream=stream, drr=drr)
                said, error = told(response)
                if error is None:
                    assert said == SAID.answer, name
                else:
                    assert name not in PASSES, error
                    assert error["message"].startswith("The upstream"), error
                    assert error["code"] in ("upstream_cut", "upstream_malformed", "service_unavailable"), error
                    assert response.status_code in ((200, 502, 503) if stream else (502, 503))
                await closed(served)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", list(ALWAYS))
async def test_an_upstream_that_only_fails_is_told_with_a_status(fault: str, stream: bool) -> None:
    wrong, status = ALWAYS[fault]
    async with serving(OpenAI(in_turn(SAID)), dm=WordDm(BELIEFS), retries=1, silence=0.5) as served:
        served.vendor.always = wrong
        response = await served.ask(stream=stream)
        assert response.status_code == status
        error = response.json()["error"]
        assert error["message"]
        assert "sk-upstream" not in response.text
        if status in (429, 503):
            assert int(response.headers["retry-after"]) >= 1
        await closed(served)


async def test_an_attempt_that_fails_before_it_says_anything_is_made_again() -> None:
    async with serving(OpenAI(in_turn(SAID)), dm=WordDm(BELIEFS)) as served:
        served.vendor.faults = deque([Fault(cut=True)])
        reply = (await served.ask(drr={"mode": "rethink"})).json()
        assert reply["choices"][0]["message"]["content"] == SAID.answer
        assert reply["drr"]["cost"]["requests"] == 2  # what came of the first one is due as well
        assert [attempt["fate"] for attempt in reply["drr"]["attempt_details"]] == ["abandoned", "accepted"]


async def test_an_earlier_attempt_answers_where_a_later_one_fails() -> None:
    async with serving(OpenAI(in_turn(SAID)), dm=WordDm({"21": 0.3}), retries=0) as served:
        served.vendor.faults = deque([Fault(), Fault(status=500), Fault(status=500)])
        reply = (await served.ask(drr={"mode": "rethink"})).json()
        assert reply["choices"][0]["message"]["content"] == SAID.answer
        assert reply["drr"]["attempt_details"][0]["fate"] == "answered"


async def test_no_answer_is_begun_by_one_attempt_and_ended_by_another() -> None:
    wrong, right = Said("It is 22.", "The answer is 22."), SAID
    async with serving(DeepSeek(in_turn(wrong, right)), dm=WordDm({"That is 21": 0.9})) as served:
        served.vendor.faults = deque([Fault(), Fault(cut=True, after=12)])
        response = await served.ask(stream=True, drr={"mode": "rethink"})
        said, error = told(response)
        assert (said, error and error["code"]) == (None, "upstream_cut")
        assert "The answer is 22" not in response.text


async def test_of_attempts_at_once_those_that_fail_are_left_out() -> None:
    async with serving(OpenAI(in_turn(SAID)), dm=WordDm(BELIEFS), retries=0) as served:
        served.vendor.faults = deque([Fault(status=500), Fault(cut=True)])
        reply = (await served.ask(drr={"mode": "rethink", "parallel": 3})).json()
        assert reply["choices"][0]["message"]["content"] == SAID.answer
        await closed(served)


async def test_a_critique_that_fails_judges_nothing() -> None:
    async with serving(OpenAI(in_turn(SAID)), scorer="self_critique", retries=0) as served:
        served.vendor.faults = deque([Fault(), Fault(status=500)])
        reply = (await served.ask(drr={"mode": "rethink"})).json()
        assert reply["choices"][0]["message"]["content"] == SAID.answer
        assert reply["drr"]["judge"]["failed"] == 1


@pytest.mark.parametrize("kind", [OpenAI, pytest.param(DeepSeek, marks=pytest.mark.slow)])
async def test_five_hundred_clients_that_leave_keep_nothing_open_upstream(kind: type[Vendor]) -> None:
    clients = 250  # of each of two vendors; the one whose requests are sent again takes over a minute
    vendor = kind(in_turn(Said("Think. " * 3000, "The answer is 21.")))  # nobody waits for its end
    draw = random.Random(7)
    async with serving(vendor, dm=WordDm({"never": 1.0})) as served:
        vendor.always = Fault(slow=0.05)
        host, _, port = served.url.removeprefix("http://").partition(":")

        async def leave() -> None:
            drr: dict[str, Any] = draw.choice(
                [{"mode": "off"}, {"mode": "rethink"}, {"mode": "rethink", "parallel": 2}]
            )
            body = {"model": MODEL, "messages": QUESTION, "stream": draw.random() < 0.7, "drr": drr}
            content = json.dumps(body).encode()
            reader, writer = await asyncio.open_connection(host, int(port))
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
            writer.write(head.encode() + content)
            await writer.drain()
            waits_for_headers = body["stream"] and draw.random() < 0.6
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(20.0 if waits_for_headers else draw.uniform(0.0, 0.4)):
                    while await reader.read(1 << 16) and not waits_for_headers:
                        pass
            if draw.random() < 0.5:
                writer.transport.abort()
            writer.close()

        for _ in range(clients // 50):
            await asyncio.gather(*(leave() for _ in range(50)))
        gate = served.gate
        async with asyncio.timeout(60):  # other work may use the cores
            while gate.running or gate.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await closed(served)
        connections = served.client.connections
        assert connections.lent == 0
        async with asyncio.timeout(5):  # a server hears a little later
            while connected(served) > connections.idle:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(vendor.bodies) > clients // 4  # the others left before anything was asked for them
        vendor.always = None
        assert (await served.ask(drr={"mode": "off"})).status_code == 200


async def test_a_silent_stream_shows_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.upstream_chat.handler._SILENCE", 0.1)
    async with serving(OpenAI(in_turn(SAID)), dm=WordDm(BELIEFS)) as served:
        served.vendor.always = Fault(slow=0.05)  # hidden thinking, and an answer that may be rejected
        response = await served.ask(stream=True, drr={"mode": "rethink"})
        assert response.text.startswith("data: ")
        assert ": keep-alive\n\n" in response.text
        assert told(response) == (SAID.answer, None)
        served.vendor.always = Fault(slow=0.05, cut=True, after=9)
        said, error = told(await served.ask(stream=True, drr={"mode": "rethink"}))
        assert (said, error and error["code"]) == (None, "upstream_cut")
        await closed(served)

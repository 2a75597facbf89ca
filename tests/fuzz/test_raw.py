"""What is drawn can be drawn again and repeated by hand; what a server must not say is found."""

import asyncio
import json
import subprocess
from collections import Counter

import pytest

from tests.fuzz.bodies import Pairs, Raw, encode
from tests.fuzz.malformed import Malformed, draw_malformed, request
from tests.fuzz.raw import Reply, send

JSON_HEAD = b"content-type: application/json\r\nconnection: close\r\n\r\n"
EVENTS_HEAD = b"content-type: text/event-stream\r\nconnection: close\r\n\r\n"


async def reply_to(malformed: Malformed, answer: bytes, limit: float = 5.0, *, keeps_open: bool = False) -> Reply:
    """What is made of this answer."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(answer)
        if keeps_open:
            await reader.read()
        writer.close()

    listening = await asyncio.start_server(say, "127.0.0.1", 0)
    async with listening:
        return await send(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", malformed, limit)


ASKED = Malformed(3, "fields", request("/v1/chat/completions", b"{}"))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 500 No\r\n" + JSON_HEAD + b'{"error": {"message": "x"}}', "HTTP 500"),
        (b"HTTP/1.1 503 No\r\n" + JSON_HEAD + b"{}", "HTTP 503"),
        (b"HTTP/1.1 400 No\r\n" + JSON_HEAD + b"{}", "without a reason"),
        (b"HTTP/1.1 200 OK\r\n" + JSON_HEAD + b'{"p": NaN}', "not JSON"),
        (b"HTTP/1.1 200 OK\r\n" + JSON_HEAD + b'{"p"', "not JSON"),
        (b"HTTP/1.1 200 OK\r\n" + EVENTS_HEAD + b'data: {"p": Infinity}\n\n', "not JSON"),
        (b"HTTP/1.1 200 OK\r\n" + EVENTS_HEAD + b'data: {"error": {"message": "x", "code": 500}}\n\n', "in a stream"),
        (b"HTTP/1.1 200 OK\r\n" + EVENTS_HEAD + b'data: {"error": {"message": "x", "code": 400}}\n\n', "in a stream"),
        (b"HTTP/1.1 200 OK\r\n" + EVENTS_HEAD + b'data: {"type": "error", "message": "x"}\n\n', "in a stream"),
        (b"HTTP/1.1 200 OK\r\n" + EVENTS_HEAD + b'data: {"type": "response.failed"}\n\n', "in a stream"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nhello", "no JSON"),
        (b"", "no answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{", "half an answer"),
        (b"nonsense\r\n\r\n", "no answer"),
    ],
)
async def test_what_must_not_be_said_is_found(answer: bytes, says: str) -> None:
    reply = await reply_to(ASKED, answer)
    assert len(reply.wrong) == 1
    assert says in reply.wrong[0]


async def test_a_server_that_says_nothing_hangs() -> None:
    reply = await reply_to(ASKED, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", 0.3, keeps_open=True)
    assert reply.wrong == ["no end within 0.3 s"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n" + JSON_HEAD + b"{}", 200),
        (b"HTTP/1.1 400 No\r\n" + JSON_HEAD + b'{"error": {"message": "x"}}', 400),
        (b"HTTP/1.1 404 No\r\n" + JSON_HEAD + b'{"detail": "Not Found"}', 404),
        (b"HTTP/1.1 200 OK\r\n" + EVENTS_HEAD + b"data: {}\n\ndata: [DONE]\n\n", 200),
    ],
)
async def test_what_may_be_said_is_let_be(answer: bytes, status: int) -> None:
    reply = await reply_to(ASKED, answer)
    assert (reply.status, reply.wrong) == (status, [])


async def test_what_is_no_request_need_not_be_answered() -> None:
    reply = await reply_to(Malformed(0, "framing", b"x", "any"), b"")
    assert (reply.status, reply.wrong) == (0, [])
    left = await reply_to(Malformed(0, "cut", b"POST /", "leaves", rude=True), b"", keeps_open=True)
    assert (left.status, left.wrong) == (0, [])


def test_all_kinds_are_drawn_and_stay_small() -> None:
    drawn = [draw_malformed(9, number) for number in range(400)]
    assert set(Counter(each.kind for each in drawn)) == {
        *("fields", "text", "kind of content", "header", "method", "framing", "cut", "size")
    }
    assert max(len(each.content) for each in drawn) < 32 << 20


def test_text_that_json_does_not_know_is_written() -> None:
    value = {"a": Raw("01"), "b": [float("nan"), Pairs((("k", 1), ("k", 2)))], "c": "\ud800"}
    assert encode(value) == '{"a": 01, "b": [NaN, {"k": 1, "k": 2}], "c": "\\ud800"}'
    assert encode({"a": [1, None, "x"]}) == json.dumps({"a": [1, None, "x"]})


def test_a_request_can_be_repeated_by_hand() -> None:
    body = b"{'a': \"$HOME\"}"
    told = Malformed(0, "fields", request("/tokenize", body)).as_command("http://h:1")
    said, _, curl = told.partition(" | ")
    assert subprocess.run(["sh", "-c", said], capture_output=True, check=True).stdout == body
    assert curl == "curl -sS -X POST -H 'content-type: application/json' --data-binary @- http://h:1/tokenize"
    raw = Malformed(0, "framing", b"\x00\xff", "any").as_command("http://h:1")
    said, _, sent = raw.rpartition(" | ")
    assert subprocess.run(["sh", "-c", said], capture_output=True, check=True).stdout == b"\x00\xff"
    assert sent == "timeout 5 nc h 1"

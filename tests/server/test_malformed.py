"""Malformed requests to the server that all tests share; `python -m tests.fuzz` sends ten thousand."""

import asyncio
import json

import httpx
import pytest

from tests.fuzz.__main__ import ask_malformed
from tests.fuzz.malformed import Malformed, draw_malformed, request
from tests.fuzz.raw import send
from tests.fuzz.watch import still_answers, wait_until_idle
from tests.server.running import MESSAGES, MODEL, Server

_SEED = 5


async def test_malformed_requests_are_refused_and_leave_nothing_behind(server: Server) -> None:
    replies = await ask_malformed(server.url, _SEED, range(200), concurrency=4, limit=60)
    assert [(reply.number, reply.wrong) for reply in replies if reply.wrong] == []
    statuses = [reply.status for reply in replies]
    assert sum(400 <= status < 500 for status in statuses) >= 60
    assert sum(status == 200 for status in statuses) >= 20, "some are only nearly wrong"
    assert await wait_until_idle(server.url) == []
    assert await still_answers(server.url) == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/invocations", "/tokenize", "/v1/responses"])
async def test_json_that_is_nested_too_deeply_is_a_bad_request(server: Server, path: str) -> None:
    body = b'{"model": "' + MODEL.encode() + b'", "messages": ' + b"[" * 90_000 + b"]" * 90_000 + b"}"
    reply = await send(server.url, Malformed(0, "fields", request(path, body)), 60)
    assert (reply.status, reply.wrong) == (400, [])


def test_half_a_character_is_a_bad_request_by_name(server: Server) -> None:
    fields = {"query": "3 + 4 =", "items": ["7"], "label_token_ids": [5, 6], "request_id": "\udc00"}
    body = json.dumps({"model": MODEL, **fields})
    response = httpx.post(
        f"{server.url}/generative_scoring", content=body, headers={"content-type": "application/json"}, timeout=60
    )
    assert (response.status_code, response.json()["error"]["param"]) == (400, "request_id")


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_with_half_a_character_is_a_bad_request(server: Server, stream: bool) -> None:
    for path, field in (("/v1/chat/completions", "messages"), ("/v1/responses", "input")):
        body = json.dumps({"model": MODEL, field: MESSAGES, "stream": stream, "stop": "\ud800"})
        response = httpx.post(
            f"{server.url}{path}", content=body, headers={"content-type": "application/json"}, timeout=60
        )
        assert (response.status_code, response.json()["error"]["param"]) == (400, "stop")


@pytest.mark.parametrize("regex", ["\\", "a{2,1}", "(?=a)b"])
async def test_an_expression_that_the_engine_cannot_compile_breaks_no_stream(server: Server, regex: str) -> None:
    """vLLM checks it for another backend than the one that its engine has begun with, and will use."""
    fields = {"model": MODEL, "messages": MESSAGES, "structured_outputs": {"regex": "a"}, "max_tokens": 60}
    async with httpx.AsyncClient(timeout=60) as http:
        assert (await http.post(f"{server.url}/v1/chat/completions", json=fields)).status_code == 200
    for path, field in (("/v1/chat/completions", "messages"), ("/v1/responses", "input")):
        body = {"model": MODEL, field: MESSAGES, "stream": True, "structured_outputs": {"regex": regex}}
        reply = await send(server.url, Malformed(0, "fields", request(path, json.dumps(body).encode())), 60)
        assert reply.wrong == []
        assert reply.status in (200, 400)


def test_an_endpoint_that_the_model_does_not_have_is_not_found(server: Server) -> None:
    asked = {"model": MODEL, "state": "It rains.", "questions": {"wet": {"type": "noun", "choices": ["a", "b"]}}}
    response = httpx.post(f"{server.url}/v1/systemone", json=asked, timeout=60)
    assert response.status_code in (400, 404)
    assert response.json()["error"]["message"]


def test_a_chat_template_of_the_client_is_refused(server: Server) -> None:
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    for path, fields in (
        ("/v1/chat/completions", {"chat_template": template}),
        ("/v1/chat/completions", {"chat_template_kwargs": {"chat_template": template}}),
        ("/v1/messages", {"chat_template_kwargs": {"chat_template": template}}),
        ("/tokenize", {"chat_template": template}),
    ):
        body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 9, **fields}
        response = httpx.post(f"{server.url}{path}", json=body, timeout=60)
        assert response.status_code == 400, (path, response.text)
        assert "chat template" in response.text.lower() or "chat_template" in response.text


async def test_no_address_of_the_client_is_fetched(server: Server) -> None:
    asked: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.close()

    listening = await asyncio.start_server(note, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening, httpx.AsyncClient(timeout=60) as http:
        for kind in ("image_url", "video_url", "audio_url"):
            part = {"type": kind, kind: {"url": f"http://127.0.0.1:{port}/secret"}}
            body = {"model": MODEL, "messages": [{"role": "user", "content": [part]}], "max_tokens": 4}
            for path in ("/v1/chat/completions", "/tokenize"):
                assert (await http.post(f"{server.url}{path}", json=body)).status_code == 400
    assert asked == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_thousands_of_malformed_requests_leave_nothing_behind(server: Server) -> None:
    replies = await ask_malformed(server.url, _SEED + 1, range(5000), concurrency=6, limit=60)
    assert [(reply.number, reply.wrong) for reply in replies if reply.wrong] == []
    assert await wait_until_idle(server.url) == []


def test_a_seed_makes_the_same_requests() -> None:
    assert [draw_malformed(1, number) for number in range(40)] == [draw_malformed(1, number) for number in range(40)]
    assert draw_malformed(1, 3) != draw_malformed(2, 3)

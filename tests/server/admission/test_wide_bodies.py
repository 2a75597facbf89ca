"""Bodies that hold too many of something are refused before anything is made of them."""

import json
import time
from typing import Any

import pytest

from server.admission.wide_bodies import WideBodies
from tests.server.admission.asgi import Answering, Client

MESSAGE = {"role": "user", "content": "x" * 200}
PART = {"type": "text", "text": "x" * 20}


async def sent(body: Any, most: int = 1000) -> tuple[Client, Answering]:
    app = Answering()
    app.may_end.set()
    return await Client(WideBodies(app, most), body=json.dumps(body).encode()).done(), app


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [1] * 100_000}, "messages"),
        ({"messages": [{}] * 20_000}, "messages"),
        ({"messages": [{"role": "user", "content": [PART] * 1001}]}, "messages"),
        ({"messages": [[MESSAGE] * 600, [MESSAGE] * 600]}, "messages"),
        ({"messages": [{**MESSAGE, "tool_calls": [PART] * 1001}]}, "messages"),
        ({"input": [{"type": "message", "content": [PART] * 600}] * 2}, "input"),
        ({"tools": [{"type": "function"}] * 1001}, "tools"),
        ({"stop": ["a stop text"] * 1001 + ["b"] * 3000}, "stop"),
        ({"stop_sequences": [7] * 10_000}, "stop_sequences"),
        ({"bad_words": ["a bad word"] * 5000}, "bad_words"),
        ({"prompt": [[1]] * 10_000}, "prompt"),
        ({"prompt": ["a prompt of its own"] * 5000}, "prompt"),
        ({"prompt": [1, "x"] * 10_000}, "prompt"),
    ],
)
async def test_too_many_of_anything_are_refused(body: Any, param: str) -> None:
    begun = time.process_time()
    client, app = await sent(body)
    assert time.process_time() - begun < 1
    assert (client.status, client.error["param"], app.begun) == (400, param, 0)
    assert client.error["message"].startswith(f"{param}: has more than 1,000 entries")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [MESSAGE] * 1000},
        {"messages": [{"role": "user", "content": [PART] * 999}]},
        {"prompt": list(range(100_000))},
        {"tokens": [5] * 100_000},
        {"messages": [MESSAGE] * 100, "tools": [{"parameters": {"enum": list(range(50_000))}}]},
        {"logit_bias": {str(number): 1 for number in range(20_000)}},
        ["x"] * 10_000,
    ],
)
async def test_what_is_large_and_of_use_passes_as_it_was_sent(body: Any) -> None:
    client, app = await sent(body)
    assert (client.status, app.bodies) == (200, [json.dumps(body).encode()])


async def test_what_is_no_json_is_left_to_others() -> None:
    app = Answering()
    app.may_end.set()
    for body in (b"x" * 20_000, b"[" * 20_000):
        assert (await Client(WideBodies(app, 1), chunks=[body[:9], body[9:]]).done()).status == 200
    assert app.bodies == [b"x" * 20_000, b"[" * 20_000]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stop": "\ud800"}, "stop"),
        ({"messages": [MESSAGE], "stop": ["a", "b\udfff"]}, "stop"),
        ({"stop_sequences": ["\udc00\ud800"]}, "stop_sequences"),
        ({"bad_words": ["\ud83d"]}, "bad_words"),
    ],
)
async def test_stop_texts_with_half_a_character_are_refused(body: Any, param: str) -> None:
    client, app = await sent(body)
    assert (client.status, client.error["param"], app.begun) == (400, param, 0)
    assert "surrogates" in client.error["message"]


async def test_a_field_that_is_half_a_character_can_be_named() -> None:
    client, _ = await sent({"\ud800": ["x"] * 2000})
    assert (client.status, client.error["param"]) == (400, "\\ud800")


async def test_whole_characters_pass() -> None:
    for stop in ("\N{PILE OF POO}", ["a", "é"], [7, None], None):
        _, app = await sent({"messages": [{"role": "user", "content": "\ud800"}], "stop": stop})
        assert app.begun == 1

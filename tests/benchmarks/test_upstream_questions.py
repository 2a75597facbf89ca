"""Questions in front of an upstream: what is counted again, and what a failure looks like."""

import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from benchmarks.upstream_questions import WAYS, Reply, ask, generated, row

COST = {"requests": 2, "prompt_tokens_sent": 30, "completion_tokens": 12, "estimated_requests": 1}


def client(status: int, body: dict[str, Any], asked: list[dict[str, Any]]) -> AsyncOpenAI:
    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return httpx.Response(status, json=body)

    http: Any = httpx.AsyncClient(transport=httpx.MockTransport(respond))
    return AsyncOpenAI(base_url="http://server/v1", api_key="none", max_retries=0, http_client=http)


async def test_a_question_carries_its_way_and_brings_its_account() -> None:
    asked: list[dict[str, Any]] = []
    message = {"role": "assistant", "content": "It is 3."}
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 11, "total_tokens": 16},
        "drr": {"stop_cause": "sure", "attempts": 2, "cost": COST},
    }
    reply = await ask(client(200, body, asked), "m", "1 + 2?", WAYS["stop"], 50)
    assert reply == Reply("It is 3.", body["drr"], 11)  # type: ignore[arg-type]
    assert (asked[0]["drr"], asked[0]["max_completion_tokens"]) == (WAYS["stop"], 50)
    refused = await ask(client(429, {"error": {"message": "full"}}, asked), "m", "1 + 2?", {}, 50)
    assert refused.error.startswith("429: ")


def test_a_row_sums_what_the_responses_say_and_shows_what_failed() -> None:
    replies = [
        Reply("3", {"stop_cause": "sure", "attempts": 2, "cost": COST}, 11),
        Reply("", {"stop_cause": "abstained", "attempts": 1, "cost": COST}, 12),
        Reply("", {}, 0, "503: gone"),
    ]
    found = row("stop", replies, [True, False, False], 24.0)
    assert found == {
        "way": "stop",
        "questions": 3,
        "errors": ["503: gone"],
        "right": 1,
        "abstained": 1,
        "attempts": 3,
        "causes": {"sure": 1, "abstained": 1},
        "usage": 23,
        "requests": 4,
        "prompt_tokens_sent": 60,
        "generated": 24,
        "estimated_requests": 2,
        "counted_by_upstream": 24.0,
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("# TYPE\nllamacpp:tokens_predicted_total 7\n", 7.0),
        ('# TYPE\nvllm:generation_tokens_total{model="m"} 9\n', 9.0),
        ("# nothing\n", None),
    ],
)
async def test_an_upstreams_own_count_is_read(monkeypatch: pytest.MonkeyPatch, text: str, wanted: float | None) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=text))
    made = httpx.AsyncClient
    monkeypatch.setattr("benchmarks.upstream_questions.httpx.AsyncClient", lambda: made(transport=transport))
    assert await generated("http://upstream") == wanted
    assert await generated(None) is None

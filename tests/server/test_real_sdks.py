"""OpenAI's and Anthropic's SDKs over a socket, on the reference models."""

import json
import time
from typing import Any

import httpx
import openai
import pytest

from tests.server.running import MODEL, QUESTION, Server
from tests.server.test_openai_python import Sentence

STOP = {"threshold": 0.0, "min_steps": 2}
RETHINK = {"mode": "rethink", "accept": 1.0, "max_rethinks": 1}
ASK: Any = {"model": MODEL, "input": QUESTION, "temperature": 0}
MESSAGE: Any = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}


def adds_up(drr: dict[str, Any], output_tokens: int) -> None:
    fates = ("thinking", "answer", "discarded", "probe")
    assert output_tokens == sum(drr[f"{name}_tokens"] for name in fates)


@pytest.mark.parametrize(("drr", "cause"), [(STOP, "sure"), (RETHINK, "rethink_limit"), ({"mode": "off"}, "off")])
def test_openai_creates_and_streams(server: Server, drr: dict[str, Any], cause: str) -> None:
    asked = {**ASK, "extra_body": {"drr": drr, "seed": 1}}
    whole: Any = server.sdk.responses.create(**asked)
    assert whole.drr["stop_cause"] == cause
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert "The answer is" in whole.output_text
    adds_up(whole.drr, whole.usage.output_tokens)
    with server.sdk.responses.stream(**asked) as stream:
        final: Any = stream.get_final_response()
    assert final.output_text == whole.output_text
    assert final.output[0].content[0].text == whole.output[0].content[0].text
    adds_up(final.drr, final.usage.output_tokens)  # what a stop discards depends on when its verdict comes


def test_openai_parses_a_schema_behind_a_stop(server: Server) -> None:
    parsed: Any = server.sdk.responses.parse(**ASK, text_format=Sentence, extra_body={"drr": STOP})
    assert parsed.drr["stop_cause"] == "sure"
    assert isinstance(parsed.output_parsed, Sentence)
    assert parsed.output[0].content[0].text.count("\n\n") == 2, "the grammar is the answer's, not the thinking's"


def test_openai_is_told_what_is_wrong(server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.sdk.responses.create(**ASK, extra_body={"drr": {"threshold": 2}})
    assert caught.value.param == "drr.threshold"


def test_responses_and_chat_completions_think_alike(server: Server) -> None:
    chat: Any = server.ask(messages=MESSAGE["messages"], temperature=0, drr=STOP)
    response: Any = server.sdk.responses.create(**ASK, extra_body={"drr": STOP})
    assert response.output_text == chat.choices[0].message.content
    assert response.drr["thinking_tokens"] == chat.drr["thinking_tokens"]


@pytest.mark.parametrize(("drr", "cause"), [(STOP, "sure"), (RETHINK, "rethink_limit"), ({"mode": "off"}, "off")])
def test_anthropic_creates_and_streams(server: Server, drr: dict[str, Any], cause: str) -> None:
    anthropic = pytest.importorskip("anthropic", reason="needs the dev extra")
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        asked = {**MESSAGE, "max_tokens": 1000, "extra_body": {"drr": drr, "temperature": 0}}
        whole = client.messages.create(**asked)
        assert whole.drr["stop_cause"] == cause
        assert [block.type for block in whole.content] == ["thinking", "text"]
        adds_up(whole.drr, whole.usage.output_tokens)
        with client.messages.stream(**asked) as stream:
            final = stream.get_final_message()
        assert [block.type for block in final.content] == ["thinking", "text"]
        if drr is not RETHINK:  # attempts after a greedy one are drawn
            assert final.content[1].text == whole.content[1].text
        none = client.messages.create(**{**asked, "extra_body": {"temperature": 0}}, thinking={"type": "disabled"})
        assert none.drr["thinking_tokens"] == 0
        assert [block.type for block in none.content] == ["text"]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_a_client_that_leaves_lets_go_of_the_engine(server: Server, path: str) -> None:
    body = {"model": MODEL, "stream": True, "drr": {"mode": "shadow"}, "vllm_xargs": {}}
    endless = {"logit_bias": {"1": -100.0}} if path == "/v1/responses" else {}
    own = {"input": QUESTION} if path == "/v1/responses" else {"messages": MESSAGE["messages"], "max_tokens": 1500}
    with httpx.stream("POST", f"{server.url}{path}", json={**body, **endless, **own}, timeout=60) as response:
        assert response.status_code == 200
        for text in response.iter_lines():
            if "delta" in text:
                break
    deadline = time.monotonic() + 30
    while server.metric("vllm:num_requests_running") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.metric("vllm:num_requests_running") == 0
    assert json.loads(httpx.get(f"{server.url}/health").text)["status"] == "ok"

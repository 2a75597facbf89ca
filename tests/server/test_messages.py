"""/v1/messages thinks by DRR: thinking blocks, budgets, no thinking, refusals, accounts, errors; streamed or not."""

import json
from typing import Any

import httpx
import pytest

from server.vllm_api import AnthropicServingMessages
from server.wire import Account, StepChunk
from tests.server.played_app import ABSTAIN, REJECTED, THOUGHT, PlayedServer, played_server

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "2 + 3?"}], "max_tokens": 1500}


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> PlayedServer:
    return await played_server(monkeypatch)


async def whole(served: PlayedServer, **fields: Any) -> dict[str, Any]:
    response = await served.post("/v1/messages", {**ASK, **fields})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def streamed(served: PlayedServer, **fields: Any) -> dict[str, Any]:
    """The message that a stream's events make, as Anthropic's SDKs put it together."""
    message: dict[str, Any] = {}
    for name, data in await served.events("/v1/messages", {**ASK, **fields}):
        assert name == data["type"]
        match name:
            case "message_start":
                message = data["message"]
            case "content_block_start":
                assert data["index"] == len(message["content"])
                message["content"].append({**data["content_block"], "json": ""})
            case "content_block_delta":
                block, delta = message["content"][data["index"]], data["delta"]
                key = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "json"}.get(
                    delta["type"]
                )
                if key is None:
                    block["signature"] = delta["signature"]
                else:
                    block[key] += delta.get("text") or delta.get("thinking") or delta.get("partial_json")
            case "message_delta":
                message |= {**data["delta"], "usage": data["usage"], "drr": data.get("drr")}
    for block in message["content"]:
        arguments = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(arguments)
    return message


def check(served: PlayedServer, body: dict[str, Any]) -> None:
    """The account adds up: every token that the engine made is in the usage, and in one of the account's fates."""
    own, usage = body["drr"], body["usage"]
    Account.model_validate(own)
    fates = {name: own[f"{name}_tokens"] for name in ("thinking", "answer", "discarded", "probe")}
    assert usage["output_tokens"] == sum(fates.values()) == served.played.generated
    details = usage["output_tokens_details"]
    assert details["thinking_tokens"] == fates["thinking"] + fates["discarded"] + fates["probe"]
    assert (details["discarded_tokens"], details["probe_tokens"]) == (fates["discarded"], fates["probe"])
    assert served.played.running == 0


def line(name: str, data: dict[str, Any]) -> str:
    """What one event says, in a line."""
    assert name == data["type"]
    parts = [name]
    if "index" in data:
        parts.append(str(data["index"]))
    if "content_block" in data:
        parts.append(data["content_block"]["type"])
    if name == "content_block_delta":
        kind = data["delta"]["type"]
        parts.append(kind if kind == "signature_delta" else repr(data["delta"][kind.removesuffix("_delta")]))
    if name == "ping":
        StepChunk.model_validate(data["drr"])
        parts.append(data["drr"]["step"]["verdict"])
    if name == "message_delta":
        parts += [data["delta"]["stop_reason"], data["drr"]["stop_cause"]]
    return " ".join(parts)


STOPPED = [
    "message_start",
    "content_block_start 0 thinking",
    "content_block_delta 0 'so: '",
    "content_block_delta 0 '1+2'",
    "content_block_delta 0 '=3.\\n\\n'",
    "ping continue",
    "content_block_delta 0 'So the answer is 5.\\n\\n'",
    "ping stop",
    "content_block_delta 0 signature_delta",
    "content_block_stop 0",
    "content_block_start 1 text",
    "content_block_delta 1 '\\n\\nThe answer'",
    "content_block_delta 1 ' is 5'",
    "content_block_delta 1 '.'",
    "content_block_stop 1",
    "message_delta end_turn sure",
    "message_stop",
]


@pytest.mark.parametrize("explicit", [True, False])
async def test_a_stop_streamed(served: PlayedServer, explicit: bool) -> None:
    served.play(THOUGHT, scores=[0.1, 0.95])
    events = await served.events("/v1/messages", {**ASK, **({"drr": {"threshold": 0.9}} if explicit else {})})
    expected = STOPPED if explicit else [own for own in STOPPED if not own.startswith("ping")]
    assert [line(*event) for event in events] == expected


@pytest.mark.parametrize("get", [whole, streamed])
async def test_a_stop(served: PlayedServer, get: Any) -> None:
    served.play(THOUGHT, scores=[0.1, 0.95])
    body = await get(served)
    thinking, text = body["content"]
    assert (thinking["thinking"], text["text"]) == ("so: 1+2=3.\n\nSo the answer is 5.\n\n", "\n\nThe answer is 5.")
    assert thinking["signature"]
    assert (body["stop_reason"], body["drr"]["stop_cause"]) == ("end_turn", "sure")
    assert body["drr"]["risk"] is None, "null keys of the account stay"
    check(served, body)


@pytest.mark.parametrize("get", [whole, streamed])
async def test_another_attempt(served: PlayedServer, get: Any) -> None:
    served.play(REJECTED, REJECTED, THOUGHT, scores=[0.2])
    body = await get(served, drr={"mode": "rethink", "accept": 0.9, "max_rethinks": 2})
    assert body["drr"]["attempts"] == 3
    thinking, text = body["content"]
    assert thinking["thinking"].count("[this attempt was rejected; here is another]") == 2
    assert text["text"].startswith("\n\nThe answer is ")
    check(served, body)


@pytest.mark.parametrize("get", [whole, streamed])
async def test_an_abstention_is_a_refusal(served: PlayedServer, get: Any) -> None:
    served.play(THOUGHT, scores=[0.2])
    body = await get(served, drr=ABSTAIN)
    assert body["stop_reason"] == "refusal"
    assert body["stop_details"] == {"type": "refusal", "category": None, "explanation": "I pass."}
    assert [block["type"] for block in body["content"]] == ["thinking", "text"]
    assert body["content"][1]["text"] == "I pass."
    assert body["drr"]["stop_cause"] == "abstained"
    check(served, body)


@pytest.mark.parametrize("get", [whole, streamed])
async def test_anthropics_budget_limits_the_thinking(served: PlayedServer, get: Any) -> None:
    long = "so: 1+2=3.\n\n" * 200 + "</think>\n\nThe answer is 5."
    served.play(long)
    body = await get(served, thinking={"type": "enabled", "budget_tokens": 1024})
    assert (body["drr"]["stop_cause"], body["drr"]["thinking_tokens"]) == ("thinking_token_budget", 1024)
    assert body["content"][-1]["text"] == "\n\nThe answer is 5."
    check(served, body)
    served.play(long)
    less = await get(served, thinking={"type": "enabled", "budget_tokens": 1024}, drr={"max_thinking_tokens": 10})
    assert less["drr"]["thinking_tokens"] == 10, "the smaller limit holds"


@pytest.mark.parametrize("get", [whole, streamed])
async def test_disabled_thinking_thinks_not_at_all(served: PlayedServer, get: Any) -> None:
    served.play(THOUGHT)
    body = await get(served, thinking={"type": "disabled"})
    assert body["drr"]["thinking_tokens"] == 0
    assert body["drr"]["settings"]["mode"] == "off"
    assert [block["type"] for block in body["content"]] == ["text"]


async def test_disabled_thinking_is_what_vllms_flag_says(monkeypatch: pytest.MonkeyPatch) -> None:
    served = await played_server(monkeypatch, "--anthropic-disabled-thinking-effort", "low")
    served.play(THOUGHT)
    body = await whole(served, thinking={"type": "disabled"})
    assert body["drr"]["thinking_tokens"] > 0
    assert body["drr"]["settings"]["mode"] == "auto"


@pytest.mark.parametrize("get", [whole, streamed])
async def test_what_max_tokens_cuts_says_so(served: PlayedServer, get: Any) -> None:
    served.play(THOUGHT)
    body = await get(served, max_tokens=12, drr={"mode": "shadow"})
    assert (body["stop_reason"], body["drr"]["stop_cause"]) == ("max_tokens", "max_tokens")
    check(served, body)


@pytest.mark.parametrize("get", [whole, streamed])
async def test_a_stop_sequence_spares_the_thinking(served: PlayedServer, get: Any) -> None:
    served.play(THOUGHT, scores=[0.1, 0.95])
    body = await get(served, stop_sequences=["."])
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", ".")
    assert "." in body["content"][0]["thinking"]
    assert body["content"][1]["text"] == "\n\nThe answer is 5"


CALL = '\n\n<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
ADD = {
    "name": "add",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}


@pytest.mark.parametrize("get", [whole, streamed])
@pytest.mark.parametrize("drr", [{"threshold": 0.9}, {"mode": "rethink", "max_rethinks": 1, "accept": 0.9}])
async def test_a_tool_call(monkeypatch: pytest.MonkeyPatch, get: Any, drr: dict[str, Any]) -> None:
    served = await played_server(monkeypatch, "--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    served.play(f"so: 1.\n\nSo.\n\nLet me check: 1+2=3.\n\n</think>{CALL}", answer=CALL, scores=[0.1, 0.95, 0.95])
    body = await get(served, tools=[ADD], drr=drr)
    calls = [block for block in body["content"] if block["type"] == "tool_use"]
    assert [(call["name"], call["input"]) for call in calls] == [("add", {"a": 2, "b": 3})]
    assert body["content"][0]["type"] == "thinking"
    assert body["stop_reason"] == "tool_use"
    check(served, body)


async def test_a_schema(served: PlayedServer) -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    served.play(THOUGHT, answer='{"sum": 5}', scores=[0.1, 0.95])
    body = await whole(served, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert json.loads(body["content"][1]["text"]) == {"sum": 5}
    assert body["drr"]["stop_cause"] == "sure"


def error_of(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert body["type"] == "error"
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("fields", "headers", "param"),
    [
        ({"drr": {"treshold": 0.9}}, {}, "drr.treshold"),
        ({"drr": 7}, {}, "drr"),
        ({"drr": {"mode": "stop", "max_rethinks": 2}}, {}, "drr.max_rethinks"),
        ({}, {"X-DRR": '{"moode": "stop"}'}, "X-DRR.moode"),
        ({"drr": {}}, {"X-DRR": "{}"}, "drr"),
        ({"vllm_xargs": {"drr": "x"}}, {}, "vllm_xargs"),
        ({"model": "played:full", "drr": {"mode": "auto"}}, {}, "drr.mode"),
        ({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, {}, "chat_template_kwargs"),
    ],
)
async def test_bad_requests_name_the_key_in_anthropics_shape(
    served: PlayedServer, fields: dict[str, Any], headers: dict[str, str], param: str
) -> None:
    error = error_of(await served.post("/v1/messages", {**ASK, **fields}, **headers))
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert served.played.requests == 0


async def test_vllms_own_errors_are_in_anthropics_shape(served: PlayedServer) -> None:
    missing = error_of(await served.post("/v1/messages", {"messages": ASK["messages"]}))
    assert (missing["type"], missing["param"]) == ("invalid_request_error", "max_tokens")
    unknown = error_of(await served.post("/v1/messages", {**ASK, "model": "nobody"}), 404)
    assert unknown["type"] == "not_found_error"
    budget = {"type": "enabled", "budget_tokens": 5}
    assert error_of(await served.post("/v1/messages", {**ASK, "thinking": budget}))["type"] == "invalid_request_error"
    counted = error_of(await served.post("/v1/messages/count_tokens", {**ASK, "drr": {}}))
    assert counted["param"] == "drr"


async def test_header_aliases_and_outcome(served: PlayedServer) -> None:
    served.play(THOUGHT, scores=[0.1, 0.95])
    header = await served.post("/v1/messages", ASK, **{"X-DRR": '{"max_thinking_tokens": 4}'})
    assert header.json()["drr"]["thinking_tokens"] == 4
    assert header.headers["x-drr-outcome"].startswith("cause=max_thinking_tokens")
    for alias, mode in (("drr", "auto"), ("full", "off")):
        served.play(THOUGHT, scores=[0.1, 0.95])
        body = await whole(served, model=f"played:{alias}")
        assert (body["drr"]["settings"]["mode"], body["model"]) == (mode, "played")


@pytest.mark.parametrize("get", [whole, streamed])
async def test_report_none_says_nothing(served: PlayedServer, get: Any) -> None:
    served.play(THOUGHT, scores=[0.1, 0.95])
    assert (await get(served, drr={"report": "none"})).get("drr") is None


@pytest.mark.parametrize("get", [whole, streamed])
async def test_off_is_what_vllm_itself_would_say(served: PlayedServer, get: Any) -> None:
    served.play(THOUGHT)
    ours = await get(served, model="played:full")
    handler = served.app.state.anthropic_serving_messages
    bare = object.__new__(AnthropicServingMessages)
    bare.__dict__.update(vars(handler))
    bare.parser_cls = handler.parser_cls.plain
    served.app.state.anthropic_serving_messages, served.engine.drr = bare, None
    served.play(THOUGHT)
    vllm = await get(served)
    for body in (ours, vllm):
        body.pop("drr", None)
        body["usage"].pop("output_tokens_details", None)
        body["id"] = body["content"][0]["signature"] = ""
    assert ours == vllm

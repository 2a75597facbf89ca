"""/v1/responses thinks by DRR: stops, attempts, budgets, refusals, accounts; streamed, stored and in the background."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from server.responses import DrrResponses
from server.vllm_api import OpenAIServingResponses, ResponsesRequest
from server.wire import Account, StepChunk
from tests.server.played_app import ABSTAIN, REJECTED, THOUGHT, PlayedServer, played_server

ASK = {"input": "2 + 3?"}


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> PlayedServer:
    return await played_server(monkeypatch)


async def whole(served: PlayedServer, **fields: Any) -> dict[str, Any]:
    response = await served.post("/v1/responses", {**ASK, **fields})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def said(body: dict[str, Any]) -> list[tuple[str, str]]:
    """The items of a response: type and text."""
    found = []
    for item in body["output"]:
        parts = item.get("content") or [{"text": item.get("arguments")}]
        found.append((item["type"], "".join(part.get("text") or part.get("refusal") or "" for part in parts)))
    return found


def check(served: PlayedServer, body: dict[str, Any], trials: int = 0) -> None:
    """The account adds up: every token that the engine made is in the usage, and in one of the account's fates, but for
    the one of each trial of a grammar."""
    own, usage = body["drr"], body["usage"]
    Account.model_validate(own)
    fates = {name: own[f"{name}_tokens"] for name in ("thinking", "answer", "discarded", "probe")}
    assert usage["output_tokens"] == sum(fates.values()) == served.played.generated - trials
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    details = usage["output_tokens_details"]
    assert details["reasoning_tokens"] == fates["thinking"] + fates["discarded"] + fates["probe"]
    assert (details["discarded_tokens"], details["probe_tokens"]) == (fates["discarded"], fates["probe"])
    assert served.played.running == 0


def line(name: str, data: dict[str, Any]) -> str:
    """What one event says, in a line."""
    assert name == data["type"]
    parts = [name.removeprefix("response.")]
    if "output_index" in data:
        parts.append(str(data["output_index"]))
    if "delta" in data:
        parts.append(repr(data["delta"]))
    if "item" in data:
        parts.append(f"{data['item']['type']} {data['item']['status']}")
    if name == "drr.step":
        StepChunk.model_validate(data["drr"])
        parts.append(data["drr"]["step"]["verdict"])
    if name == "response.completed":
        parts.append(data["response"]["drr"]["stop_cause"])
    return " ".join(parts)


STOPPED = [
    "created",
    "in_progress",
    "output_item.added 0 reasoning in_progress",
    "content_part.added 0",
    "reasoning_text.delta 0 'so: '",
    "reasoning_text.delta 0 '1+2'",
    "reasoning_text.delta 0 '=3.\\n\\n'",
    "drr.step continue",
    "reasoning_text.delta 0 'So the answer is 5.\\n\\n'",
    "drr.step stop",
    "reasoning_text.done 0",
    "content_part.done 0",
    "output_item.done 0 reasoning completed",
    "output_item.added 1 message in_progress",
    "content_part.added 1",
    "output_text.delta 1 '\\n\\nThe answer'",
    "output_text.delta 1 ' is 5'",
    "output_text.delta 1 '.'",
    "output_text.done 1",
    "content_part.done 1",
    "output_item.done 1 message completed",
    "completed sure",
]


@pytest.mark.parametrize("explicit", [True, False])
async def test_a_stop_streamed(served: PlayedServer, explicit: bool) -> None:
    served.play(THOUGHT, scores=[0.1, 0.95])
    events = await served.events("/v1/responses", {**ASK, **({"drr": {"threshold": 0.9}} if explicit else {})})
    expected = STOPPED if explicit else [own for own in STOPPED if not own.startswith("drr.step")]
    assert [line(*event) for event in events] == expected
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    check(served, events[-1][1]["response"])
    assert len(events[-1][1]["response"]["drr"]["steps"]) == 2, "in the last event for every client"


async def test_a_stop_whole(served: PlayedServer) -> None:
    served.play(THOUGHT, scores=[0.1, 0.95])
    body = await whole(served)
    assert said(body) == [
        ("reasoning", "so: 1+2=3.\n\nSo the answer is 5.\n\n"),
        ("message", "\n\nThe answer is 5."),
    ]
    assert (body["status"], body["incomplete_details"], body["drr"]["stop_cause"]) == ("completed", None, "sure")
    check(served, body)


@pytest.mark.parametrize("stream", [False, True])
async def test_another_attempt(served: PlayedServer, stream: bool) -> None:
    drr = {"mode": "rethink", "accept": 0.9, "max_rethinks": 2}
    served.play(REJECTED, REJECTED, THOUGHT, scores=[0.2])
    if stream:
        body = (await served.events("/v1/responses", {**ASK, "drr": drr}))[-1][1]["response"]
    else:
        body = await whole(served, drr=drr)
    assert body["drr"]["attempts"] == 3
    assert [kind for kind, _ in said(body)] == ["reasoning", "message"]
    reasoning, answer = (text for _, text in said(body))
    assert reasoning.count("[this attempt was rejected; here is another]") == 2
    assert answer.startswith("\n\nThe answer is ")
    check(served, body)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_abstention_is_a_refusal(served: PlayedServer, stream: bool) -> None:
    served.play(THOUGHT, scores=[0.2])
    asked = {"drr": ABSTAIN}
    if not stream:
        body = await whole(served, **asked)
    else:
        events = await served.events("/v1/responses", {**ASK, **asked})
        kinds = [name for name, _ in events][-7:]
        assert kinds == [
            "response.output_item.added",
            "response.content_part.added",
            "response.refusal.delta",
            "response.refusal.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
        body = events[-1][1]["response"]
        assert events[-2][1]["item"] == body["output"][-1]
        assert events[-5][1]["delta"] == "I pass."
    assert [kind for kind, _ in said(body)] == ["reasoning", "message"]
    assert body["output"][-1]["content"] == [{"type": "refusal", "refusal": "I pass."}]
    assert body["drr"]["stop_cause"] == "abstained"
    check(served, body)


async def test_a_refusal_may_come_back_as_history(served: PlayedServer) -> None:
    served.play(THOUGHT, scores=[0.2])
    refused = await whole(served, drr=ABSTAIN)
    served.play(THOUGHT, scores=[0.95])
    again = [{"role": "user", "content": "2 + 3?"}, *refused["output"], {"role": "user", "content": "Try."}]
    body = await whole(served, input=again)
    assert body["status"] == "completed"
    prompt = served.played.tokenizer.decode(served.played.scripts[0].prompt)
    assert "I pass." in prompt


@pytest.mark.parametrize(("drr", "cause", "thinking"), [({"max_thinking_tokens": 4}, "max_thinking_tokens", 4)])
async def test_a_budget(served: PlayedServer, drr: dict[str, Any], cause: str, thinking: int) -> None:
    served.play(THOUGHT)
    body = await whole(served, drr=drr)
    assert (body["drr"]["stop_cause"], body["drr"]["thinking_tokens"]) == (cause, thinking)
    assert said(body)[-1] == ("message", "\n\nThe answer is 5.")
    check(served, body)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_max_output_tokens_cuts_is_incomplete(served: PlayedServer, stream: bool) -> None:
    served.play(THOUGHT)
    asked = {"max_output_tokens": 12, "drr": {"mode": "shadow"}}
    if stream:
        body = (await served.events("/v1/responses", {**ASK, **asked}))[-1][1]["response"]
    else:
        body = await whole(served, **asked)
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["usage"]["output_tokens"] == 12
    check(served, body)
    served.play(THOUGHT)
    kept = await whole(served, max_output_tokens=20)
    assert (kept["status"], kept["drr"]["stop_cause"]) == ("completed", "answer_reserve"), "room is kept to answer"
    assert said(kept)[-1][0] == "message"


TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
ADD = {
    "type": "function",
    "name": "add",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}
CALL = '\n\n<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("drr", [{"threshold": 0.9}, {"mode": "rethink", "max_rethinks": 1, "accept": 0.9}])
async def test_a_tool_call_behind_a_stop_and_behind_another_attempt(
    monkeypatch: pytest.MonkeyPatch, stream: bool, drr: dict[str, Any]
) -> None:
    served = await played_server(monkeypatch, *TOOLS)
    served.play(f"so: 1.\n\nSo.\n\nLet me check: 1+2=3.\n\n</think>{CALL}", answer=CALL, scores=[0.1, 0.95, 0.95])
    asked = {"tools": [ADD], "drr": drr}
    if stream:
        events = await served.events("/v1/responses", {**ASK, **asked})
        deltas = [data["delta"] for name, data in events if name == "response.function_call_arguments.delta"]
        assert json.loads("".join(deltas)) == {"a": 2, "b": 3}
        body = events[-1][1]["response"]
    else:
        body = await whole(served, **asked)
    (call,) = [item for item in body["output"] if item["type"] == "function_call"]
    assert (call["name"], json.loads(call["arguments"])) == ("add", {"a": 2, "b": 3})
    assert body["output"][0]["type"] == "reasoning"
    assert body["drr"]["stop_cause"] == ("sure" if "threshold" in drr else "natural")
    check(served, body)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "add"}])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_call_that_has_to_be(monkeypatch: pytest.MonkeyPatch, choice: Any, stream: bool) -> None:
    served = await played_server(monkeypatch, *TOOLS)
    served.play(f"so: 1.\n\nSo.\n\nLet me check: 1+2=3.\n\n</think>{CALL}", answer=CALL, scores=[0.1, 0.95])
    asked = {"tools": [ADD], "tool_choice": choice}
    events = await served.events("/v1/responses", {**ASK, **asked}) if stream else []
    body = events[-1][1]["response"] if stream else await whole(served, **asked)
    (call,) = [item for item in body["output"] if item["type"] == "function_call"]
    assert (call["name"], json.loads(call["arguments"])) == ("add", {"a": 2, "b": 3})
    assert body["drr"]["stop_cause"] == "sure"


async def test_log_probabilities_are_those_of_the_text(served: PlayedServer) -> None:
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}

    def tokens(body: dict[str, Any]) -> list[str]:
        return [entry["token"] for entry in body["output"][-1]["content"][0]["logprobs"]]

    served.play(THOUGHT, scores=[0.1, 0.95])
    body = await whole(served, **asked)
    served.play(THOUGHT, scores=[0.1, 0.95])
    streamed = (await served.events("/v1/responses", {**ASK, **asked}))[-1][1]["response"]
    assert tokens(body) == tokens(streamed)
    assert "".join(tokens(body)).startswith("\n\nThe answer is 5.")


async def test_a_schema_is_the_answers_and_not_the_thinkings(served: PlayedServer) -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    seen = []
    generate = served.played.generate

    def watched(engine: Any, prompt: Any, params: Any, *rest: Any, **options: Any) -> AsyncGenerator[Any, None]:
        seen.append(params.structured_outputs is not None)
        return generate(engine, prompt, params, *rest, **options)

    served.played.generate = watched  # type: ignore[method-assign]
    served.play(THOUGHT, answer='{"sum": 5}', scores=[0.1, 0.95])
    body = await whole(served, text={"format": {"type": "json_schema", "name": "sum", "schema": schema}})
    assert body["drr"]["stop_cause"] == "sure"
    assert json.loads(said(body)[-1][1]) == {"sum": 5}
    assert seen == [True, False, True], "whether the engine takes it, the thinking, the answer"
    check(served, body, trials=1)


async def test_the_conversation_before_is_seen_by_the_judge(
    served: PlayedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[str] = []

    def session(question: str, *_: Any, **__: Any) -> Any:
        questions.append(question)
        return served.scorer

    monkeypatch.setattr(served.scorer, "session", session)
    served.app.state.openai_serving_responses.enable_store = True
    served.play(THOUGHT, scores=[0.95])
    first = await whole(served, store=True)
    assert first["drr"]["stop_cause"] == "sure"
    served.play(THOUGHT, scores=[0.95])
    await whole(served, input="And 3 + 4?", previous_response_id=first["id"], store=True, instructions="Be brief.")
    assert questions[0] == "2 + 3?"
    assert questions[1].splitlines()[0] == "system: Be brief."
    assert "user: 2 + 3?" in questions[1]
    assert questions[1].endswith("user: And 3 + 4?")
    async with served.client() as client:
        stored = (await client.get(f"/v1/responses/{first['id']}")).json()
    assert stored == first, "with its account"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_in_the_background_has_its_account(served: PlayedServer, stream: bool) -> None:
    served.app.state.openai_serving_responses.enable_store = True
    served.play(THOUGHT, scores=[0.1, 0.95])
    asked = {**ASK, "background": True, "store": True}
    if stream:
        events = await served.events("/v1/responses", asked)
        assert events[-1][1]["response"]["drr"]["stop_cause"] == "sure"
        return
    queued = (await served.post("/v1/responses", asked)).json()
    assert queued["status"] == "queued"
    async with served.client() as client:
        for _ in range(200):
            body = (await client.get(f"/v1/responses/{queued['id']}")).json()
            if body["status"] == "completed":
                break
            await asyncio.sleep(0.01)
    assert body["drr"]["stop_cause"] == "sure"
    check(served, body)


@pytest.mark.parametrize(
    ("fields", "headers", "param"),
    [
        ({"drr": {"treshold": 0.9}}, {}, "drr.treshold"),
        ({"drr": {"threshold": 2}}, {}, "drr.threshold"),
        ({"drr": 7}, {}, "drr"),
        ({"drr": {"mode": "stop", "max_rethinks": 2}}, {}, "drr.max_rethinks"),
        ({}, {"X-DRR": '{"moode": "stop"}'}, "X-DRR.moode"),
        ({"drr": {}}, {"X-DRR": "{}"}, "drr"),
        ({"vllm_xargs": {"drr": "x"}}, {}, "vllm_xargs"),
        ({"extra_body": {"drr": {}}}, {}, "extra_body"),
        ({"model": "played:full", "drr": {"mode": "auto"}}, {}, "drr.mode"),
        ({"chat_template": "{{ 1 }}"}, {}, "chat_template"),
        ({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, {}, "chat_template_kwargs"),
    ],
)
async def test_bad_requests_name_the_key(
    served: PlayedServer, fields: dict[str, Any], headers: dict[str, str], param: str
) -> None:
    response = await served.post("/v1/responses", {**ASK, **fields}, **headers)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["type"]) == (param, "BadRequestError")
    assert served.played.requests == 0


async def test_header_aliases_and_outcome(served: PlayedServer) -> None:
    served.play(THOUGHT, scores=[0.1, 0.95])
    header = await served.post("/v1/responses", ASK, **{"X-DRR": '{"max_thinking_tokens": 4}'})
    assert header.json()["drr"]["thinking_tokens"] == 4
    assert header.headers["x-drr-outcome"].startswith("cause=max_thinking_tokens")
    for alias, mode in (("drr", "auto"), ("full", "off")):
        served.play(THOUGHT, scores=[0.1, 0.95])
        body = await whole(served, model=f"played:{alias}")
        assert (body["drr"]["settings"]["mode"], body["model"]) == (mode, "played")


async def test_report_none_says_nothing(served: PlayedServer) -> None:
    served.play(THOUGHT, scores=[0.1, 0.95])
    assert "drr" not in await whole(served, drr={"report": "none"})
    served.play(THOUGHT, scores=[0.1, 0.95])
    events = await served.events("/v1/responses", {**ASK, "drr": {"report": "none"}})
    assert not any("drr" in json.dumps(data) for _, data in events)


def plain(value: Any) -> Any:
    """Without what differs from call to call, and without DRR's account."""
    if isinstance(value, dict):
        hidden = ("id", "item_id", "created_at", "drr", "output_tokens_details")
        return {key: plain(own) for key, own in value.items() if key not in hidden}
    return [plain(own) for own in value] if isinstance(value, list) else value


@pytest.mark.parametrize("stream", [False, True])
async def test_off_is_what_vllm_itself_would_say(
    served: PlayedServer, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> Any:
        served.play(THOUGHT)
        if stream:
            return await served.events("/v1/responses", {**ASK, "model": "played:full"})
        return await whole(served, model="played:full")

    ours = await ask()
    handler = served.app.state.openai_serving_responses
    bare = object.__new__(OpenAIServingResponses)
    bare.__dict__.update(vars(handler))
    bare.parser = handler.parser.plain
    served.app.state.openai_serving_responses = bare
    served.engine.drr = None
    served.play(THOUGHT)
    body = {**ASK, "model": "played"}
    vllm: Any = await served.events("/v1/responses", body) if stream else await whole(served)
    if not stream:
        assert plain(ours) == plain(vllm)
        return
    assert [name for name, _ in ours] == [name for name, _ in vllm]
    for (_, own), (_, other) in zip(ours, vllm, strict=True):
        assert plain(own) == plain(other)


async def test_a_client_that_leaves_lets_go_of_the_engine(served: PlayedServer) -> None:
    served.play(THOUGHT.partition("</think>")[0] * 20, scores=[0.1])
    served.played.pace = 0.005
    handler: DrrResponses = served.app.state.openai_serving_responses
    request = ResponsesRequest.model_validate({**ASK, "model": "played", "stream": True})
    stream: Any = await handler.create_responses(request)
    async for event in stream:
        if event.type == "response.reasoning_text.delta":
            break
    assert served.played.running == 1
    await stream.aclose()
    assert served.played.running == 0


async def test_where_vllm_parses_the_tokens_itself_nothing_is_judged_and_that_is_said(
    served: PlayedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.responses.vllm_parses_responses_itself", lambda: True)
    for fields, headers in (({"drr": {}}, {}), ({}, {"X-DRR": "{}"}), ({"model": "played:drr"}, {})):
        response = await served.post("/v1/responses", {**ASK, **fields}, **headers)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "drr")
        assert "/v1/chat/completions" in response.json()["error"]["message"]
    served.play(THOUGHT)
    assert "drr" not in await whole(served, model="played:full")

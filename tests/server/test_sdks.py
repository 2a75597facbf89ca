"""OpenAI's and Anthropic's own SDKs, as their documentation uses them, on /v1/responses and /v1/messages."""

from typing import Any

import pytest
from pydantic import BaseModel

from tests.server.played_app import MODEL, THOUGHT, PlayedServer, played_server

CALL = '\n\n<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
FUNCTION: Any = {"type": "function", "name": "add", "parameters": SCHEMA, "strict": False}
TOOL: Any = {"name": "add", "input_schema": SCHEMA}
ABSTAIN = {"mode": "rethink", "accept": 0.99, "max_rethinks": 0, "on_exhausted": "abstain", "refusal": "I pass."}
BUDGET = {"max_thinking_tokens": 4}
"""No boundary lies within it."""
RETHINK = {"mode": "rethink", "accept": 0.99, "max_rethinks": 1}
ASK: Any = {"model": MODEL, "input": "2 + 3?"}
MESSAGE: Any = {"model": MODEL, "messages": [{"role": "user", "content": "2 + 3?"}], "max_tokens": 1500}


class Sum(BaseModel):
    sum: int


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> PlayedServer:
    made = await played_server(monkeypatch, "--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    made.play(THOUGHT, scores=[0.1, 0.95])
    return made


# OpenAI ---------------------------------------------------------------------------------------------------------


async def test_openai_creates_and_streams(served: PlayedServer) -> None:
    async with served.openai() as client:
        response: Any = await client.responses.create(**ASK, extra_body={"drr": {"threshold": 0.9}})
        assert response.output_text == "\n\nThe answer is 5."
        assert response.output[0].content[0].text == "so: 1+2=3.\n\nSo the answer is 5.\n\n"
        assert response.drr["stop_cause"] == "sure"
        assert response.usage.output_tokens == served.played.generated
        served.play(THOUGHT, scores=[0.1, 0.95])
        types = [event.type async for event in await client.responses.create(**ASK, stream=True)]
        assert types[0] == "response.created"
        assert types[-1] == "response.completed"


@pytest.mark.parametrize("drr", [None, {"threshold": 0.9}, BUDGET, RETHINK, ABSTAIN])
async def test_openais_stream_helper(served: PlayedServer, drr: Any) -> None:
    asked = {**ASK, "extra_body": {} if drr is None else {"drr": drr}}
    async with served.openai() as client:
        whole: Any = await client.responses.create(**asked)
        served.play(THOUGHT, scores=[0.1, 0.95])
        async with client.responses.stream(**asked) as stream:
            events: list[Any] = [event async for event in stream]
            final: Any = await stream.get_final_response()
    assert final.drr["stop_cause"] == whole.drr["stop_cause"]
    assert final.output_text == whole.output_text
    assert [item.type for item in final.output] == [item.type for item in whole.output]
    assert final.usage == whole.usage
    steps = [event.drr["step"]["index"] for event in events if event.type == "drr.step"]
    assert bool(steps) is (drr not in (None, BUDGET))
    if drr is ABSTAIN:
        assert final.output[-1].content[0].refusal == "I pass."


async def test_openai_calls_a_tool_and_goes_on(served: PlayedServer) -> None:
    served.play(f"so.\n\n</think>{CALL}", answer=CALL, scores=[0.95])
    async with served.openai() as client:
        first = await client.responses.create(**ASK, tools=[FUNCTION])
        (call,) = [item for item in first.output if item.type == "function_call"]
        served.play(THOUGHT, scores=[0.95])
        asked: list[Any] = [
            {"role": "user", "content": ASK["input"]},
            *first.output,
            {"type": "function_call_output", "call_id": call.call_id, "output": "5"},
        ]
        second = await client.responses.create(model=MODEL, input=asked, tools=[FUNCTION])
        assert second.output_text == "\n\nThe answer is 5."
        served.play(f"so.\n\n</think>{CALL}", answer=CALL, scores=[0.95])
        async with client.responses.stream(**ASK, tools=[FUNCTION]) as stream:
            final = await stream.get_final_response()
        (again,) = [item for item in final.output if item.type == "function_call"]
        assert (again.name, again.arguments) == (call.name, call.arguments)


async def test_openai_parses_a_schema(served: PlayedServer) -> None:
    served.play(THOUGHT, answer='{"sum": 5}', scores=[0.1, 0.95])
    async with served.openai() as client:
        parsed = await client.responses.parse(**ASK, text_format=Sum)
        assert parsed.output_parsed == Sum(sum=5)


# Anthropic ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"extra_body": {"drr": {"threshold": 0.9}}},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"thinking": {"type": "disabled"}},
        {"extra_body": {"drr": RETHINK}},
        {"extra_body": {"drr": ABSTAIN}},
    ],
)
async def test_anthropic_creates_and_streams(served: PlayedServer, asked: dict[str, Any]) -> None:
    async with served.anthropic() as client:
        whole = await client.messages.create(**MESSAGE, **asked)
        assert whole.usage.output_tokens == served.played.generated
        served.play(THOUGHT, scores=[0.1, 0.95])
        drr: Any = None
        async with client.messages.stream(**MESSAGE, **asked) as stream:
            async for event in stream:
                assert event.type != "ping"
                if event.type == "message_delta":
                    drr = event.drr
            final = await stream.get_final_message()
    kinds = [block.type for block in whole.content]
    assert [block.type for block in final.content] == kinds
    assert final.content[-1].text == whole.content[-1].text
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert final.usage.output_tokens_details == whole.usage.output_tokens_details
    assert drr["stop_cause"] == whole.drr["stop_cause"]
    if asked.get("thinking") == {"type": "disabled"}:
        assert kinds == ["text"]
    if whole.stop_reason == "refusal":
        assert final.stop_details.explanation == "I pass."


async def test_anthropic_calls_a_tool_and_goes_on(served: PlayedServer) -> None:
    async with served.anthropic() as client:
        for number in range(2):
            served.play(f"so.\n\n</think>{CALL}", answer=CALL, scores=[0.95])
            if number:
                async with client.messages.stream(**MESSAGE, tools=[TOOL]) as stream:
                    first = await stream.get_final_message()
            else:
                first = await client.messages.create(**MESSAGE, tools=[TOOL])
            (call,) = [block for block in first.content if block.type == "tool_use"]
            assert (first.stop_reason, call.input) == ("tool_use", {"a": 2, "b": 3})
        served.play(THOUGHT, scores=[0.95])
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "5"}
        messages = [
            *MESSAGE["messages"],
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        second = await client.messages.create(**{**MESSAGE, "messages": messages}, tools=[TOOL])
        assert second.content[-1].text == "\n\nThe answer is 5."


async def test_anthropic_is_told_what_is_wrong(served: PlayedServer) -> None:
    anthropic = pytest.importorskip("anthropic", reason="needs the dev extra")
    async with served.anthropic() as client:
        with pytest.raises(anthropic.BadRequestError) as caught:
            await client.messages.create(**MESSAGE, extra_body={"drr": {"treshold": 1}})
    assert caught.value.body["error"]["param"] == "drr.treshold"
    assert caught.value.body["error"]["type"] == "invalid_request_error"

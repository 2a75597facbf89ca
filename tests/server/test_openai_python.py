"""openai-python as it is: every call of the SDK that answers a chat gives the same text, thinking and counts."""

import json
from typing import Annotated, Any

import openai
import pytest
from pydantic import Field, RootModel

from tests.server.running import MODEL, Server

ASKED: Any = {
    "model": MODEL,
    "messages": [
        {"role": "user", "content": "Tom has 12 apples. He buys 3 bags of 8 apples each. How many apples does he have?"}
    ],
    "temperature": 0,
    "max_tokens": 400,
    "seed": 1,
}
USAGE: Any = {"stream_options": {"include_usage": True}}


class Sentence(RootModel[Annotated[str, Field(pattern=r"^The answer is [0-9]{2}\.$")]]):
    """A JSON text whose grammar leaves no room for blanks: the reference Reasoner would write nothing else."""


@pytest.fixture(scope="module")
def created(server: Server) -> Any:
    return server.sdk.chat.completions.create(**ASKED)


def texts(response: Any) -> tuple[str, str]:
    """(thinking, content) of a whole response."""
    message = response.choices[0].message
    return message.reasoning, message.content


def test_create(created: Any) -> None:
    thinking, content = texts(created)
    assert thinking
    assert "The answer is" in content
    assert created.choices[0].finish_reason == "stop"
    assert created.drr["thinking_tokens"] > 0
    assert 0 < created.usage.completion_tokens_details.reasoning_tokens < created.usage.completion_tokens


def test_create_streamed_with_the_first_choice_of_every_chunk(server: Server, created: Any) -> None:
    thinking = content = ""
    for chunk in server.sdk.chat.completions.create(**ASKED, stream=True):
        delta = chunk.choices[0].delta
        thinking += getattr(delta, "reasoning", None) or ""
        content += delta.content or ""
    assert (thinking, content) == texts(created)
    assert chunk.choices[0].finish_reason == "stop"
    assert chunk.model_extra is not None
    assert chunk.model_extra["drr"]["stop_cause"] == created.drr["stop_cause"]


@pytest.mark.parametrize("drr", [None, {"threshold": 0.9}, {"mode": "off"}])
def test_the_stream_helper(server: Server, drr: Any) -> None:
    asked = {**ASKED, "extra_body": {} if drr is None else {"drr": drr}}
    whole = server.sdk.chat.completions.create(**asked)
    with server.sdk.chat.completions.stream(**asked, **USAGE) as stream:
        final = stream.get_final_completion()
    assert texts(final) == texts(whole)
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason
    assert final.usage is not None, "nothing comes behind the usage"
    assert final.usage.completion_tokens == whole.usage.completion_tokens
    assert final.usage.completion_tokens_details == whole.usage.completion_tokens_details


def test_the_stream_helper_tells_the_content_as_it_comes(server: Server, created: Any) -> None:
    with server.sdk.chat.completions.stream(**ASKED) as stream:
        events = list(stream)
    assert "".join(event.delta for event in events if event.type == "content.delta") == texts(created)[1]
    assert [event.content for event in events if event.type == "content.done"] == [texts(created)[1]]


def test_parse(server: Server, created: Any) -> None:
    parsed = server.sdk.chat.completions.parse(**ASKED, response_format=Sentence)
    message = parsed.choices[0].message
    assert message.parsed is not None
    assert message.parsed.root == json.loads(message.content or "")
    assert texts(parsed)[0] == texts(created)[0], "the grammar is the answer's, not the thinking's"


async def test_the_asynchronous_client(server: Server, created: Any) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert texts(await client.chat.completions.create(**ASKED)) == texts(created)
        content = ""
        async for chunk in await client.chat.completions.create(**ASKED, stream=True):
            content += chunk.choices[0].delta.content or ""
        assert content == texts(created)[1]
        async with client.chat.completions.stream(**ASKED, **USAGE) as stream:
            final = await stream.get_final_completion()
        assert texts(final) == texts(created)
        assert final.usage is not None


def test_a_default_header_goes_with_every_call(server: Server) -> None:
    headers = {"X-DRR": json.dumps({"max_thinking_tokens": 10})}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", default_headers=headers, max_retries=0) as client:
        response: Any = client.chat.completions.create(**ASKED)
        assert response.drr["thinking_tokens"] == 10
        assert MODEL in [model.id for model in client.models.list()]

"""The streaming client against a server of a few lines: what it shows, and what it says when it cannot."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from clients.stream import main
from tests.local_http import served

app = FastAPI()


@app.post("/v1/chat/completions")
async def answer(request: Request) -> Response:
    model = (await request.json())["model"]
    if model == "dying":
        return StreamingResponse(iter(["data: {broken\n\n"]), media_type="text/event-stream")
    if model != "drr-reference":
        error = {"message": f"The model `{model}` does not exist.", "type": "NotFoundError", "code": 404}
        return JSONResponse({"error": error}, 404)

    def chunks() -> Iterator[str]:
        common = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": model}
        for delta in ({"reasoning": "3+4 is 7."}, {"content": "It is 7."}):
            yield f"data: {json.dumps({**common, 'choices': [{'index': 0, 'delta': delta}]})}\n\n"
        drr = {"stop_cause": "sure", "thinking_tokens": 4, "discarded_tokens": 0}
        yield f"data: {json.dumps({**common, 'choices': [], 'drr': drr})}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(chunks(), media_type="text/event-stream")


async def ask(path: str, *arguments: str) -> int:
    async with served(app) as url:
        return await asyncio.to_thread(main, ["What is 3+4?", "--url", f"{url}{path}", *arguments])


async def test_thinking_answer_and_account_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert await ask("/v1") == 0
    said = capsys.readouterr().out
    assert "3+4 is 7.It is 7." in said
    assert "sure: 4 thinking tokens" in said


@pytest.mark.parametrize(
    ("path", "model", "said"),
    [
        ("/v1", "gpt-9", "answered 404: The model `gpt-9` does not exist."),
        (
            "",
            "drr-reference",
            "/chat/completions answered 404: is it the address of an API, as in http://host:port/v1?",
        ),
        ("/v2", "drr-reference", "/v2/chat/completions answered 404: is it the address"),
    ],
)
async def test_a_wrong_address_or_model_is_one_sentence(
    path: str, model: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await ask(path, "--model", model) == 1
    told = capsys.readouterr().err
    assert told.startswith("clients.stream: the server at http://127.0.0.1:")
    assert said in told
    assert told.count("\n") == 1


async def test_a_stream_that_breaks_off_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert await ask("/v1", "--model", "dying") == 1
    told = capsys.readouterr().err
    assert told.startswith("clients.stream: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/v1", "nowhere", "http://[", "http://nowhere.invalid/v1", "ftp://h"]
)
def test_a_server_that_is_not_there_is_one_sentence(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", url]) == 1
    told = capsys.readouterr().err
    assert told.startswith("clients.stream: the server")
    assert "cannot be reached" in told
    assert told.count("\n") == 1

"""Failures before the first word of a stream are HTTP errors, and no error repeats much of what was sent."""

import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware import Middleware

from server.early_failures import EarlyFailures
from server.vllm_api import EngineDeadError, VLLMValidationError
from tests.server.admission.asgi import Client

ERROR = {
    "error": {"message": "logit_bias: no such token", "type": "BadRequestError", "param": "logit_bias", "code": 400}
}
ANTHROPIC = {"type": "error", "error": {"type": "BadRequestError", "message": "no such token"}}


def app_of(*events: str | Exception, status: int = 200) -> FastAPI:
    """Streams these events, as vLLM does, or raises where one is an exception."""
    app = FastAPI(middleware=[Middleware(EarlyFailures)])
    app.exception_handler(VLLMValidationError)(lambda request, error: JSONResponse({"error": "unused"}, 400))

    async def streamed() -> Any:
        for event in events:
            if isinstance(event, Exception):
                raise event
            yield event

    async def respond() -> StreamingResponse:
        return StreamingResponse(streamed(), status_code=status, media_type="text/event-stream")

    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
        app.post(path)(respond)
    return app


async def answer(app: FastAPI, path: str = "/v1/chat/completions") -> Client:
    client = Client(app, path=path)
    await client.done()
    return client


def data(event: Any) -> str:
    return f"data: {json.dumps(event)}\n\n"


async def test_a_stream_that_fails_at_once_is_an_http_error() -> None:
    refused = await answer(app_of(data(ERROR), "data: [DONE]\n\n"))
    assert (refused.status, refused.error) == (400, ERROR["error"])
    assert refused.headers["content-type"] == "application/json"
    assert refused.complete
    busy = {"error": {**ERROR["error"], "code": 503, "type": "ServiceUnavailableError"}}
    assert (await answer(app_of(data(busy)))).status == 503


async def test_anthropics_and_responses_errors_count_too() -> None:
    refused = await answer(app_of(f"event: error\n{data(ANTHROPIC)}"), "/v1/messages")
    assert (refused.status, json.loads(refused.text)["type"]) == (400, "error")
    prelude = [f"event: response.{name}\ndata: {{}}\n\n" for name in ("created", "in_progress")]
    error = VLLMValidationError("bad grammar", parameter="text")
    refused = await answer(app_of(*prelude, error), "/v1/responses")
    assert (refused.status, refused.error["param"]) == (400, "text")
    assert "bad grammar" in refused.error["message"]
    begun = await answer(app_of(*prelude, "event: response.output_text.delta\ndata: {}\n\n"), "/v1/responses")
    assert (begun.status, begun.text.count("event: ")) == (200, 3)


async def test_what_has_begun_goes_on() -> None:
    words = data({"choices": [{"delta": {"content": 'data: {"error"'}}]})
    client = await answer(app_of(words, data(ERROR), "data: [DONE]\n\n"))
    assert client.status == 200
    assert client.text == words + data(ERROR) + "data: [DONE]\n\n"
    assert (await answer(app_of())).status == 200


@pytest.mark.parametrize(
    ("path", "ends"),
    [("/v1/chat/completions", "data: [DONE]\n\n"), ("/v1/messages", "}\n\n"), ("/v1/responses", "}\n\n")],
)
async def test_a_stream_that_fails_later_says_so_and_ends(path: str, ends: str) -> None:
    words = data({"choices": [{"delta": {"content": "a"}}]})
    for error, said in ((VLLMValidationError("too late"), "too late"), (EngineDeadError(), "has died")):
        client = await answer(app_of(words, error), path)
        assert (client.status, client.complete) == (200, True)
        event = client.text.removeprefix(words)
        assert '"error"' in event
        assert said in event
        assert event.endswith(ends)
    client = Client(app_of(words, KeyError("ours")), path=path)
    with pytest.raises(KeyError):
        await client.done()
    assert client.complete
    assert client.text.endswith(ends)


async def test_a_stream_that_has_ended_says_no_more() -> None:
    class EndsThenFails:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)
            raise VLLMValidationError("behind the end")

    for events in ((), (data({}), data({}))):
        app = app_of(*events)
        app.user_middleware.append(Middleware(EndsThenFails))
        client = Client(app, path="/v1/chat/completions")
        with pytest.raises(VLLMValidationError):
            await client.done()
        assert client.text == "".join(events)


async def test_an_engine_that_is_gone_is_503_and_a_fault_of_ours_is_told_to_the_log() -> None:
    assert (await answer(app_of(EngineDeadError()))).status == 503
    client = Client(app_of(KeyError("ours")))
    with pytest.raises(KeyError):
        await client.done()
    assert client.status == 500
    assert client.error["type"] == "InternalServerError"


async def test_no_error_repeats_a_long_value() -> None:
    app = FastAPI(middleware=[Middleware(EarlyFailures)])

    @app.post("/long")
    async def long() -> JSONResponse:
        error = {"message": "x" * 10_000_000, "type": "NotFoundError", "param": "m" * 5000, "code": 404}
        return JSONResponse({"error": {**error, "seen": list(range(100_000))}}, 404)

    @app.post("/whole")
    async def whole() -> JSONResponse:
        return JSONResponse({"text": "y" * 5000})

    client = await answer(app, "/long")
    assert (client.status, client.error["type"], client.error["code"]) == (404, "NotFoundError", 404)
    assert len(client.text) < 2000
    assert int(client.headers["content-length"]) == len(client.text)
    assert "10,000,000 characters" in client.error["message"]
    assert len((await answer(app, "/whole")).text) > 5000


async def test_what_fastapi_refuses_has_the_shape_of_all_errors() -> None:
    app = FastAPI(middleware=[Middleware(EarlyFailures)])

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, Any]) -> str:
        return "never"

    client = Client(app, body=b'{"seed": ' + b"1" * 5000 + b"}", headers={"content-type": "application/json"})
    await client.done()
    assert (client.status, client.error["param"], client.error["code"]) == (400, "body", 400)
    assert client.error["message"] == "body: There was an error parsing the body"
    missing = Client(app, path="/nowhere")
    await missing.done()
    assert (missing.status, missing.error["message"], missing.error["param"]) == (404, "Not Found", None)

"""What benchmarks of servers read and conclude: answers in bytes, starts in turn, sizes that grow, loads compared."""

import json
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from benchmarks.answers import Answer
from benchmarks.light_client import LightClient, Reply, request
from benchmarks.memory import flat
from benchmarks.overload import Phase, _answer, _tell
from benchmarks.server_processes import Size
from benchmarks.start import Start, ratio
from tests.local_http import served


def told() -> FastAPI:
    app = FastAPI()
    app.state.asked = 0

    @app.post("/whole")
    async def whole(request: Request) -> JSONResponse:
        app.state.asked += 1
        return JSONResponse(await request.json(), status_code=429, headers={"retry-after": "7"})

    @app.post("/streamed")
    async def streamed() -> StreamingResponse:
        async def parts() -> Any:
            yield "data: one\n\n"
            yield "data: two\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    return app


async def test_answers_are_read_whole_and_in_chunks_on_one_connection() -> None:
    app = told()
    async with served(app) as url:
        client = LightClient(url)
        for _ in range(3):
            reply = await client.ask(request("/whole", {"a": "ä"}))
            assert (reply.status, json.loads(reply.text), reply.header("Retry-After")) == (429, {"a": "ä"}, "7")
            streamed = await client.ask(request("/streamed", {}))
            assert (streamed.status, streamed.text) == (200, "data: one\n\ndata: two\n\n")
            assert 0 < streamed.first <= streamed.seconds
        assert len(client._idle) == 1
        client.close()
    assert app.state.asked == 3
    gone = await LightClient(url).ask(request("/whole", {}))
    assert gone.status == 0
    assert gone.header("retry-after") is None


def test_a_broken_connection_is_a_lost_request() -> None:
    assert _answer(0, Reply(0, b"", b"", 0.0, 1.0)).fate == "broken"


SIZE = Size(100.0, 90.0, 40, 9)


def phase(seconds: float, *more: Answer) -> Phase:
    return Phase([*(Answer("complete", "stop", 0.1, seconds) for _ in range(20)), *more], 10.0, 0.1, 0.0)


@pytest.mark.parametrize(
    ("overload", "after", "status"),
    [
        (phase(1.4, Answer("error", "429", 0.01, 0.01)), SIZE, 0),
        (phase(1.6, Answer("error", "429", 0.01, 0.01)), SIZE, 1),
        (phase(1.4, Answer("error", "429", 0.2, 0.2)), SIZE, 1),
        (phase(1.4, Answer("broken", "the connection broke", 0.0, 1.0)), SIZE, 1),
        (phase(1.4), Size(100.0, 99.0, 40, 9), 1),
    ],
)
def test_an_overload_is_held_against_capacity(overload: Phase, after: Size, status: int) -> None:
    assert _tell(phase(0.9), overload, phase(1.0), 100.0, SIZE, after) == status


def test_starts_are_compared_by_their_medians() -> None:
    starts = [
        Start(server, ready, ready + 1, 0.0)
        for server, times in (("raw vLLM", (10.0, 12.0, 99.0)), ("DRR", (12.0, 15.0, 18.0)))
        for ready in times
    ]
    assert ratio(starts) == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("last", "is_flat"),
    [
        ({"mib": 104.0, "files": 5, "threads": 3}, True),
        ({"mib": 106.0, "files": 5, "threads": 3}, False),
        ({"mib": 100.0, "files": 6, "threads": 3}, False),
        ({"mib": 100.0, "files": 5, "threads": 4}, False),
    ],
)
def test_a_server_that_grew_is_found(last: dict[str, Any], is_flat: bool) -> None:
    assert flat({"mib": 100.0, "files": 5, "threads": 3}, last) is is_flat

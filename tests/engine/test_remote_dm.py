"""A DM elsewhere: the same scores, and a server that is away is no death."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from drr import reference
from drr.checks import check_url
from drr.engine.remote_dm import remote_dm
from drr.errors import InputError
from drr.judge.dm_folder import DmCard, load_dm_head
from drr.loop.scoring import Boundary
from tests.local_http import served

FOLDER = reference.dm_folder()


def classifier(context: int = 2048) -> FastAPI:
    """Gives the input's length and its last id as logits."""
    app = FastAPI()
    app.state.bodies, app.state.broken = [], False

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"data": [{"id": "dm", "max_model_len": context}]}

    @app.post("/classify")
    async def classify(request: Request) -> Any:
        if app.state.broken:
            return JSONResponse({"error": "busy"}, 503)
        body = await request.json()
        app.state.bodies.append(body)
        return {"data": [{"index": 0, "probs": [len(body["input"]) / 100, body["input"][-1] / 1000]}]}

    return app


async def test_every_boundary_is_classified_there_and_fused_here() -> None:
    app, card, head = classifier(), DmCard.load(FOLDER), load_dm_head(FOLDER)
    async with served(app) as url:
        remote, scorer = await asyncio.to_thread(remote_dm, card, FOLDER, url)
        session = scorer.session("What is 1 + 2?")
        first = await session.score(Boundary(0, "1+2=3.\n\n", None))
        await session.score(Boundary(1, "So 3.\n\n", None))
        await remote.aclose()
    short, long = (body["input"] for body in app.state.bodies)
    assert long[: len(short)] == short
    assert len(long) > len(short)
    assert all(body["use_activation"] is False for body in app.state.bodies)
    assert first == head.score((len(short) / 100, short[-1] / 1000), None)
    assert scorer.id == card.id


async def test_failures_pass_and_the_dm_is_not_given_up() -> None:
    app = classifier()
    async with served(app) as url:
        remote, scorer = await asyncio.to_thread(remote_dm, DmCard.load(FOLDER), FOLDER, url)
        session = scorer.session("What is 1 + 2?")
        app.state.broken = True
        with pytest.raises(httpx.HTTPStatusError):
            await session.score(Boundary(0, "1+2=3.\n\n", None))
        app.state.broken = False
        await session.score(Boundary(1, "So 3.\n\n", None))
        assert not scorer.dead
    with pytest.raises(httpx.HTTPError):
        await session.score(Boundary(2, "Yes.\n\n", None))
    await remote.aclose()
    assert not scorer.dead


async def test_a_server_that_does_not_fit_is_refused() -> None:
    async with served(classifier(context=64)) as url:
        with pytest.raises(InputError, match="64 tokens at most"):
            await asyncio.to_thread(remote_dm, DmCard.load(FOLDER), FOLDER, url)
    with pytest.raises(InputError, match="does not answer as a vLLM server"):
        await asyncio.to_thread(remote_dm, DmCard.load(FOLDER), FOLDER, url)


async def test_no_error_shows_the_password_of_an_address(caplog: pytest.LogCaptureFixture) -> None:
    card, app = DmCard.load(FOLDER), classifier(context=10)
    with pytest.raises(InputError) as error:
        remote_dm(card, FOLDER, "http://name:s3cret@127.0.0.1:9/v1")
    assert "http://127.0.0.1:9/v1 does not answer" in str(error.value)
    assert "s3cret" not in str(error.value)
    async with served(app) as url:
        with pytest.raises(InputError, match="reads 10 tokens") as error:
            await asyncio.to_thread(remote_dm, card, FOLDER, url.replace("://", "://name:s3cret@"))
    assert "s3cret" not in str(error.value)
    with pytest.raises(InputError, match="must be an address") as error:
        check_url("--dm-url", "ftp://name:s3cret s3cret@host")
    assert "s3cret" not in str(error.value)


async def test_the_password_of_an_address_is_used() -> None:
    app, seen = classifier(), list[str]()

    @app.middleware("http")
    async def look(request: Request, call_next: Any) -> Any:
        seen.append(request.headers.get("authorization", ""))
        return await call_next(request)

    async with served(app) as url:
        remote, scorer = await asyncio.to_thread(
            remote_dm, DmCard.load(FOLDER), FOLDER, url.replace("://", "://me:a%40b@")
        )
        await scorer.session("1 + 1?").score(Boundary(0, "2.", None))
        app.state.broken = True
        with pytest.raises(httpx.HTTPStatusError) as error:
            await scorer.session("1 + 1?").score(Boundary(0, "2.", None))
        await remote.aclose()
    assert "a%40b" not in repr(error.value)
    assert set(seen) == {"Basic bWU6YUBi"}

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


async def test_no_error_shows_a_password() -> None:
    async with served(classifier(context=64)) as url:
        named = url.replace("http://", "http://somebody:hush@")
        with pytest.raises(InputError, match="64 tokens at most") as small:
            await asyncio.to_thread(remote_dm, DmCard.load(FOLDER), FOLDER, named)
        with pytest.raises(InputError, match="does not answer") as missing:
            await asyncio.to_thread(remote_dm, DmCard.load(FOLDER), FOLDER, f"{named}/elsewhere")
    with pytest.raises(InputError, match="must be an address") as wrong:
        check_url("--dm-url", "ftp://somebody:hush hush@host")
    for error in (small, missing, wrong):
        assert "somebody:***@" in str(error.value)
        assert "hush" not in str(error.value)

"""The driver of Open WebUI, against a few lines that answer as Open WebUI does."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from clients import open_webui
from tests.local_http import served


def front_end(*, thinks: bool = True, models: tuple[str, ...] = ("drr-reference",)) -> FastAPI:
    app = FastAPI()
    chunks: list[dict[str, Any]] = [{"content": "The answer is "}, {"content": "36."}]
    chunks[:0] = [{"reasoning_content": "bags: 3*8=24."}] if thinks else []

    @app.post("/api/v1/auths/signup")
    async def signup() -> dict[str, str]:
        return {"token": "the-token"}

    @app.get("/api/models")
    async def listed(request: Request) -> dict[str, Any]:
        assert request.headers["authorization"] == "Bearer the-token"
        return {"data": [{"id": name} for name in models]}

    @app.post("/api/chat/completions")
    async def chat(request: Request) -> PlainTextResponse:
        assert (await request.json())["stream"]
        events = [{"choices": [{"delta": delta}]} for delta in chunks] + [{"usage": {}}]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return PlainTextResponse(f"{text}data: [DONE]\n\n", media_type="text/event-stream")

    return app


async def ask(app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The script's exit status, with `app` standing in for Open WebUI and without a browser."""
    async with served(app) as url:

        @contextlib.contextmanager
        def running(*_: Any) -> Iterator[str]:
            yield url

        monkeypatch.setattr(open_webui, "installed", lambda folder: folder / "open-webui")
        monkeypatch.setattr(open_webui, "served", running)
        monkeypatch.setattr(open_webui.shutil, "which", lambda name: None)
        return await asyncio.to_thread(open_webui.main, ["--environment", str(tmp_path)])


async def test_what_arrives_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await ask(front_end(), tmp_path, monkeypatch) == 0
    told = capsys.readouterr().out
    assert "models: drr-reference" in told
    assert "13 characters of thinking, 'The answer is 36.'" in told


async def test_what_is_missing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await ask(front_end(thinks=False, models=("another",)), tmp_path, monkeypatch) == 1
    told = capsys.readouterr().out
    assert "missing: the model drr-reference" in told
    assert "missing: the thinking, through its API" in told


def test_one_that_does_not_come_up_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(open_webui, "installed", lambda folder: broken)
    assert open_webui.main(["--environment", str(tmp_path)]) == 1
    assert "did not come up" in capsys.readouterr().out

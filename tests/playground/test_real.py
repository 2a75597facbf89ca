"""The page and `drr chat` on a real server of the reference models."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.playground.browsing import ARGUMENTS, chromium
from tests.server.running import MODEL, QUESTION, Server, start, stop

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    chromium()
    running = start(tmp_path_factory.mktemp("page") / "log", "--dm-deadline-ms", "60000")
    yield running
    stop(running)


def test_a_question_is_asked_judged_and_cut(real: Server) -> None:
    from playwright.sync_api import sync_playwright

    assert f"The playground is at {real.url}/" in real.log.read_text()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        page = browser.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(real.url)
        page.locator("#server", has_text=MODEL).wait_for()
        page.locator("#seed").fill("1")
        page.locator("#question").fill(QUESTION)
        page.locator("#question").press("Enter")
        page.locator("#told", has_text="more tokens").wait_for(timeout=60_000)
        outcome = real.ask(seed=1, drr={"mode": "auto"}).drr
        assert outcome["stop_cause"] == "sure"
        assert page.locator("#headline").inner_text() == f"Sure enough after {outcome['thinking_tokens']} tokens."
        scores = page.locator(".column.drr .score").all_inner_texts()
        assert scores == [f"{step['p_now']:.2f}" for step in outcome["steps"]]
        page.locator("#replay-threshold").fill("0.5")
        page.locator(".column.full .mark:visible", has_text="Replayed").wait_for()
        page.get_by_text("At a risk").click()
        page.locator("#attempts").fill("3")
        page.locator("#question").press("Enter")
        page.locator("#told", has_text="Certified").wait_for(timeout=60_000)
        assert said == []
        assert all(url.startswith(real.url) for url in asked)
        browser.close()


def test_the_card_of_the_model_tells_what_may_be_asked(real: Server) -> None:
    first, *aliases = real.sdk.models.list().data
    told: Any = first.drr  # type: ignore[attr-defined]
    assert told["judge"] == "drr-reference-dm-head"
    assert told["settings"] == told["auto"] == real.ask(drr={"mode": "auto"}).drr["settings"]
    assert told["thinking_again"] == real.ask(drr={"max_rethinks": 1}).drr["settings"]
    for risk in told["risks"]:
        assert real.ask(drr={"max_lost_correct": risk, "mode": "stop"}).drr["risk"]["certified"] <= risk
    assert not any(hasattr(alias, "drr") for alias in aliases)


def test_chat_in_a_pipe(real: Server) -> None:
    command = [sys.executable, "-m", "drr.cli", "chat", "--url", f"{real.url}/v1", "--full"]
    result = subprocess.run(command, input=QUESTION, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "Full thinking took" in result.stdout
    assert "The answer is" in result.stdout


def test_without_the_page_there_is_nothing_at_the_root(tmp_path: Path) -> None:
    key = "a-key-of-some-length"
    server = start(tmp_path / "log", "--drr-no-playground", "--api-key", key)
    try:
        assert "playground" not in server.log.read_text()
        for path in ("/", "/playground/app.js"):
            assert httpx.get(f"{server.url}{path}").status_code == 401
            assert httpx.get(f"{server.url}{path}", headers={"authorization": f"Bearer {key}"}).status_code == 404
    finally:
        stop(server)

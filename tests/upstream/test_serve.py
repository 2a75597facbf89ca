"""`drr serve --upstream` in a process of its own, in front of a scripted vendor."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from drr import reference
from tests.server.running import start, stop
from tests.upstream.serving import QUESTION
from tests.upstream.vendors import MODEL, DeepSeek, Fault, OpenAI, Said, in_turn, listening

TEXT_DM = reference.dm_folder("text")
WRONG, RIGHT = Said("Four and seventeen.", "The answer is 22."), Said("Hm.", "The answer is 21.")


@pytest.mark.slow
async def test_it_serves_a_closed_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-secret")
    vendor = OpenAI(in_turn(WRONG, RIGHT))
    async with listening(vendor) as address:
        flags = ["--upstream", f"{address}/v1", "--upstream-key-env", "UPSTREAM_KEY", "--drr-scorer", "self_critique"]
        prices = ["--upstream-price", "2", "0.5", "8"]
        server = await asyncio.to_thread(start, tmp_path / "log", *flags, *prices)
        try:
            async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as http:
                drr = {"mode": "rethink", "max_rethinks": 2}
                body = {"model": MODEL, "messages": QUESTION, "drr": drr}
                reply = (await http.post("/v1/chat/completions", json=body)).json()
                assert reply["choices"][0]["message"]["content"] == RIGHT.answer
                assert reply["drr"]["cost"]["requests"] == 4
                assert reply["drr"]["cost"]["usd"] > 0
                assert (await http.get("/ready")).status_code == 200
                assert "drr_upstream_requests_total" in (await http.get("/metrics")).text
        finally:
            status = await asyncio.to_thread(stop, server)
        assert status == 0
        assert vendor.open == 0
    log = server.log.read_text()
    assert f"Upstream: {MODEL}, tier opaque" in log
    assert "sk-secret" not in log
    assert set(vendor.keys) == {"Bearer sk-secret"}


@pytest.mark.slow
async def test_a_text_dm_judges_a_thought_that_can_be_handed_back(tmp_path: Path) -> None:
    thought = "12 + 24 = 36.\n\n36 - 7 = 29.\n\n29 * 4 = 116.\n\n" + "Let me see. " * 100
    async with listening(DeepSeek(in_turn(Said(thought, "The answer is 116.")), always=Fault(slow=0.01))) as address:
        flags = ["--upstream", f"{address}/beta", "--dm", str(TEXT_DM), "--dm-deadline-ms", "20000"]
        server = await asyncio.to_thread(start, tmp_path / "log", *flags)
        try:
            async with httpx.AsyncClient(base_url=server.url, timeout=60.0) as http:
                drr = {"threshold": 0.0, "min_steps": 2, "patience": 1}
                body = {"model": MODEL, "messages": QUESTION, "drr": drr}
                reply = (await http.post("/v1/chat/completions", json=body)).json()
                assert reply["drr"]["stop_cause"] == "sure"
                assert reply["choices"][0]["message"]["content"] == "The answer is 116."
                assert len(reply["drr"]["steps"]) == 2
                assert all(0 < step["p_now"] < 1 for step in reply["drr"]["steps"])
                assert (await http.get("/health")).json() == {"status": "ok", "reasoner": "ok", "dm": "ok"}
        finally:
            assert await asyncio.to_thread(stop, server) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--drr-scorer", "confidence"], "--drr-scorer: confidence cannot judge"),
        (["--max-model-len", "512"], "--max-model-len: has no effect"),
        (["--drr-canary-share", "0.1", "--drr-scorer", "critique"], "--drr-canary-share: has no effect"),
        (["--upstream-tier", "prefix"], "--upstream-tier: prefix: the upstream takes no partial thought"),
    ],
)
async def test_flags_of_no_use_are_refused(flags: list[str], said: str) -> None:
    async with listening(OpenAI(in_turn(RIGHT))) as address:
        command = [sys.executable, "-m", "drr.cli", "serve", "--upstream", f"{address}/v1", "--port", "0", *flags]
        ran = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=200, env=dict(os.environ)
        )
        assert ran.returncode != 0
        assert said in ran.stderr
        assert "Traceback" not in ran.stderr

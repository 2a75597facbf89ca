"""A whole round of the capacity measurement, on a played server whose constants are known."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from benchmarks.capacity_report import section
from benchmarks.capacity_rounds import Bench, one_round
from benchmarks.fleet.replica import Limits
from benchmarks.fleet.service import ServiceTimes
from tests.local_http import served

TIMES = ServiceTimes(((1, 0.020), (16, 0.050)))
RUNNING, WAITING = 8, 2
BLOCKS, BLOCK = 100, 32


class Engine:
    """Decodes for all that are under way in steps that take as long as TIMES says; `present` are all in the server."""

    def __init__(self) -> None:
        self.present, self.under_way = 0, 0
        self.places = asyncio.Semaphore(RUNNING)
        self.step = asyncio.Event()

    async def decode(self) -> None:
        while True:
            await asyncio.sleep(TIMES.step(max(1, self.under_way)))
            done, self.step = self.step, asyncio.Event()
            done.set()

    async def tokens(self, count: int) -> AsyncIterator[int]:
        async with self.places:
            self.under_way += 1
            try:
                for number in range(count):
                    await self.step.wait()
                    yield number
            finally:
                self.under_way -= 1


def played(engine: Engine) -> FastAPI:
    app = FastAPI()

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        used = engine.under_way / BLOCKS
        info = f'vllm:cache_config_info{{block_size="{BLOCK}",num_gpu_blocks="{BLOCKS}"}} 1.0'
        return PlainTextResponse(f'vllm:kv_cache_usage_perc{{engine="0"}} {used}\n{info}\n')

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        body = await request.json()
        prompt = len(body["messages"][0]["content"].split())
        if engine.present >= RUNNING + WAITING:
            return JSONResponse({"error": {"message": "full"}}, 429)
        count = random.Random(body["seed"]).randint(5, 40)
        if body["drr"]["mode"] == "auto":
            count //= 2
        if body.get("ignore_eos") or body.get("max_tokens") == 1:
            count = body["max_tokens"]
        if not body.get("stream"):
            async for _ in engine.tokens(count):
                pass
            return {"usage": {"prompt_tokens": prompt}}
        engine.present += 1
        return StreamingResponse(answer(body, count), media_type="text/event-stream")

    async def answer(body: dict[str, Any], count: int) -> AsyncIterator[str]:
        try:
            async for number in engine.tokens(count):
                name = "reasoning" if number < count // 2 else "content"
                yield event({"choices": [{"delta": {name: "word "}}]})
        finally:
            engine.present -= 1
        yield event({"choices": [], "drr": {"stop_cause": "sure" if body["drr"]["mode"] == "auto" else "off"}})
        yield event({"choices": [], "usage": {"completion_tokens": count}})
        yield "data: [DONE]\n\n"

    return app


def event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n"


@pytest.mark.slow
async def test_a_round_finds_the_constants_and_predicts_what_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # The played engine only sleeps, whatever the CPUs do, and takes long for a token.
    monkeypatch.setattr("benchmarks.capacity_rounds.threads_of", lambda roots: {})
    monkeypatch.setattr("benchmarks.capacity_rounds.work_seconds", lambda: 1.0)
    monkeypatch.setattr("benchmarks.capacity_rounds._EQUAL", 48)
    engine, told = Engine(), list[str]()
    decoding = asyncio.create_task(engine.decode())
    questions = [f"question {number} of many" for number in range(50)]
    async with served(played(engine)) as url:
        bench = Bench(url, "played", os.getpid(), questions, Limits(RUNNING, WAITING), seconds=6.0, work=1.0)
        found = await one_round(bench, 0, told.append)
    decoding.cancel()
    assert told == ["prompts", "equal lengths", "stops", "held out: clients", "held out: rates"]
    for constants in found["constants"].values():
        measured = ServiceTimes.read(constants)
        for batch in (1, 4):  # of 16 only 8 have a place
            assert measured.step(batch) == pytest.approx(TIMES.step(batch), rel=0.3)
    assert found["stop_share"] == 1.0
    assert found["prompt"] == 4
    for run in found["closed"]:
        assert run["predicted"]["tokens_per_second"] == pytest.approx(run["measured"]["tokens_per_second"], rel=0.3)
    light, _, heavy = found["open"]
    assert light["measured"]["failed"] == light["measured"]["refused"]
    assert heavy["measured"]["refused"] >= light["measured"]["refused"]
    for run in found["open"]:
        assert run["simulated"]["e2e_mean"] == pytest.approx(run["measured"]["e2e_mean"], rel=0.35)
    text = section({"machine": "played", "rounds": [found]})
    assert "8 clients, DRR; the model" in text

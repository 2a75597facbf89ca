"""The load generator, against a fake server with known delays."""

import asyncio
import json
from collections import namedtuple
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse

from benchmarks import load
from benchmarks.load_client import Load, Run, Sample, Target, drive, stolen_share
from benchmarks.load_report import LatencyGoals, figures, ratios
from drr.errors import InputError
from tests.local_http import served

CHUNKS = 4
GAP = 0.02


def fake_server() -> FastAPI:
    app = FastAPI()
    app.state.bodies = []
    app.state.at_once = app.state.most_at_once = 0

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"data": [{"id": "tiny"}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        body = await request.json()
        app.state.bodies.append(body)
        if body.get("seed") == 307:
            return RedirectResponse("/v1/elsewhere", 307)
        if body.get("seed") == 666:
            return JSONResponse({"error": {"message": "no"}}, 400)
        return StreamingResponse(stream(body), media_type="text/event-stream")

    async def stream(body: dict[str, Any]) -> AsyncIterator[str]:
        app.state.at_once += 1
        app.state.most_at_once = max(app.state.most_at_once, app.state.at_once)
        yield event({"choices": [{"delta": {"role": "assistant", "content": ""}}], "usage": None})
        for number in range(CHUNKS):
            await asyncio.sleep(body.get("gap", GAP))
            name = "reasoning" if number < 2 else "content"
            yield event({"choices": [{"delta": {name: 'he said "content":"x"\n\n'}}], "usage": None})
        yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': 7}})}\n\n"  # spaces as some put them
        yield "data: [DONE]\n\n"
        app.state.at_once -= 1

    return app


def event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n"


def prompts(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"messages": [{"role": "user", "content": str(number)}], **more} for number in range(count)]


async def test_a_closed_loop_keeps_its_clients_busy_and_times_every_chunk() -> None:
    app = fake_server()
    async with served(app) as url:
        run = await drive(Target("a", url, "tiny", {"drr": {"mode": "off"}}), prompts(9), Load(clients=3))
    assert app.state.most_at_once == 3
    assert app.state.bodies[0]["drr"] == {"mode": "off"}
    assert len(run.samples) == 9
    for sample in run.samples:
        assert sample.error is None
        assert sample.tokens == 7
        assert len(sample.gaps) == CHUNKS - 1
        assert sample.first is not None
        assert sample.end is not None
        assert sample.first - sample.due >= GAP
        assert sample.end - sample.due >= CHUNKS * GAP
    assert run.seconds >= 3 * CHUNKS * GAP


async def test_clients_begin_one_after_the_other() -> None:
    async with served(fake_server()) as url:
        run = await drive(Target("a", url, "tiny"), prompts(3, gap=0.3), Load(clients=3, ramp=0.4))
    assert all(sample.due >= number * 0.4 for number, sample in enumerate(run.samples))
    assert run.seconds < 3 * CHUNKS * 0.3, "nobody waited for another's answer"


async def test_servers_are_warmed_up_with_short_answers() -> None:
    app = fake_server()
    async with served(app) as url:
        await load.measure([Target("a", url, "tiny")], prompts(4, max_tokens=4000), [Load(clients=4)], 1)
    assert [body["max_tokens"] for body in app.state.bodies] == [64] * 4 + [4000] * 4


async def test_poisson_arrivals_do_not_wait_for_answers() -> None:
    app = fake_server()
    async with served(app) as url:
        run = await drive(Target("a", url, "tiny"), prompts(30, gap=0.1), Load(rate=100.0, seed=3))
    assert app.state.most_at_once > 10
    dues = sorted(sample.due for sample in run.samples)
    assert dues[0] == 0
    assert 0.1 < dues[-1] < 0.9  # 29 gaps of 10 ms each on average


async def test_time_bounds_a_run_and_what_was_not_finished_has_failed() -> None:
    async with served(fake_server()) as url:
        run = await drive(Target("a", url, "tiny"), prompts(50, gap=0.5), Load(clients=2, seconds=0.3))
    assert len(run.samples) == 2
    assert {sample.error for sample in run.samples} == {"unfinished when the time was over"}


async def test_what_is_under_way_may_be_given_more_time() -> None:
    async with served(fake_server()) as url:
        load = Load(clients=2, seconds=0.1, grace=30.0)
        run = await drive(Target("a", url, "tiny"), prompts(50, gap=0.1), load)
    assert [sample.error for sample in run.samples] == [None, None]


async def test_a_refusal_is_a_failed_request_with_its_reason() -> None:
    async with served(fake_server()) as url:
        run = await drive(Target("a", url, "tiny", {"seed": 666}), prompts(2), Load(clients=1))
        found = figures(run, LatencyGoals())
        with pytest.raises(InputError, match="HTTP 400"):
            await load.measure([Target("a", url, "tiny", {"seed": 666})], prompts(2), [Load(clients=1)], 1)
    assert found["failed"] == 2
    assert found["tokens_per_second"] == 0


async def test_a_redirect_is_not_followed() -> None:
    async with served(fake_server()) as url:
        run = await drive(Target("a", url, "tiny", {"seed": 307}), prompts(1), Load(clients=1))
    assert (run.samples[0].error or "").startswith("HTTP 307")


def test_what_the_host_took_is_a_share_of_all_time() -> None:
    spent = namedtuple("spent", ["user", "idle", "steal", "guest"])
    assert stolen_share(spent(10.0, 5.0, 1.0, 9.0), spent(13.0, 6.0, 2.0, 99.0)) == pytest.approx(0.2)
    other = namedtuple("other", ["user", "idle"])
    assert stolen_share(other(1.0, 1.0), other(2.0, 2.0)) == 0, "systems that do not say"


def test_figures_are_of_good_requests_only() -> None:
    samples = [
        Sample(due=1.0, first=1.5, end=3.0, gaps=[0.5, 1.0], tokens=10),
        Sample(due=2.0, first=4.0, end=5.0, gaps=[1.0], tokens=20),
        Sample(due=2.0, error="no"),
    ]
    found = figures(Run("a", "2 clients", 5.0, samples, 0.25), LatencyGoals(ttft=1.0))
    assert found["requests"] == 3
    assert found["stolen"] == 0.25
    assert found["failed"] == 1
    assert found["requests_per_second"] == pytest.approx(0.4)
    assert found["tokens_per_second"] == pytest.approx(6)
    assert found["goodput"] == pytest.approx(0.2)
    assert found["ttft_p50"] == pytest.approx(1.25)
    assert found["itl_p50"] == pytest.approx(1.0)
    assert found["e2e_p95"] == pytest.approx(2.95)


def test_ratios_are_pair_by_pair() -> None:
    found = ratios(
        [{"ttft_p50": 1.0}, {"ttft_p50": 10.0}, {"ttft_p50": 2.0}],
        [{"ttft_p50": 2.0}, {"ttft_p50": 11.0}, {"ttft_p50": 3.0}],
    )
    assert found["ttft_p50"]["median"] == pytest.approx(1.5)
    assert found["ttft_p50"]["least"] == pytest.approx(1.1)
    assert found["ttft_p50"]["greatest"] == pytest.approx(2.0)


async def test_two_servers_take_turns_and_everything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with served(fake_server()) as first, served(fake_server()) as second:
        arguments = [
            "--url",
            first,
            "--name",
            "raw",
            "--against",
            f"{second}/v1",
            "--against-name",
            "ours",
            "--clients",
            "2",
        ]
        arguments += ["--against-body", '{"gap": 0.05}', "--requests", "6", "--pairs", "2", "--out", str(tmp_path)]
        options, rest = load.parse([*arguments, "--max-tokens", "9", "--exactly"])
        await load._main(options, rest)
    measured = json.loads((tmp_path / "results.json").read_text())
    assert measured["loads"][0]["ratios"]["ours"]["e2e_p50"]["median"] > 1.5
    assert len(measured["loads"][0]["runs"]["ours"]) == 2
    assert (tmp_path / "load-0.png").stat().st_size > 10_000
    assert "ours / raw" in capsys.readouterr().out


def test_options_that_nobody_takes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load.parse(["--url", "http://x", "--clients", "1", "--sharegpt-output-len", "5"])
    assert "--sharegpt-output-len" in capsys.readouterr().err


def test_datasets_of_vllm_bench_serve_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"What is {n} + 1?"}) for n in range(5)))
    tokenizer = str(Path(__file__).resolve().parents[2] / "drr" / "reference" / "models" / "reasoner")
    arguments = [
        "--url",
        "x",
        "--clients",
        "1",
        "--requests",
        "4",
        "--dataset-name",
        "custom",
        "--tokenizer",
        tokenizer,
    ]
    options, rest = load.parse([*arguments, "--dataset-path", str(path), "--custom-output-len", "33"])
    found = load.requests_of(options, rest)
    assert len(found) == 4 * 5
    assert len({body["seed"] for body in found}) == 20
    assert all(body["max_tokens"] == 33 and body["messages"][0]["content"].startswith("What is ") for body in found)

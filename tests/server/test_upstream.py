"""A server in front of a played upstream: vLLM's whole front end, DRR's loop, and no engine's process."""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from drr import reference
from drr.engine.open_reasoner import load_tokenizer
from drr.engine.upstream.cost import Prices
from drr.engine.upstream.errors import UpstreamError
from drr.engine.upstream.probe import completions
from drr.errors import InputError
from drr.loop.steps import StepRule
from server.admission.api_keys import ApiKeys, KeyLimits
from server.admission.setting_up import make_door
from server.app import make_app
from server.arguments import parse_args, usual_options
from server.engines import Models, start_models
from server.lifecycle import Lifecycle
from server.serving import reasoning_format
from server.upstream import Upstream, UpstreamEngine, UpstreamPulse, as_http, prepare, start_engine
from server.vllm_api import (
    GracefulHTTPError,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
    VLLMValidationError,
    tokens_input,
)
from tests.engine.upstream.played import PlayedUpstream

REASONER = str(reference.reasoner_folder())
THOUGHT = "bags: 3*8=24.\n\ngain: 12+24=36.\n\nSo the answer is 36.\n\n"
ANSWER = "\n\nThe answer is 36."


def script(prompt: str) -> str:
    """Thinks, and answers behind its thinking."""
    thought = prompt.rpartition("<think>")[2]
    if "</think>" in thought:
        return ANSWER
    said = thought.lstrip("\n")
    return (THOUGHT[len(said) :] if THOUGHT.startswith(said) else " 36.") + "</think>" + ANSWER


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(REASONER, "--model")


def arguments(*flags: str) -> argparse.Namespace:
    return parse_args(["--model", REASONER, "--upstream", "http://upstream", "--disable-log-stats", *flags])


@asynccontextmanager
async def engine_over(played: PlayedUpstream, *flags: str, **options: Any) -> AsyncIterator[UpstreamEngine]:
    args = arguments(*flags)
    client = played.client(retries=0, **options)
    abilities = await completions(client, played.models[0], played.tokenizer, False)
    assert abilities is not None
    played.asked.clear()
    reasoning_format(args)
    prepare(args, abilities, usual_options())
    engine = start_engine(args, Upstream(client, abilities, Prices(1.0, 0.5, 2.0)))
    engine.args = args  # type: ignore[attr-defined]
    try:
        yield engine
    finally:
        engine.shutdown()
        await client.aclose()


@asynccontextmanager
async def app_over(played: PlayedUpstream, *flags: str) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the whole app; its pulse is in `app.state`."""
    async with engine_over(played, *flags) as engine:
        args: Any = engine.args  # type: ignore[attr-defined]
        lifecycle = Lifecycle(make_door(args, ApiKeys([], None, KeyLimits(None, None)), engine), 0.0, 0.0, ready=True)
        pulse: Any = UpstreamPulse(engine.upstream.client)
        form = reasoning_format(args)
        app = await make_app(args, Models(engine), form, StepRule(), lifecycle, {"reasoner": pulse})
        app.state.pulse = pulse
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://drr", timeout=30) as client:
            client.app = app  # type: ignore[attr-defined]
            yield client


def params(**options: Any) -> SamplingParams:
    asked = {"temperature": 0.0, "max_tokens": 200, "output_kind": RequestOutputKind.DELTA, **options}
    return SamplingParams(**asked)


async def outputs_of(engine: UpstreamEngine, ids: list[int], asked: SamplingParams, name: str) -> list[RequestOutput]:
    async with aclosing(engine.generate(tokens_input(ids), asked, name)) as outputs:
        return [output async for output in outputs]


def text_of(outputs: list[RequestOutput]) -> str:
    return "".join(output.outputs[0].text for output in outputs)


async def closed(played: PlayedUpstream, engine: UpstreamEngine) -> None:
    """Nothing of any request is left, anywhere."""
    for _ in range(200):
        if not (played.open or engine.upstream.client.open or engine.output_processor.request_states):
            return
        await asyncio.sleep(0.01)
    raise AssertionError((played.open, engine.upstream.client.open, engine.output_processor.request_states))


@pytest.mark.parametrize("dialect", ["vllm", "llamacpp", "openai"])
async def test_every_dialect_gives_the_same_tokens(tokenizer: Any, dialect: Any) -> None:
    played = PlayedUpstream(tokenizer, script, dialect, [{"id": "m", "owned_by": dialect, "max_model_len": 512}])
    ids = tokenizer.encode("<think>\n", add_special_tokens=False)
    async with engine_over(played) as engine:
        outputs = await outputs_of(engine, ids, params(skip_special_tokens=False), "one")
        got = [token for output in outputs for token in output.outputs[0].token_ids]
        assert got == [*tokenizer.encode(script("<think>\n"), add_special_tokens=False), tokenizer.eos_token_id]
        assert text_of(outputs) == f"{THOUGHT}</think>{ANSWER}"
        assert outputs[-1].outputs[0].finish_reason == "stop"
        assert isinstance(played.asked[0]["prompt"], str) == (dialect == "openai")
        await closed(played, engine)


async def test_log_probabilities_come_as_from_an_engine(tokenizer: Any) -> None:
    played = PlayedUpstream(tokenizer, script)
    async with engine_over(played) as engine:
        outputs = await outputs_of(engine, [5, 6], params(logprobs=2, max_tokens=3), "one")
        details = [detail for output in outputs for detail in output.outputs[0].logprobs or ()]
        tokens = [token for output in outputs for token in output.outputs[0].token_ids]
        assert len(details) == 3
        for token, detail in zip(tokens, details, strict=True):
            assert detail[token].logprob == pytest.approx(-0.5)
            assert detail[token].rank == 1
            assert detail[token + 1].logprob == pytest.approx(-1.5)


async def test_a_stop_text_ends_the_request_upstream(tokenizer: Any) -> None:
    played = PlayedUpstream(tokenizer, script, pause=0.002)
    async with engine_over(played) as engine:
        ids = tokenizer.encode("<think>\n", add_special_tokens=False)
        outputs = await outputs_of(engine, ids, params(stop=["12+"]), "one")
        assert text_of(outputs).endswith("gain: ")
        assert outputs[-1].outputs[0].stop_reason == "12+"
        assert "stop" not in played.asked[0]
        await closed(played, engine)


async def test_clients_that_leave_leave_nothing_open(tokenizer: Any) -> None:
    played = PlayedUpstream(tokenizer, script, pause=0.001)
    async with engine_over(played) as engine:

        async def leave(number: int) -> None:
            stream = engine.generate(tokens_input([5, 6, 7]), params(n=1 + number % 2, temperature=1.0), f"r{number}")
            for _ in range(number % 5):
                await anext(stream)
            if number % 3:
                await stream.aclose()
                return
            task = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.001 * (number % 7))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await stream.aclose()

        for begin in range(0, 500, 50):
            await asyncio.gather(*map(leave, range(begin, begin + 50)))
        await closed(played, engine)


async def test_several_choices_are_several_requests(tokenizer: Any) -> None:
    played = PlayedUpstream(tokenizer, script)
    async with engine_over(played) as engine:
        asked = params(n=3, temperature=1.0, seed=7, output_kind=RequestOutputKind.FINAL_ONLY)
        outputs = await outputs_of(engine, [5, 6], asked, "one")
        assert {choice.index for choice in outputs[-1].outputs} == {0, 1, 2}
        assert sorted(body["seed"] for body in played.asked) == [7, 8, 9]


async def test_faults_become_http_errors_and_leave_nothing_behind(tokenizer: Any) -> None:
    played = PlayedUpstream(tokenizer, script)
    async with engine_over(played) as engine:
        played.ends = False
        with pytest.raises(GracefulHTTPError) as caught:
            await outputs_of(engine, [5, 6], params(n=2, temperature=1.0), "cut")
        assert caught.value.http_status == 502
        await closed(played, engine)
        played.away = True
        with pytest.raises(GracefulHTTPError) as caught:
            await outputs_of(engine, [5, 6], params(), "away")
        assert caught.value.http_status == 503
        await closed(played, engine)
        played.away, played.ends = False, True
        assert await outputs_of(engine, [5, 6], params(max_tokens=3), "back")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UpstreamError("busy", "", 429), 429),
        (UpstreamError("unavailable", ""), 503),
        (UpstreamError("timeout", ""), 504),
        (UpstreamError("malformed", ""), 502),
        (UpstreamError("refused", "", 401), 502),
    ],
)
def test_how_faults_are_told(error: UpstreamError, status: int) -> None:
    told = as_http(error)
    assert isinstance(told, GracefulHTTPError)
    assert told.http_status == status


def test_what_the_upstream_finds_wrong_with_a_request_is_the_clients_fault() -> None:
    told = as_http(UpstreamError("refused", "too long", 400, "prompt"))
    assert isinstance(told, VLLMValidationError)
    assert told.parameter == "prompt"


async def test_what_cannot_be_sent_is_refused_by_name(tokenizer: Any) -> None:
    played = PlayedUpstream(tokenizer, script, "openai", [{"id": "m"}])
    async with engine_over(played) as engine:
        for name, value in (("prompt_logprobs", 1), ("min_p", 0.1), ("logprobs", 7), ("bad_words", ["x"])):
            with pytest.raises(VLLMValidationError) as caught:
                await outputs_of(engine, [5, 6], params(temperature=1.0, **{name: value}), name)
            assert caught.value.parameter == name
        assert played.asked == []


def test_options_about_an_engine_are_refused() -> None:
    from drr.engine.upstream.abilities import UpstreamAbilities

    found = UpstreamAbilities("completions", "m", max_model_len=128)
    for flags, option in (
        (["--tensor-parallel-size", "2"], "--tensor-parallel-size"),
        (["--max-model-len", "256"], "--max-model-len"),
        (["--enable-lora"], "--enable-lora"),
    ):
        with pytest.raises(InputError, match=option):
            prepare(arguments(*flags), found, usual_options())


async def test_a_server_without_any_engine_starts(tokenizer: Any) -> None:
    played = PlayedUpstream(tokenizer, script)
    async with engine_over(played) as engine:
        models = Models()
        await start_models(models, [], engine.args, type(engine), engine.upstream)  # type: ignore[attr-defined]
        assert isinstance(models.reasoner, UpstreamEngine)
        assert models.engines() == {"reasoner": models.reasoner}
        await models.shutdown()


MESSAGES = [{"role": "user", "content": "Tom has 12 apples. He buys 3 bags of 8 apples each. How many has he?"}]


async def test_a_chat_is_judged_stopped_and_billed(tokenizer: Any) -> None:
    played = PlayedUpstream(tokenizer, script)
    async with app_over(played) as client:
        body = {"model": "played", "messages": MESSAGES, "temperature": 0}
        full = (await client.post("/v1/chat/completions", json={**body, "drr": {"mode": "off"}})).json()
        assert full["choices"][0]["message"]["content"].strip() == ANSWER.strip()
        assert full["choices"][0]["message"]["reasoning"].strip() == THOUGHT.strip()
        cost = full["drr"]["cost"]
        sent = full["usage"]["prompt_tokens"]
        assert (cost["requests"], cost["prompt_tokens_sent"]) == (1, sent)
        assert cost["completion_tokens"] == full["usage"]["completion_tokens"]
        due = (sent - sent // 2) * 1.0 + (sent // 2) * 0.5 + cost["completion_tokens"] * 2.0
        assert cost["usd"] == pytest.approx(due / 1e6)
        asked = {**body, "drr": {"mode": "auto", "scorer": "step_index", "threshold": 0.01}}
        played.asked.clear()
        stopped = (await client.post("/v1/chat/completions", json=asked)).json()
        assert stopped["drr"]["stop_cause"] == "sure"
        assert stopped["choices"][0]["message"]["content"].strip() == ANSWER.strip()
        assert stopped["drr"]["cost"]["requests"] == 2
        prompts = [tokenizer.decode(one["prompt"]) for one in played.asked]
        assert prompts[1].startswith(prompts[0])
        assert "</think>" in prompts[1][len(prompts[0]) :]


async def test_probes_and_later_attempts_are_billed_too(tokenizer: Any) -> None:
    played = PlayedUpstream(tokenizer, script)
    async with app_over(played) as client:
        drr = {"mode": "auto", "scorer": "random", "threshold": 1.0, "accept": 1.0, "max_rethinks": 2}
        body = {"model": "played", "messages": MESSAGES, "temperature": 0, "drr": drr}
        answer = (await client.post("/v1/chat/completions", json=body)).json()
        assert answer["drr"]["attempts"] == 3
        assert answer["drr"]["cost"]["requests"] == len(played.asked)
        played.asked.clear()
        body["drr"] = {"mode": "shadow", "scorer": "confidence"}
        answer = (await client.post("/v1/chat/completions", json=body)).json()
        assert answer["drr"]["cost"]["requests"] == len(played.asked) > 2
        assert answer["usage"]["completion_tokens_details"]["probe_tokens"] > 0


async def test_the_other_endpoints_and_the_models_card(tokenizer: Any) -> None:
    played = PlayedUpstream(tokenizer, script)
    async with app_over(played) as client:
        told = (await client.get("/v1/models")).json()["data"][0]["drr"]["upstream"]
        assert (told["tier"], told["engine"], told["token_prompts"]) == ("completions", "vllm", True)
        said = (await client.post("/v1/responses", json={"model": "played", "input": MESSAGES[0]["content"]})).json()
        assert said["output"][-1]["content"][0]["text"].strip() == ANSWER.strip()
        body = {"model": "played", "max_tokens": 200, "messages": MESSAGES}
        said = (await client.post("/v1/messages", json=body)).json()
        assert said["content"][-1]["text"].strip() == ANSWER.strip()
        body = {"model": "played", "prompt": "<think>\n", "max_tokens": 5}
        said = (await client.post("/v1/completions", json=body)).json()
        assert said["usage"]["completion_tokens"] == 5


async def test_an_upstream_that_goes_and_comes_back(tokenizer: Any) -> None:
    played = PlayedUpstream(tokenizer, script)
    async with app_over(played) as client:
        pulse = client.app.state.pulse  # type: ignore[attr-defined]
        assert (await client.get("/ready")).status_code == 200
        played.away = True
        await pulse.look()
        for path, status in (("/ready", 503), ("/health", 503), ("/live", 200)):
            assert (await client.get(path)).status_code == status
        for stream in (False, True):
            body = {"model": "played", "messages": MESSAGES, "stream": stream}
            refused = await client.post("/v1/chat/completions", json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert "cannot be reached" in refused.json()["error"]["message"]
        played.away = False
        await pulse.look()
        assert (await client.get("/ready")).status_code == 200
        assert (await client.get("/health")).json()["reasoner"] == "ok"
        body = {"model": "played", "messages": MESSAGES}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200

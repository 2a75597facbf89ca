"""The engine around the loop: admission, tenants' caches, what is logged and counted."""

import logging
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from drr import reference
from drr.engine.formats import choose_format
from drr.judge.scorers.registry import training_free
from drr.loop.rule import Rule
from drr.loop.steps import StepRule
from server import metrics
from server.engine import ThinkingEngine
from server.plan import PLAN_KEY, ResponsePlan
from server.resolve import resolve
from server.runtime import DrrRuntime
from server.schema import DrrRequest
from server.settings import Defaults

TOKENIZER = AutoTokenizer.from_pretrained(reference.reasoner_folder())
THOUGHT = TOKENIZER.encode("12+24=36.\n\nSo the answer is 36.\n\nAgain.\n\n", add_special_tokens=False)
ANSWER = TOKENIZER.encode("\n\nThe answer is 36.", add_special_tokens=False)
PROMPT = [7, *TOKENIZER.encode("<think>\n", add_special_tokens=False)]


class Requests:
    """Plays the thinking, then answers; keeps what was asked for."""

    def __init__(self, *, fails: bool = False) -> None:
        self.seen: list[tuple[dict[str, Any], SamplingParams, str]] = []
        self.fails = fails

    async def generate(
        self, engine: Any, prompt: Any, params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        self.seen.append((dict(prompt), params, request_id))
        if self.fails:
            raise RuntimeError("the engine is gone")
        ids = THOUGHT if len(self.seen) == 1 else ANSWER
        for place, token in enumerate(ids):
            reason = "stop" if place == len(ids) - 1 else None
            logprobs: Any = None if params.logprobs is None else [{token: SimpleNamespace(logprob=-0.1)}]
            text = TOKENIZER.decode([token])
            completion = CompletionOutput(0, text, [token], None, logprobs, finish_reason=reason)
            yield RequestOutput(
                request_id, None, list(prompt["prompt_token_ids"]), None, [completion], reason is not None
            )


class BareEngine(ThinkingEngine):
    """The thinking engine without an engine behind it."""

    def __del__(self) -> None: ...

    async def _check(self, *_: Any) -> None: ...


def engine_with(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> ThinkingEngine:
    engine = object.__new__(BareEngine)
    engine._admitted = set()
    engine.engine_core = SimpleNamespace(core_engines=[0])
    engine.renderer = SimpleNamespace(tokenizer=TOKENIZER)
    engine.model_config = SimpleNamespace(max_model_len=2048)
    defaults = Defaults(mode="auto", rule=Rule(0.5), scorer="logprob")
    engine.drr = DrrRuntime(choose_format(TOKENIZER).form, StepRule(), training_free(), defaults)
    monkeypatch.setattr(AsyncLLM, "generate", lambda self, *a, **k: requests.generate(self, *a, **k))
    return engine


def plan(engine: ThinkingEngine, **drr: Any) -> ResponsePlan:
    assert engine.drr is not None
    return ResponsePlan(resolve(DrrRequest.parse(drr), engine.drr.defaults), "a secret question", "logprob")


def params_of(own: ResponsePlan) -> SamplingParams:
    return SamplingParams(max_tokens=200, extra_args={PLAN_KEY: own})


async def run(engine: ThinkingEngine, asked: ResponsePlan, **prompt: Any) -> list[RequestOutput]:
    stream = engine.generate({"prompt_token_ids": PROMPT, **prompt}, params_of(asked), "request")
    return [output async for output in stream]


async def test_a_response_that_was_admitted_is_not_refused_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Requests()
    engine = engine_with(requests, monkeypatch)
    refused: list[str | None] = []
    monkeypatch.setattr(AsyncLLM, "check_admission", lambda self, n=1, request_id=None: refused.append(request_id))
    begin = Requests.generate

    async def admitted(self: Requests, engine: Any, prompt: Any, params: Any, request_id: str, **options: Any) -> Any:
        engine.check_admission(request_id=f"{request_id}-12345678")  # as AsyncLLM.generate does
        async for output in begin(self, engine, prompt, params, request_id, **options):
            yield output

    monkeypatch.setattr(Requests, "generate", admitted)
    await run(engine, plan(engine, threshold=0.5))
    assert len(requests.seen) == 2, "the thinking, and the answer after the stop"
    assert refused == ["request-12345678"], "vLLM's queue limit looks at the first only"
    assert engine._admitted == set()


async def test_attempts_at_the_same_time_pass_vllms_queue_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM counts and may refuse the first engine request of a response; where it does, nothing has been said yet."""
    requests = Requests()
    engine = engine_with(requests, monkeypatch)
    full, counted = [False], list[str | None]()
    begin = Requests.generate

    def check(self: Any, n: int = 1, request_id: str | None = None) -> None:
        counted.append(request_id)
        if full[0]:
            raise RuntimeError("queue is full")
        full[0] = True  # whatever comes next is refused

    async def admitted(self: Requests, engine: Any, prompt: Any, params: Any, request_id: str, **options: Any) -> Any:
        engine.check_admission(request_id=f"{request_id}-12345678")
        async for output in begin(self, engine, prompt, params, request_id, **options):
            yield output

    monkeypatch.setattr(AsyncLLM, "check_admission", check)
    monkeypatch.setattr(Requests, "generate", admitted)
    many = plan(engine, mode="rethink", max_rethinks=7, parallel=4, accept=1.0)
    params = params_of(many)
    params.n = 3
    outputs = [output async for output in engine.generate({"prompt_token_ids": PROMPT}, params, "request")]
    assert outputs
    assert len(requests.seen) > 12
    assert len(counted) == 1
    assert engine._admitted == set()
    with pytest.raises(RuntimeError, match="queue is full"):
        await run(engine, plan(engine))


async def test_a_tenants_cache_salt_goes_with_everything_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Requests()
    engine = engine_with(requests, monkeypatch)
    await run(engine, plan(engine, threshold=1.0, scorer="confidence"), cache_salt="tenant")
    assert len(requests.seen) > 2, "probes were made"
    assert {prompt.get("cache_salt") for prompt, _, _ in requests.seen} == {"tenant"}


async def test_unjudged_thinking_asks_for_no_log_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Requests()
    engine = engine_with(requests, monkeypatch)
    asked = plan(engine, mode="off")
    await run(engine, asked)
    assert [params.logprobs for _, params, _ in requests.seen] == [None]
    assert asked.account.outcomes[0].stop_cause == "off"
    assert asked.account.outcomes[0].steps == []


def test_a_logged_request_does_not_show_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_with(Requests(), monkeypatch)
    assert "secret" not in repr(params_of(plan(engine)))


async def test_a_response_that_ends_in_the_middle_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(ended: str) -> float:
        return metrics.RESPONSES.labels("auto", ended)._value.get()  # type: ignore[no-any-return]

    failed, aborted = counted("failed"), counted("aborted")
    engine = engine_with(Requests(fails=True), monkeypatch)
    with pytest.raises(RuntimeError, match="the engine is gone"):
        await run(engine, plan(engine))
    assert counted("failed") == failed + 1
    engine = engine_with(Requests(), monkeypatch)
    stream = engine.generate({"prompt_token_ids": PROMPT}, params_of(plan(engine)), "request")
    await anext(stream)
    await stream.aclose()
    assert counted("aborted") == aborted + 1


async def test_a_scorer_that_fails_or_is_cancelled_is_logged_and_thinking_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import asyncio

    class Cancelled:
        id = "cancelled"

        def session(self, question: str, probe: Any = None, cache_salt: str | None = None) -> "Cancelled":
            return self

        async def score(self, boundary: Any) -> Any:
            task = asyncio.current_task()
            assert task is not None
            if boundary.index:
                raise ValueError("no such head")
            task.cancel()
            await asyncio.sleep(1)

    engine = engine_with(Requests(), monkeypatch)
    assert engine.drr is not None
    engine.drr.scorers["logprob"] = Cancelled()
    asked = plan(engine)
    with caplog.at_level(logging.WARNING, "drr"):
        outputs = await run(engine, asked)
    assert outputs[-1].finished
    assert asked.account.outcomes[0].failed >= 2
    assert "no such head" in caplog.text
    assert "cancelled" in caplog.text

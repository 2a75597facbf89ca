"""What the metrics add up to is what the engine has generated, however responses end."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from drr.engine.formats import encode
from drr.judge.scorers.registry import training_free
from drr.loop.rule import Rule
from drr.loop.steps import StepRule
from drr.tasks import Split
from drr.tasks.arithmetic import questions
from server import metrics
from server.admission.under_way import Exchange
from server.engine import ThinkingEngine
from server.plan import PLAN_KEY, ResponsePlan
from server.resolve import resolve
from server.runtime import DrrRuntime
from server.schema import DrrRequest
from server.settings import Defaults
from tests.fake_engine import FORM, TOKENIZER, FakeEngine
from tests.fakes import FakeScorer

QUESTIONS = questions(3, Split.TRAIN, 4)
KINDS = ("thinking", "answer", "discarded", "probe", "plain")


class Meter:
    """Runs an engine, and counts what it generates. After `life` outputs it breaks down, or is `broken_off`."""

    def __init__(self) -> None:
        self._engine = FakeEngine(QUESTIONS)
        self.generated = 0
        self.life: int | None = None
        self.error: Exception = EngineDeadError()
        self.broken_off: str | None = None

    async def generate(
        self, engine: Any, prompt: Any, params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        outputs = self._engine.generate(prompt, params, request_id, **options)
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                if self.life == 0 and self.broken_off is not None:
                    await asyncio.Event().wait()  # one that has broken a request off says no more of others
                if self.life == 0:
                    raise self.error
                self.life = None if self.life is None else self.life - 1
                await asyncio.sleep(0)
                completion: CompletionOutput = output.outputs[0]
                self.generated += len(completion.token_ids)
                if self.life == 0 and self.broken_off is not None:
                    completion.finish_reason = self.broken_off
                yield output
                if completion.finish_reason is not None:
                    return


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    made = Meter()
    monkeypatch.setattr(AsyncLLM, "generate", lambda self, *a, **k: made.generate(self, *a, **k))
    return made


async def unchecked(*_: Any) -> None:
    """No grammar is asked for here."""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ThinkingEngine:
    monkeypatch.setattr(ThinkingEngine, "_check", unchecked)
    made = object.__new__(ThinkingEngine)
    made._admitted = set()
    made.engine_core = SimpleNamespace(core_engines=[0], shutdown=lambda timeout=None: None)
    made.renderer = SimpleNamespace(tokenizer=TOKENIZER, shutdown=lambda: None)
    made.model_config = SimpleNamespace(max_model_len=2048)
    scores = [random.Random(place).random() for place in range(16)]
    scorers: Any = {**training_free(), "dm": FakeScorer(scores)}
    made.drr = DrrRuntime(FORM, StepRule(), scorers, Defaults(mode="auto", rule=Rule(0.7), scorer="dm"))
    return made


def prompt() -> dict[str, Any]:
    return {"prompt_token_ids": [*encode(TOKENIZER, QUESTIONS[0].text), *FORM.open_ids]}


def params(engine: ThinkingEngine, drr: dict[str, Any] | None, **fields: Any) -> SamplingParams:
    if drr is not None:
        assert engine.drr is not None
        plan = ResponsePlan(resolve(DrrRequest.parse(drr), engine.drr.defaults), "question", "dm")
        fields["extra_args"] = {PLAN_KEY: plan}
    return SamplingParams(max_tokens=400, output_kind=RequestOutputKind.DELTA, **fields)


def read(counter: Any, *labels: str) -> float:
    value: float = counter.labels(*labels)._value.get()
    return value


def told() -> float:
    return sum(read(metrics.TOKENS, kind) for kind in KINDS)


def responses() -> float:
    (family,) = metrics.RESPONSES.collect()
    return sum(sample.value for sample in family.samples if sample.name.endswith("_total"))


MODES: list[dict[str, Any] | None] = [
    {"mode": "off"},
    {"mode": "shadow"},
    {"mode": "auto", "threshold": 0.7},
    {"mode": "stop", "threshold": 0.5, "nudge": 1},
    {"mode": "rethink", "accept": 0.95, "max_rethinks": 2},
    {"mode": "rethink", "accept": 0.95, "max_rethinks": 3, "parallel": 2},
    {"mode": "rethink", "accept": 1.0, "max_rethinks": 1, "on_exhausted": "abstain"},
    {"mode": "auto", "scorer": "confidence", "threshold": 0.99},
    None,
]


@pytest.mark.parametrize("drr", MODES, ids=str)
@pytest.mark.parametrize("leaves_after", [None, 1, 2, 3, 5])
async def test_all_that_was_generated_is_counted(
    meter: Meter, engine: ThinkingEngine, drr: dict[str, Any] | None, leaves_after: int | None
) -> None:
    for choices in (1, 2) if drr is not None else (1,):
        before, count = told(), responses()
        meter.generated = 0
        stream = engine.generate(prompt(), params(engine, drr, n=choices), "request")
        got = 0
        async with contextlib.aclosing(stream):
            async for _ in stream:
                got += 1
                if got == leaves_after:
                    break
        assert meter.generated > 0
        assert told() - before == meter.generated
        assert responses() - count == choices


@pytest.mark.parametrize("drr", [{"mode": "off"}, {"mode": "rethink", "accept": 0.95, "parallel": 2}, None], ids=str)
@pytest.mark.parametrize(
    ("error", "broken_off", "ended"),
    [
        (EngineDeadError(), None, "failed"),
        (VLLMValidationError("a grammar that is none"), None, "refused"),
        (EngineDeadError(), "abort", "aborted"),
        (EngineDeadError(), "error", "failed"),
    ],
    ids=["died", "refused", "abort", "error"],
)
async def test_what_an_engine_breaks_off_is_counted_as_such(
    meter: Meter,
    engine: ThinkingEngine,
    drr: dict[str, Any] | None,
    error: Exception,
    broken_off: str | None,
    ended: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mode = "plain" if drr is None else drr["mode"]
    for life in (1, 2):
        meter.life, meter.error, meter.broken_off, meter.generated = life, error, broken_off, 0
        before, count = told(), read(metrics.RESPONSES, mode, ended)
        with contextlib.suppress(EngineDeadError, VLLMValidationError), caplog.at_level("INFO", "drr"):
            async for _ in engine.generate(prompt(), params(engine, drr), "request-7"):
                pass
        assert told() - before == meter.generated > 0
        assert read(metrics.RESPONSES, mode, ended) == count + 1
        lines = [record for record in caplog.records if getattr(record, "request_id", "") == "request-7"]
        assert len(lines) == (0 if ended == "refused" else 1)
        assert all(f"request-7 {ended} after {meter.generated} tokens" in line.message for line in lines)
        caplog.clear()


async def test_responses_that_are_cancelled_at_any_moment_lose_no_token(meter: Meter, engine: ThinkingEngine) -> None:
    before, count, rng = told(), responses(), random.Random(5)

    async def one(drr: dict[str, Any] | None, turns: int) -> None:
        async def answered() -> None:
            async for _ in engine.generate(prompt(), params(engine, drr), "request"):
                pass

        task = asyncio.ensure_future(answered())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asked = list(itertools.islice(itertools.cycle(MODES), 90))
    await asyncio.gather(*(one(drr, rng.randrange(2, 120)) for drr in asked))
    assert told() - before == meter.generated > 0
    assert responses() - count == len(asked)


@pytest.mark.parametrize("drr", [{"mode": "off"}, None], ids=str)
async def test_a_response_that_is_cut_off_leaves_one_line(
    meter: Meter, engine: ThinkingEngine, drr: dict[str, Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the application is gone before the engine has ended its work."""
    tasks = []

    async def answering() -> None:
        stream = engine.generate(prompt(), params(engine, drr), "request-9")
        async with contextlib.aclosing(stream):
            async for _ in stream:
                await asyncio.sleep(0.01)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.ensure_future(answering()))
        await asyncio.sleep(0.02)
        exchange.cut(None, "time")

    async def nothing(*_: Any) -> Any:
        await asyncio.sleep(60)

    exchange = Exchange(app, {"path": "/", "type": "http"}, nothing, nothing, [], 0.0)
    with caplog.at_level("INFO", "drr"):
        await exchange.run()
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert exchange.makers == 0
    (line,) = caplog.messages
    assert line == f"Response request-9 aborted after {meter.generated} tokens: cut off by time"


async def test_beams_are_tokens_and_no_responses(meter: Meter, engine: ThinkingEngine) -> None:
    before, count = told(), responses()
    async for _ in engine.generate(prompt(), params(engine, None), "request-1f-beam-3"):
        pass
    assert told() - before == meter.generated > 0
    assert responses() == count

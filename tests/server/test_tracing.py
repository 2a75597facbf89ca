"""Spans of responses over a fake engine. What a collector gets of a real server is in test_observed.py."""

import contextlib
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from server.admission.under_way import CURRENT, Exchange
from server.engine import ThinkingEngine
from server.tracing import Tracing
from tests.server import test_recount
from tests.server.test_recount import Meter, params, prompt

meter, engine = test_recount.meter, test_recount.engine
TRACE, PARENT = "ab" * 16, "cd" * 8
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def exported(engine: ThinkingEngine) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    engine.tracing = Tracing("m", provider.get_tracer("drr"))
    return exporter


async def respond(engine: ThinkingEngine, drr: dict[str, Any], most: int | None = None, **fields: Any) -> None:
    stream = engine.generate(prompt(), params(engine, drr, **fields), "request", trace_headers=HEADERS)
    got = 0
    async with contextlib.aclosing(stream):
        async for _ in stream:
            got += 1
            if got == most:
                return


def named(exported: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return sorted(
        (span for span in exported.get_finished_spans() if span.name == name), key=lambda s: s.start_time or 0
    )


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_every_choice_is_a_span_below_the_clients(
    meter: Meter, engine: ThinkingEngine, exported: InMemorySpanExporter
) -> None:
    await respond(engine, {"mode": "auto"}, n=2)
    responses = named(exported, "chat m")
    assert sorted(told(span)["drr.choice"] for span in responses) == [0, 1]
    assert {told(span)["gen_ai.request.choice.count"] for span in responses} == {2}
    assert sum(told(span)["gen_ai.usage.output_tokens"] for span in responses) == meter.generated
    for span in responses:
        assert span.parent is not None
        assert f"{span.parent.span_id:016x}" == PARENT
        assert f"{span.context.trace_id:032x}" == TRACE
    parents = {span.parent.span_id for span in named(exported, "attempt") if span.parent is not None}
    assert parents == {span.context.span_id for span in responses}


async def test_engine_requests_are_told_the_span_that_they_are_made_for(
    meter: Meter, engine: ThinkingEngine, exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def generate(self: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(options["trace_headers"]["traceparent"].split("-")[2])
        return meter.generate(self, *arguments, **options)

    monkeypatch.setattr(AsyncLLM, "generate", generate)
    await respond(engine, {"mode": "stop", "threshold": 0.0, "scorer": "confidence"})
    spans = {f"{span.context.span_id:016x}": span.name for span in exported.get_finished_spans()}
    made_for = [spans[each] for each in asked]
    assert made_for[0] == "attempt"
    assert made_for[-1] == "answer"
    assert set(made_for[1:-1]) == {"probe"}


async def test_attempts_at_the_same_time_have_their_fates(
    meter: Meter, engine: ThinkingEngine, exported: InMemorySpanExporter
) -> None:
    await respond(engine, {"mode": "rethink", "accept": 1.0, "max_rethinks": 3, "parallel": 2})
    fates = [told(span)["drr.fate"] for span in named(exported, "attempt")]
    assert len(fates) == 4
    assert sorted(fates) == ["answered", "rejected", "rejected", "rejected"]
    events = [event for span in named(exported, "attempt") for event in span.events]
    assert {event.name for event in events} == {"boundary"}
    assert {(event.attributes or {})["drr.verdict"] for event in events} <= {"continue", "rethink"}


async def test_an_end_before_its_time_is_told(
    meter: Meter, engine: ThinkingEngine, exported: InMemorySpanExporter
) -> None:
    await respond(engine, {"mode": "off"}, most=1)
    (left,) = named(exported, "chat m")
    assert told(left)["drr.ended"] == "aborted"
    assert left.status.status_code is StatusCode.UNSET, "clients may leave"
    exported.clear()

    meter.life = 1
    with pytest.raises(EngineDeadError):
        await respond(engine, {"mode": "off"})
    (failed,) = named(exported, "chat m")
    assert told(failed)["drr.ended"] == "failed"
    assert told(failed)["error.type"] == "EngineDeadError"
    assert failed.status.status_code is StatusCode.ERROR
    exported.clear()

    meter.life = None
    exchange = Exchange(lambda *_: None, {"path": "/"}, None, None, [], 0.0)  # type: ignore[arg-type, return-value]
    token = CURRENT.set(exchange)
    stream = engine.generate(prompt(), params(engine, {"mode": "off"}), "request", trace_headers=HEADERS)
    await anext(stream)
    exchange.cut(None, "stall")
    await stream.aclose()
    CURRENT.reset(token)
    assert exchange.logged, "so that the exchange does not tell it again"
    (cut,) = named(exported, "chat m")
    assert told(cut)["error.type"] == "stall"
    assert cut.status.status_code is StatusCode.ERROR


async def test_every_span_that_begins_is_ended(
    meter: Meter, engine: ThinkingEngine, exported: InMemorySpanExporter
) -> None:
    for most in (None, 1, 2, 4):
        for drr in ({"mode": "rethink", "accept": 1.0, "max_rethinks": 2}, {"mode": "auto", "scorer": "confidence"}):
            exported.clear()
            await respond(engine, drr, most)
            spans = exported.get_finished_spans()
            ids = {span.context.span_id for span in spans}
            assert all(span.parent is not None for span in spans)
            parents = {span.parent.span_id for span in spans if span.parent is not None} - {int(PARENT, 16)}
            assert parents <= ids
            assert all((span.start_time or 0) <= (span.end_time or 0) for span in spans)


async def test_nothing_is_recorded_of_a_trace_that_is_not_sampled(meter: Meter, engine: ThinkingEngine) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    engine.tracing = Tracing("m", provider.get_tracer("drr"))
    await respond(engine, {"mode": "auto"})
    assert exporter.get_finished_spans() == ()


async def test_without_tracing_engine_requests_go_straight_through(
    meter: Meter, engine: ThinkingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def generate(self: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(options["trace_headers"])
        return meter.generate(self, *arguments, **options)

    monkeypatch.setattr(AsyncLLM, "generate", generate)
    await respond(engine, {"mode": "auto"})
    assert all(headers is HEADERS for headers in seen), "the client's own, untouched"

"""A server whose log, metrics and spans are read from outside."""

import json
import re
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from drr import reference
from tests.server.otlp import Collector, Span, collecting
from tests.server.running import MESSAGES, MODEL, QUESTION, Server, start, stop

MARK = "zebra"
FLAGS = (
    *("--enable-log-requests", "--log-level", "DEBUG", "--logging-config.formatter", "json"),
    *("--dm-deadline-ms", "60000", "--drr-request-seconds", "60"),
)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def server(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        running = start(tmp_path_factory.mktemp("observed") / "log", *FLAGS, "--otlp-traces-endpoint", collector.url)
    yield running
    if running.process.poll() is None:
        stop(running)


def traced(server: Server, **fields: Any) -> str:
    """Ask as a client that traces; returns the id of its trace."""
    trace = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace}-{'ab' * 8}-01"}
    answer = server.ask(extra_headers=headers, **fields)
    if fields.get("stream"):
        for _ in answer:
            pass
    return trace


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def test_a_response_is_a_span_below_the_clients(server: Server, collector: Collector) -> None:
    trace = traced(server, drr={"mode": "shadow"}, temperature=0.5, max_tokens=400)
    spans = collector.of(trace, lambda found: bool(named(found, f"chat {MODEL}")) and bool(named(found, "llm_request")))
    (response,) = named(spans, f"chat {MODEL}")
    (attempt,), (answer,) = named(spans, "attempt"), named(spans, "answer")
    assert response.parent == "ab" * 8
    assert response.service == "drr"
    assert attempt.parent == answer.parent == response.id
    assert {span.parent for span in named(spans, "llm_request")} <= {attempt.id, answer.id}
    assert response.begin <= attempt.begin < attempt.end <= answer.end <= response.end
    told = response.attributes
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.request.model"] == MODEL
    assert told["gen_ai.request.temperature"] == 0.5
    assert told["gen_ai.request.max_tokens"] == 400
    assert told["gen_ai.response.finish_reasons"] == ["stop"]
    assert told["drr.mode"] == "shadow"
    assert told["drr.thinking_tokens"] + told["drr.answer_tokens"] + told["drr.discarded_tokens"] == (
        told["gen_ai.usage.output_tokens"] - told["drr.probe_tokens"]
    )
    boundaries = [attributes for name, attributes in attempt.events if name == "boundary"]
    assert [each["drr.step"] for each in boundaries] == list(range(len(boundaries)))
    assert len(boundaries) > 1
    assert all(0 <= each["drr.p_now"] <= 1 and 0 <= each["drr.p_later"] <= 1 for each in boundaries)
    assert {each["drr.verdict"] for each in boundaries} <= {"continue", "stop"}


def test_attempts_and_probes_are_below_it(server: Server, collector: Collector) -> None:
    drr = {"mode": "rethink", "scorer": "confidence", "accept": 1.0, "max_rethinks": 1, "on_exhausted": "last"}
    trace = traced(server, drr=drr, stream=True)
    spans = collector.of(trace, lambda found: bool(named(found, f"chat {MODEL}")))
    (response,) = named(spans, f"chat {MODEL}")
    attempts = named(spans, "attempt")
    assert [attempt.attributes["drr.attempt"] for attempt in attempts] == [0, 1]
    assert [attempt.attributes["drr.fate"] for attempt in attempts] == ["rejected", "answered"]
    assert attempts[0].end <= attempts[1].begin, "they were made one behind the other"
    assert response.attributes["drr.attempts"] == 2
    probes = named(spans, "probe")
    assert {probe.parent for probe in probes} == {attempt.id for attempt in attempts}
    assert (
        sum(probe.attributes["gen_ai.usage.output_tokens"] for probe in probes)
        == (response.attributes["drr.probe_tokens"])
    )
    (answer,) = named(spans, "answer")
    assert answer.attributes["gen_ai.usage.output_tokens"] == response.attributes["drr.answer_tokens"] > 0


def test_a_client_that_leaves_leaves_a_span_and_a_line(server: Server, collector: Collector) -> None:
    trace, left = secrets.token_hex(16), server.metric('drr_responses_total{mode="off",stop_cause="aborted"}')
    headers = {"traceparent": f"00-{trace}-{'cd' * 8}-01", "x-request-id": "leaves-early"}
    with server.ask(
        stream=True, drr={"mode": "off"}, extra_headers=headers, extra_body={"ignore_eos": True}, max_tokens=1500
    ) as stream:
        next(iter(stream))
    (response,) = named(collector.of(trace, lambda found: bool(named(found, f"chat {MODEL}"))), f"chat {MODEL}")
    assert response.attributes["drr.ended"] == "aborted"
    assert response.status == 0, "which is no fault"
    assert "error.type" not in response.attributes
    assert server.metric('drr_responses_total{mode="off",stop_cause="aborted"}') == left + 1
    lines = [line for line in log_lines(server) if line["message"].startswith("Response chatcmpl-leaves-early")]
    assert [line["levelname"] for line in lines] == ["INFO"]
    assert "aborted after" in lines[0]["message"]
    assert lines[0]["request_id"] == "chatcmpl-leaves-early"


def log_lines(server: Server) -> list[dict[str, Any]]:
    """The lines of the log, but for what is printed and not logged."""
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]


def test_clients_write_nothing_into_log_and_spans(server: Server, collector: Collector) -> None:
    messages = [{"role": "system", "content": f"{MARK} one"}, {"role": "user", "content": f"{QUESTION} {MARK} two"}]
    tools = [{"type": "function", "function": {"name": f"{MARK}_tool", "description": MARK, "parameters": {}}}]
    wrong: Any = [{"role": MARK, "content": {"text": MARK}}]
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"messages": messages, "stop": [f"{MARK} stop"], "user": MARK}),
        (
            "/v1/chat/completions",
            {"messages": messages, "tools": tools, "tool_choice": "none", "metadata": {"a": MARK}},
        ),
        ("/v1/chat/completions", {"messages": messages, "structured_outputs": {"choice": [f"{MARK} yes"]}}),
        ("/v1/chat/completions", {"messages": messages, "structured_outputs": {"grammar": f"{MARK} ::= ((("}}),
        ("/v1/chat/completions", {"messages": wrong}),
        ("/v1/chat/completions", {"messages": messages, "max_tokens": MARK}),
        ("/v1/chat/completions", {"messages": messages, "drr": {"mode": MARK}}),
        ("/v1/completions", {"prompt": f"{MARK} three", "max_tokens": 5}),
        ("/v1/completions", {"prompt": [[MARK]], "max_tokens": 5}),
        ("/v1/responses", {"input": f"{MARK} four", "max_output_tokens": 200}),
        ("/v1/messages", {"messages": messages[1:], "max_tokens": 100}),
        ("/tokenize", {"prompt": f"{MARK} five"}),
    ]
    statuses = []
    for path, body in bodies:
        answer = httpx.post(f"{server.url}{path}", json={"model": MODEL, "max_tokens": 300, **body}, timeout=60)
        statuses.append(answer.status_code)
    httpx.post(f"{server.url}/v1/chat/completions", content=f'{{"{MARK}": '.encode(), timeout=60)
    assert max(statuses) < 500
    assert statuses.count(200) >= 6
    text = server.log.read_text()
    assert MARK not in text
    tokenizer = AutoTokenizer.from_pretrained(reference.reasoner_folder())
    ids = tokenizer.encode(QUESTION, add_special_tokens=False)
    assert ", ".join(map(str, ids[3:9])) not in text
    assert '"message": "Received request' in text, "requests are logged all the same"
    assert '"levelname": "DEBUG"' in text, "at the level that was asked for"
    assert "Traceback" not in text, "clients' mistakes are theirs"
    time.sleep(0.5)
    assert MARK.encode() not in collector.raw


def test_every_line_has_a_time_and_those_about_a_response_its_id(server: Server) -> None:
    headers = {"x-request-id": "with-an-id"}
    httpx.post(
        f"{server.url}/v1/chat/completions", json={"model": MODEL, "messages": MESSAGES}, headers=headers, timeout=60
    )
    serving = server.log.read_text().partition("\nThe playground is at ")[2].splitlines()[1:]
    assert [line for line in serving if line and not line.startswith("{")] == [], "nothing prints beside the log"
    lines = log_lines(server)
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line["asctime"]) for line in lines)
    access = [line for line in lines if line["name"] == "uvicorn.access" and "POST /v1/chat" in line["message"]]
    assert access[-1]["request_id"] == "chatcmpl-with-an-id"


def test_no_client_chooses_a_label(server: Server) -> None:
    def series() -> set[str]:
        text = httpx.get(f"{server.url}/metrics").text
        return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}

    def provoke(word: str) -> None:
        for path in (f"/{word}", f"/v1/{word}", f"/v1/models/{word}", f"/v1/responses/{word}"):
            httpx.get(f"{server.url}{path}")
            httpx.request(word.upper(), f"{server.url}{path}")
        body = {"model": word, "messages": MESSAGES, "user": word, "drr": {"mode": word, "scorer": word, "dm": word}}
        headers = {"x-request-id": word, "x-drr": word, "authorization": f"Bearer {word}", "user-agent": word}
        for key in ("model", "user", "drr"):
            one = {"model": MODEL, "messages": MESSAGES, key: body[key], "max_tokens": 5}
            httpx.post(f"{server.url}/v1/chat/completions", json=one, headers=headers, timeout=60)
        named = {"model": MODEL, "messages": MESSAGES, "max_tokens": 5, "cache_salt": word, "priority": 1}
        httpx.post(f"{server.url}/v1/chat/completions", json=named, headers={"x-request-id": word}, timeout=60)
        httpx.post(f"{server.url}/{word}", json=body, headers={"host": word})

    provoke("quaggas")
    before = series()
    for number in range(5):
        provoke(f"quaggas{number}")
    assert series() - before == set()
    assert "quaggas" not in " ".join(before).lower()


def test_a_collector_that_is_gone_delays_nobody(server: Server) -> None:
    """By gRPC, the usual protocol, which tries again and again."""
    assert stop(server) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
        alone = start(server.log.with_name("alone"), "--otlp-traces-endpoint", nowhere)
        begun = time.monotonic()
        assert alone.ask().choices[0].finish_reason == "stop"
        assert time.monotonic() - begun < 10
        begun = time.monotonic()
        assert stop(alone) == 0
        assert time.monotonic() - begun < 20

"""What the log shows of requests, and what it does not."""

import argparse
import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from vllm.entrypoints.serve.utils.request_logger import RequestLogger
from vllm.sampling_params import BeamSearchParams, SamplingParams, StructuredOutputsParams

from server import logs
from server.admission.under_way import CURRENT, Exchange
from server.plan import PLAN_KEY, ResponsePlan
from server.resolve import resolve
from server.schema import DrrRequest
from tests.server.test_truth_table import DEFAULTS

SECRET, IDS = "zebra", [31337, 31338]


@pytest.fixture
def written() -> Iterator["Written"]:
    """What vLLM's loggers write at their most talkative."""
    logger, handler = logging.getLogger("vllm"), Written()
    kept = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.handlers, logger.propagate = kept[0], kept[2]
    logger.setLevel(kept[1])


class Written(logging.StreamHandler[io.StringIO]):
    """A handler that keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())

    @property
    def text(self) -> str:
        return self.stream.getvalue()


def plan() -> ResponsePlan:
    asked = {"mode": "rethink", "max_rethinks": 1, "on_exhausted": "abstain", "refusal": SECRET}
    return ResponsePlan(resolve(DrrRequest.parse(asked), DEFAULTS), SECRET, "dm")


class Body:
    request_id = "one"

    def model_dump_json(self, **_: Any) -> str:
        return json.dumps({"messages": SECRET})


def log_all(logger: RequestLogger) -> None:
    params = SamplingParams(
        max_tokens=7,
        temperature=0.5,
        stop=[SECRET],
        bad_words=[SECRET],
        allowed_token_ids=IDS,
        structured_outputs=StructuredOutputsParams(choice=[SECRET]),
        extra_args={PLAN_KEY: plan(), "user": SECRET},
    )
    body: Any = Body()
    logger.log_request_body(body)
    for made in (params, BeamSearchParams(beam_width=2, max_tokens=9)):
        logger.log_inputs("chatcmpl-1", SECRET, IDS, None, made, None)
    logger.log_outputs("chatcmpl-1", SECRET, IDS, "stop")


def test_nothing_that_a_client_wrote_is_logged_unasked(written: Written) -> None:
    written.addFilter(logs.WithoutText(outputs=False))
    log_all(RequestLogger(max_log_len=None))
    text = written.text
    assert SECRET not in text
    assert "31337" not in text
    assert text.count("Received request chatcmpl-1") == 2
    assert "max_tokens=7" in text
    assert "temperature=0.5" in text
    assert "drr_mode=rethink" in text
    assert "stop=<1>" in text
    assert "beam_width=2" in text


def test_answers_are_logged_where_they_were_asked_for_by_their_own_flag(written: Written) -> None:
    written.addFilter(logs.WithoutText(outputs=True))
    log_all(RequestLogger(max_log_len=None))
    lines = written.text.splitlines()
    assert [line for line in lines if SECRET in line] == [line for line in lines if "output: 'zebra'" in line] != []


def test_what_readers_and_the_engine_quote_is_left_out(written: Written) -> None:
    written.addFilter(logs.WithoutText(outputs=True))
    engine, parser = logging.getLogger("vllm.v1.engine.async_llm"), logging.getLogger("vllm.tool_parsers.any")
    engine.info("Request %s failed (bad request): %s.", "chatcmpl-1", ValueError(SECRET))
    engine.info("Request %s aborted.", "chatcmpl-1")
    parser.warning("Failed to parse tool call details from: %s", SECRET)
    assert SECRET not in written.text
    assert written.text.splitlines() == [
        "Request chatcmpl-1 failed (bad request): <ValueError>.",
        "Request chatcmpl-1 aborted.",
        "Failed to parse tool call details from: <5>",
    ]


def test_without_the_filter_vllm_logs_it_all(written: Written) -> None:
    """Else the tests above would prove nothing."""
    log_all(RequestLogger(max_log_len=None))
    assert written.text.count(SECRET) > 5
    assert "31337" in written.text


async def test_lines_carry_the_id_of_the_response_that_is_being_made() -> None:
    from pythonjsonlogger.json import JsonFormatter

    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter("%(asctime)s %(message)s"))
    handler.addFilter(logs.named)
    logger = logging.getLogger("drr.test_lines")
    logger.propagate, logger.handlers = False, [handler]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange = CURRENT.get()
        assert exchange is not None
        logger.warning("before it has one")
        exchange.request_id = scope["id"]
        await asyncio.sleep(0)
        await asyncio.create_task(deeper())

    async def deeper() -> None:
        logger.warning("in a task of its own")

    async def nothing(*_: Any) -> Any:
        await asyncio.sleep(60)

    def exchange(name: str) -> Exchange:
        return Exchange(app, {"id": name, "path": "/"}, nothing, nothing, [], 0.0)

    await asyncio.gather(*(exchange(name).run() for name in ("a", "b")))
    logger.warning("outside")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert all("asctime" in line for line in lines)
    ids = [line.get("request_id") for line in lines]
    assert ids == [None, None, "a", "b", None]


def test_uvicorns_lines_have_times() -> None:
    from uvicorn.config import LOGGING_CONFIG

    made = logs.of_http(LOGGING_CONFIG)
    logging.config.DictConfigurator(made)  # type: ignore[attr-defined]
    assert all("%(asctime)s" in formatter["fmt"] for formatter in made["formatters"].values())
    assert "asctime" not in str(LOGGING_CONFIG), "uvicorn's own is left as it is"
    assert all("drr_named" in handler["filters"] for handler in made["handlers"].values())


def test_text_needs_a_log_to_go_to() -> None:
    from drr.errors import InputError
    from server.arguments import parse_args

    with pytest.raises((InputError, SystemExit)):
        parse_args(["--drr-log-text"])
    assert isinstance(parse_args(["--drr-log-text", "--enable-log-requests"]), argparse.Namespace)

"""Real servers: one that runs a Reasoner, one in front of it, and one that does both itself."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.answers import question
from drr import reference
from tests.server.running import MODEL, Server, start, stop

pytestmark = pytest.mark.slow

_MODEL = ("--model", str(reference.reasoner_folder()), "--served-model-name", MODEL)
_DM = ("--dm", str(reference.dm_folder("text")), "--dm-deadline-ms", "60000")


@dataclass
class Servers:
    upstream: Server
    proxied: Server
    own: Server


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder: Path = tmp_path_factory.mktemp("upstream")
    upstream = start(folder / "upstream", *_MODEL)
    proxied = start(folder / "proxied", *_MODEL, *_DM, "--upstream", f"{upstream.url}/v1")
    own = start(folder / "own", *_MODEL, *_DM)
    yield Servers(upstream, proxied, own)
    for server in (proxied, own, upstream):
        if server.process.poll() is None:
            stop(server)


def kept(server: Server, number: int, **drr: Any) -> dict[str, Any]:
    answer = server.ask(messages=[{"role": "user", "content": question(number)}], temperature=0, drr=drr).model_dump()
    message, account = answer["choices"][0]["message"], answer["drr"]
    counts = {name: account[name] for name in ("thinking_tokens", "answer_tokens", "stop_cause")}
    return {"content": message["content"], "reasoning": message["reasoning"], **counts}


@pytest.mark.parametrize(
    "drr",
    [
        {"mode": "off"},
        {"mode": "auto", "scorer": "dm", "threshold": 0.8},
        {"mode": "auto", "scorer": "answer_probe"},
        {"mode": "auto", "scorer": "confidence", "max_rethinks": 2, "nudge": 1},
        {"max_thinking_tokens": 12},
    ],
)
def test_answers_are_those_of_a_reasoner_of_ones_own(servers: Servers, drr: dict[str, Any]) -> None:
    for number in range(6):
        assert kept(servers.proxied, number, **drr) == kept(servers.own, number, **drr)


def test_clients_that_leave_leave_nothing_open(servers: Servers) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": question(3)}], "stream": True}
    for number in range(40):
        with (
            httpx.Client(timeout=10) as http,
            http.stream("POST", f"{servers.proxied.url}/v1/chat/completions", json=body) as response,
        ):
            chunks = response.iter_raw()
            for _ in range(number % 4):
                next(chunks)
    deadline = time.monotonic() + 20
    left = -1.0
    while left and time.monotonic() < deadline:
        left = servers.proxied.metric("drr_upstream_open") + servers.upstream.metric("vllm:num_requests_running")
        time.sleep(0.2)
    assert left == 0


def test_an_upstream_that_has_gone_is_told_of(servers: Servers) -> None:
    stop(servers.upstream)
    deadline = time.monotonic() + 30
    while httpx.get(f"{servers.proxied.url}/ready").status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.5)
    told = httpx.get(f"{servers.proxied.url}/ready")
    assert (told.status_code, told.json()["reasons"]) == (503, ["the upstream does not answer"])
    body = {"model": MODEL, "messages": [{"role": "user", "content": question(0)}]}
    refused = httpx.post(f"{servers.proxied.url}/v1/chat/completions", json=body, timeout=30)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert httpx.get(f"{servers.proxied.url}/live").status_code == 200

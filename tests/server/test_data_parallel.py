"""One server before two engines (data parallel), judged by a head: both work, and a response stays with its own."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.server.running import Server, start, stop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

QUESTIONS = 12


@pytest.fixture(scope="module")
def two_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # as many engines as one likes on two cores
    server = start(tmp_path_factory.mktemp("server") / "log", "--data-parallel-size", "2")
    yield server
    stop(server)
    monkeypatch.undo()


def by_engine(server: Server, name: str) -> dict[str, float]:
    """A counter's values by engine."""
    text = httpx.get(f"{server.url}/metrics").text
    found: dict[str, float] = {}
    for engine, value in re.findall(rf'^{name}{{[^}}]*engine="(\d+)"[^}}]*}} (\S+)$', text, re.MULTILINE):
        found[engine] = found.get(engine, 0.0) + float(value)
    return found


def test_both_engines_think_and_their_heads_judge(two_engines: Server) -> None:
    with ThreadPoolExecutor(QUESTIONS) as clients:
        answers = list(clients.map(lambda seed: two_engines.ask(seed=seed, drr={"mode": "auto"}), range(QUESTIONS)))
    judges = [answer.model_extra["drr"]["judge"] for answer in answers]
    assert all(judge["decisions"] > 0 and judge["failed"] == 0 for judge in judges)
    assert any(answer.model_extra["drr"]["stop_cause"] in ("sure", "hopeless", "no_gain") for answer in answers)
    tokens = by_engine(two_engines, "vllm:generation_tokens_total")
    assert len(tokens) == 2
    assert min(tokens.values()) > 0.2 * sum(tokens.values())


def test_an_answer_is_computed_where_its_thinking_was(two_engines: Server) -> None:
    """Alone, one response after the other: the resubmission finds its thinking in the cache of the same engine."""
    before = by_engine(two_engines, "vllm:prefix_cache_hits_total")
    account = two_engines.ask(seed=99, drr={"mode": "off", "max_thinking_tokens": 100}).model_extra["drr"]
    assert account["stop_cause"] == "max_thinking_tokens"
    after = by_engine(two_engines, "vllm:prefix_cache_hits_total")
    assert sum(after.values()) - sum(before.values()) >= 64

"""Canaries on the reference pair: a real server, real heads, and `drr report` on it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from drr import reference
from drr.certify.canary import CanarySums
from drr.cli.live_metrics import LiveMetrics, read_metrics
from tests.server.running import MODEL, Server, start, stop

QUESTIONS = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    head = reference.dm_folder("head")
    flags = ("--drr-canary-share", "1", "--dm-beside", f"new={head}", "--drr-shadow-dm", "new")
    running = start(tmp_path_factory.mktemp("server") / "log", *flags)
    yield running
    assert stop(running) == 0


def question(number: int) -> Any:
    text = f"Tom has {number} apples. He buys 3 bags of 8 apples each. How many apples does Tom have now?"
    return [{"role": "user", "content": text}]


def ask(server: Server, number: int, **more: Any) -> Any:
    return server.ask(messages=question(number), max_tokens=400, temperature=0.8, **more)


def settled(server: Server, canaries: int, rule: str = "default") -> LiveMetrics:
    """The metrics once so many canaries of a rule have come to an end, for both judges."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        metrics = read_metrics(server.url)
        found = [metrics.canaries().get((judge, rule), CanarySums()) for judge in ("dm", "dm:new")]
        if all(sums.compared + sums.dropped >= canaries for sums in found):
            return metrics
        time.sleep(0.2)
    raise AssertionError("the canaries came to no end")


def test_canaries_are_compared_for_every_judge_and_reported(server: Server) -> None:
    with ThreadPoolExecutor(6) as pool:
        full = list(pool.map(lambda number: ask(server, number), range(20, 20 + QUESTIONS)))
        acting = list(pool.map(lambda number: ask(server, number, drr={"mode": "auto"}), range(20, 20 + QUESTIONS)))
    assert all(response.drr["canary"] for response in full)
    assert not any(response.drr["canary"] for response in acting), "whoever names a mode gets it"
    judged = {"sure", "hopeless", "no_gain"}
    assert not judged & {response.drr["stop_cause"] for response in full}
    stopped = [response.drr["stop_cause"] in judged for response in acting]
    assert any(stopped), "some of these are stopped, or nothing is seen here"

    metrics = settled(server, QUESTIONS)
    sums = metrics.canaries()[("dm", "default")]
    assert sums.dropped == 0
    assert sums.compared == QUESTIONS
    assert sums.compared - sums.whole - sums.unread == sum(stopped), "the same would have been stopped that were"
    assert sums.full == sum(response.usage.completion_tokens for response in full)
    # A stop discards what the engine had under way, which differs by a few tokens with its load.
    taken = sum(response.usage.completion_tokens for response in acting)
    assert sums.would == pytest.approx(taken, abs=16 * QUESTIONS)
    answers = [
        full_one.choices[0].message.content != acting_one.choices[0].message.content
        for full_one, acting_one in zip(full, acting, strict=True)
    ]
    assert sums.changed <= sum(answers), "an answer with the same words has not changed"

    beside = metrics.canaries()[("dm:new", "default")]
    assert beside.dropped == 0
    assert (beside.whole, beside.agreed, beside.changed) == (sums.whole, sums.agreed, sums.changed), "the same head"
    assert (beside.full, beside.would) == (sums.full, sums.would)
    assert beside.probe == 0, "the same answer is not asked for twice"

    told = subprocess.run(
        [sys.executable, "-m", "drr.cli", "report", "--server", server.url, "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    report = json.loads(told.stdout)
    rules = {(rule["judge"], rule["rule"]): rule for rule in report["rules"]}
    assert rules["dm", "default"]["canaries"] == QUESTIONS
    assert rules["dm", "default"]["promised"] == pytest.approx(0.0526)
    assert rules["dm", "default"]["saving"]["low"] <= rules["dm:new", "default"]["saving"]["estimate"]
    assert report["engines"] == {"reasoner": True}
    assert report["responses"] == 2 * QUESTIONS


def test_a_streamed_canary_says_so_and_an_alias_names_a_mode(server: Server) -> None:
    *_, last = (chunk.drr for chunk in ask(server, 50, stream=True) if getattr(chunk, "drr", None))
    assert last["canary"] is True
    assert ask(server, 51, model=f"{MODEL}:drr").drr["canary"] is False
    assert ask(server, 52, drr={"max_lost_correct": 0.01}).drr["canary"] is True
    settled(server, QUESTIONS + 1)
    metrics = settled(server, 1, "1 % lost")
    assert metrics.canaries()["dm", "1 % lost"].compared == 1


def test_nothing_is_left_in_the_engine(server: Server) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if server.metric("vllm:num_requests_running") == server.metric("vllm:num_requests_waiting") == 0:
            return
        time.sleep(0.2)
    raise AssertionError("engine requests are left")

"""A server whose engines are killed and stopped: what clients see, what it does about it, and how it ends."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import psutil
import pytest

from drr import reference
from tests.server.running import Server, start, stop

_BACK_WITHIN = 120.0
"""Seconds for a killed DM to be back; on two quiet cores it takes a tenth."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pair = ("--model", str(reference.reasoner_folder()), "--dm", str(reference.dm_folder("text")))
    names = ("--served-model-name", reference.MODEL_NAME, "--stream-interval", "2")
    running = start(tmp_path_factory.mktemp("stays_up") / "log", *pair, *names)
    yield running
    if running.process.poll() is None:
        stop(running)


def engines(server: Server) -> list[psutil.Process]:
    """The engines' processes, the oldest first: the DM's is started before the Reasoner's."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    found = [child for child in children if "EngineCore" in " ".join(child.cmdline())]
    return sorted(found, key=lambda child: child.create_time())


def health(server: Server) -> dict[str, str]:
    told: dict[str, str] = httpx.get(f"{server.url}/health", timeout=20).json()
    return told


def until_dm_is(server: Server, *states: str) -> None:
    deadline = time.monotonic() + _BACK_WITHIN
    while health(server)["dm"] not in states:
        assert time.monotonic() < deadline, server.log.read_text()[-2000:]
        time.sleep(0.1)


def test_a_killed_dm_is_started_again_while_requests_are_answered(server: Server) -> None:
    assert server.ask().drr["judge"]["failed"] == 0
    restarts = server.metric("drr_dm_restarts_total")
    dm, reasoner = engines(server)
    dm.kill()
    until_dm_is(server, "dead", "hung")
    meanwhile = server.ask()
    assert meanwhile.choices[0].finish_reason == "stop"
    assert meanwhile.drr["stop_cause"] == "judge_unavailable"
    assert httpx.get(f"{server.url}/ready").status_code == 200
    assert server.metric("drr_dm_up") == 0
    until_dm_is(server, "ok")
    assert server.metric("drr_dm_restarts_total") == restarts + 1
    assert server.metric("drr_dm_up") == 1
    again = server.ask(drr={"report": "steps"})
    assert again.drr["steps"][0]["p_now"] is not None
    assert reasoner in engines(server)


def test_a_dm_that_hangs_is_replaced(server: Server) -> None:
    dm = next(process for process in engines(server)[::-1])  # started again, so the youngest
    dm.suspend()
    until_dm_is(server, "hung", "dead")
    assert server.ask().choices[0].finish_reason == "stop"
    until_dm_is(server, "ok")
    assert not dm.is_running()
    assert server.ask(drr={"report": "steps"}).drr["steps"][0]["p_now"] is not None


def test_a_terminal_s_ctrl_c_reaches_the_server_alone(server: Server) -> None:
    assert os.getpgid(server.process.pid) not in {os.getpgid(engine.pid) for engine in engines(server)}


def test_a_dead_reasoner_ends_the_server_with_an_error(server: Server) -> None:
    before = engines(server)
    reasoner = before[0]
    begun = threading.Event()

    def streamed() -> str:
        ends = []
        try:
            for chunk in server.ask(stream=True, drr={"mode": "off"}, extra_body={"ignore_eos": True}):
                begun.set()
                ends.append(chunk)
        except openai.APIError as error:
            return str(error)
        return "ended"

    with ThreadPoolExecutor() as pool:
        answer = pool.submit(streamed)
        assert begun.wait(20)
        reasoner.kill()
        assert answer.result(30) != ""
    assert server.process.wait(30) == 1
    assert "the Reasoner's engine has died" in server.log.read_text()
    deadline = time.monotonic() + 10
    while any(engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE for engine in before):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_engines_end_with_a_server_that_is_killed(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = start(tmp_path_factory.mktemp("killed") / "log")
    before = engines(server)
    assert before
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(10)
    server.sdk.close()
    gone, alive = psutil.wait_procs(before, timeout=10)
    assert not alive, gone

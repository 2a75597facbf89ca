"""Engines are put on the cores that they are given."""

import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from drr.engine.devices import engine_on, give_way, parse_cpus
from drr.errors import InputError

_SHOW = "import json, os; print(json.dumps([sorted(os.sched_getaffinity(0)), os.environ.get('OMP_NUM_THREADS')]))"


def test_cores_are_named_singly_and_by_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert parse_cpus("--dm-cpus", "0-3,8") == {0, 1, 2, 3, 8}
    assert parse_cpus("--dm-cpus", " 5 ") == {5}


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "0,,1", "16", "4-16"])
def test_what_names_no_core_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    with pytest.raises(InputError, match="--dm-cpus"):
        parse_cpus("--dm-cpus", text)


def test_processes_begun_inside_stay_there_and_this_one_does_not() -> None:
    before = os.sched_getaffinity(0)
    threads = os.environ.get("OMP_NUM_THREADS")
    core = frozenset([max(before)])
    ready, done = threading.Event(), threading.Event()
    late: list[int] = []

    def live() -> None:
        late.append(threading.get_native_id())
        ready.set()
        done.wait(10)

    with engine_on(core):
        inside = json.loads(subprocess.run([sys.executable, "-c", _SHOW], capture_output=True, check=True).stdout)
        thread = threading.Thread(target=live)
        thread.start()
        ready.wait(10)
    assert inside == [sorted(core), "1"]
    assert os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(late[0]) == before
    assert os.environ.get("OMP_NUM_THREADS") == threads
    done.set()
    thread.join()


def test_without_cores_nothing_changes() -> None:
    before = os.sched_getaffinity(0)
    with engine_on(None):
        assert os.sched_getaffinity(0) == before


def test_an_engine_gives_way() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        resources = SimpleNamespace(engine_manager=SimpleNamespace(processes=[process]))
        give_way(SimpleNamespace(engine_core=SimpleNamespace(resources=resources)), 7)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 7
    finally:
        process.kill()
        process.wait()

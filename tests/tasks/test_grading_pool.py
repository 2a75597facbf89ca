"""Grading within limits: what takes too long, takes too much memory or dies is wrong, named, and grading goes on."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from drr.errors import InputError
from drr.tasks.grading_pool import Grading, gold_faults
from drr.tasks.grading_worker import Limits

LIMITS = Limits(seconds=3.0, memory=128 * 2**20)
ENDLESS = r"So \boxed{9^{9^{9}}}"
HARD, HARD_GOLD = r"So \boxed{\sqrt{12}}", r"2\sqrt{3}"

OWN = """
import ctypes, os, sys, time

def grade(response, gold):
    match response:
        case "exits":
            os._exit(3)
        case "crashes":
            ctypes.string_at(0)
        case "takes memory":
            return len(bytearray(1 << 30)) > 0
        case "keeps memory":
            try:
                return len(bytearray(200 << 20)) > 0
            except MemoryError:
                return True
        case "hangs":
            time.sleep(600)
        case "leaves":
            sys.exit(3)
        case "raises":
            raise ValueError("bad")
        case "knows torch":
            return "torch" in sys.modules or "vllm" in sys.modules
    return response == gold
"""


@pytest.fixture(scope="module")
def grading() -> Iterator[Grading]:
    with Grading("auto", LIMITS) as made:
        yield made


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Grading]:
    (tmp_path / "limited.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    with Grading("limited:grade", LIMITS) as made:
        yield made


def workers() -> list[psutil.Process]:
    """The grading workers of this process; the server that forks them has none left when all are closed."""
    servers = [child for child in psutil.Process().children() if "forkserver" in " ".join(child.cmdline())]
    return [worker for server in servers for worker in server.children(recursive=True)]


def test_plain_answers_need_no_worker() -> None:
    before = len(workers())
    grading = Grading("auto")
    for response, gold in (("The answer is 72 clips.", "72"), ("(b)", "B"), ("Yes, it is.", "yes"), ("Paris", "Paris")):
        assert grading.right(response, gold, "here")
    assert grading.gold_fault("72") is None
    assert len(workers()) == before


def test_an_endless_comparison_is_wrong_and_named_and_the_next_one_is_graded(grading: Grading) -> None:
    started = time.monotonic()
    assert not grading.right(ENDLESS, "5", "row 7")
    assert time.monotonic() - started < 30
    assert [str(overrun) for overrun in grading.overruns] == ["row 7: took more than 3 s"]
    assert grading.right(HARD, HARD_GOLD, "row 8")
    assert not grading.right(r"\boxed{\sqrt{13}}", HARD_GOLD, "row 9")
    assert len(grading.overruns) == 1


def test_what_was_given_up_is_not_tried_again_but_named_again(grading: Grading) -> None:
    grading.right(ENDLESS, "5", "first")
    started, before = time.monotonic(), len(grading.overruns)
    assert not grading.right(ENDLESS, "5", "again")
    assert not asyncio.run(grading.right_soon(ENDLESS, "5", "and again"))
    assert time.monotonic() - started < 2
    assert [overrun.where for overrun in grading.overruns[before:]] == ["again", "and again"]


async def test_the_event_loop_runs_on_while_a_comparison_is_made() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    with Grading("auto", LIMITS) as grading:
        counting = asyncio.create_task(count())
        verdicts = await asyncio.gather(
            grading.right_soon(ENDLESS, "5", "endless"),
            *(grading.right_soon(HARD, HARD_GOLD, f"hard {number}") for number in range(20)),
            grading.right_soon("72", "72", "plain"),
        )
        counting.cancel()
        assert verdicts == [False, *[True] * 21]
        assert [overrun.where for overrun in grading.overruns] == ["endless"]
        assert turns > 100


async def test_a_cancelled_caller_leaves_a_pool_that_works() -> None:
    with Grading("auto", Limits(60.0)) as grading:
        waiting = asyncio.create_task(grading.right_soon(ENDLESS, "5", "cancelled"))
        await asyncio.sleep(1.5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await grading.right_soon(HARD, HARD_GOLD, "next")
        assert grading.overruns == []


@pytest.mark.parametrize(
    ("response", "limit"),
    [
        ("hangs", "took more than 3 s"),
        ("takes memory", "took more than 128 MiB of memory"),
        ("keeps memory", "took more than 128 MiB of memory"),
        ("exits", "its process ended with status 3"),
        ("crashes", "its process was ended by SIGSEGV"),
    ],
)
def test_a_grader_of_ones_own_has_limits(own: Grading, response: str, limit: str) -> None:
    assert not own.right(response, response, "row 1")
    assert [str(overrun) for overrun in own.overruns] == [f"row 1: {limit}"]
    assert own.right("72", "72", "row 2")
    assert not own.right("71", "72", "row 3")
    assert len(own.overruns) == 1


def test_a_worker_loads_no_torch(own: Grading) -> None:
    assert not own.right("knows torch", "", "here")


@pytest.mark.parametrize(("response", "said"), [("raises", "failed on the answer 'raises', gold 'g': ValueError"),
                                                ("leaves", "ended its process on the answer 'leaves'")])  # fmt: skip
def test_a_grader_of_ones_own_that_fails_is_named(own: Grading, response: str, said: str) -> None:
    with pytest.raises(InputError, match=f"--grader: 'limited:grade' {said}"):
        own.right(response, "g", "here")
    with pytest.raises(InputError, match=f"--grader: 'limited:grade' {said}"):
        asyncio.run(own.right_soon(response, "g", "here"))
    assert own.overruns == []


@pytest.mark.parametrize("name", ["exact", "nowhere:f", "limited:nothing", "slow:f", "dying:f"])
def test_what_is_no_grader_is_refused_and_leaves_no_worker(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "limited.py").write_text(OWN)
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)")
    (tmp_path / "dying.py").write_text("import os\nos._exit(1)")
    before = {worker.pid for worker in workers()}
    with pytest.raises(InputError, match="--grader: "):
        Grading(name, Limits(2.0))
    assert {worker.pid for worker in workers()} <= before


def test_golds_that_cannot_be_used_are_told_by_their_place(grading: Grading) -> None:
    golds = ["72", "!!", HARD_GOLD, r"\frac{1", "!!"]
    assert dict(gold_faults(grading, golds)) == {
        1: "holds no answer that can be read",
        3: "is no expression that can be read",
        4: "holds no answer that can be read",
    }


def test_a_gold_that_exceeds_the_limits_is_a_fault() -> None:
    with Grading("auto", Limits(memory=2**12)) as narrow:
        fault = narrow.gold_fault(r"\sqrt{2}")
        assert narrow.overruns == [], "a row that is set aside is no answer that is wrong"
    assert fault == "cannot be read within the limits: took more than 0.00390625 MiB of memory"


def test_a_majority_with_an_endless_answer_is_found(grading: Grading) -> None:
    before, started = len(grading.overruns), time.monotonic()
    answers = ["So 5.", r"\boxed{9^{9^{8}}}", r"\boxed{5}", r"\boxed{6}", r"\boxed{7}", r"\boxed{\sqrt{5}}", "8"]
    assert grading.majority(answers, "question 3") == "So 5."
    assert [overrun.where for overrun in grading.overruns[before:]] == ["question 3, majority"]
    assert time.monotonic() - started < 20, "it is compared once, not with every other answer"


def test_closing_leaves_no_worker() -> None:
    before = {worker.pid for worker in workers()}
    with Grading("auto", LIMITS) as grading:
        grading.right(HARD, HARD_GOLD, "here")
        assert {worker.pid for worker in workers()} - before
    assert {worker.pid for worker in workers()} <= before


@pytest.mark.parametrize("kill", [False, True])
def test_no_process_outlives_the_one_that_grades(kill: bool) -> None:
    code = (
        "import sys, threading, time\nfrom drr.tasks.grading_pool import Grading, Limits\n"
        "grading = Grading('auto', Limits(3.0))\n"
        f"threading.Thread(target=grading.right, args=({ENDLESS!r}, '5', 'x'), daemon=True).start()\n"
        "time.sleep(2.5)\nprint('ready', flush=True)\ntime.sleep(600 if len(sys.argv) > 1 else 0)\n"
    )
    command = [sys.executable, "-c", code, *(["stay"] if kill else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    if kill:
        process.kill()
    process.wait(timeout=30)
    process.stdout.close()
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and _session(process.pid):
        time.sleep(0.2)
    assert _session(process.pid) == []


def _session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == leader:
                found.append(pid)
        except (ProcessLookupError, PermissionError):
            continue
    return found

"""Processes of engines end with the process that started them, whatever ended that, and so do theirs."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from drr.engine.children import settle_if_owned
from drr.engine.starting import starting


def worker(folder: Path) -> None:
    """A worker of an engine."""
    settle_if_owned()
    (folder / "worker").write_text(str(os.getpid()))
    time.sleep(60)


def engine(folder: Path, method: str) -> None:
    """An engine with a worker."""
    settle_if_owned()
    multiprocessing.get_context(method).Process(target=worker, args=(folder,)).start()  # type: ignore[attr-defined]
    (folder / "engine").write_text(str(os.getpid()))
    time.sleep(60)


def command(folder: Path, method: str) -> None:
    """A command that has started an engine, as all of them do."""
    with starting("--reasoner", "model"):
        multiprocessing.get_context(method).Process(target=engine, args=(folder, method)).start()  # type: ignore[attr-defined]
    time.sleep(60)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells processes of their parent's death")
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_engines_end_with_a_command_that_is_killed(tmp_path: Path, method: str) -> None:
    run = [sys.executable, "-m", "tests.engine.test_children", str(tmp_path), method]
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not all((tmp_path / name).is_file() and (tmp_path / name).read_text() for name in ("engine", "worker")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    left = [psutil.Process(int((tmp_path / name).read_text())) for name in ("engine", "worker")]
    assert process.pid not in {os.getpgid(child.pid) for child in left}, "a terminal's Ctrl-C is not theirs"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    _, alive = psutil.wait_procs(left, timeout=10)
    for child in alive:
        child.kill()
    assert not alive


if __name__ == "__main__":
    command(Path(sys.argv[1]), sys.argv[2])

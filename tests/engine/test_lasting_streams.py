"""A process whose output has no room goes on; other errors of its output stay errors."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from drr.engine.lasting_streams import outlast_full_disks
lost = []
if {lasting}:
    outlast_full_disks(lambda: lost.append(1))
for number in range(3000):
    print("a line of the log", number, flush=True)
    sys.stderr.write("37%|####      |\\r")
open({out!r}, "w").write(str(len(lost)))
"""


def run(out: Path, device: str, *, lasting: bool) -> int:
    program = PROGRAM.format(lasting=lasting, out=str(out))
    with open(device, "w") as full:
        return subprocess.run([sys.executable, "-c", program], stdout=full, stderr=full, check=False).returncode


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_process_outlasts_a_full_disk_and_ends_well(tmp_path: Path) -> None:
    assert run(tmp_path / "lost", "/dev/full", lasting=True) == 0
    assert int((tmp_path / "lost").read_text()) >= 3000
    assert run(tmp_path / "other", "/dev/full", lasting=False) != 0


def test_where_there_is_room_nothing_is_lost(tmp_path: Path) -> None:
    assert run(tmp_path / "lost", str(tmp_path / "log"), lasting=True) == 0
    assert (tmp_path / "lost").read_text() == "0"
    assert (tmp_path / "log").read_text().count("a line of the log") == 3000


def test_other_errors_stay() -> None:
    program = (
        "import os, sys\nfrom drr.engine.lasting_streams import outlast_full_disks\noutlast_full_disks()\n"
        "os.close(1)\ntry:\n    print('x', flush=True)\nexcept OSError:\n    os._exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 7

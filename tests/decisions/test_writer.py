"""The log's writer: whole files only, bounded in memory and on disk, and nobody ever waits for it."""

import logging
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drr.decisions import files, writer
from drr.decisions.files import keep_within, log_files, read_file, write_file
from drr.decisions.schema import SCHEMA, Row, one_row
from drr.decisions.writer import Limits, LogWriter
from drr.errors import InputError
from tests.decisions.rows import boundary, row

KILLED = """
import sys, time
from pathlib import Path
from drr.decisions.writer import Limits, LogWriter
from tests.decisions.rows import row
class Watcher:
    def written(self, rows, size): print("written", rows, flush=True)
    def dropped(self, rows): print("dropped", flush=True)
    def failed(self): print("failed", flush=True)
writer = LogWriter(Path(sys.argv[1]), Limits(file_bytes=20_000, seconds=60.0), Watcher())
for number in range(10**9):
    writer.submit(lambda number=number: row(number))
    time.sleep(0.0005)
"""


@dataclass
class Counts:
    """What a writer tells."""

    rows: int = 0
    bytes: int = 0
    lost: int = 0
    failures: int = 0
    files: list[int] = field(default_factory=list)

    def written(self, rows: int, size: int) -> None:
        self.rows += rows
        self.bytes += size
        self.files.append(rows)

    def dropped(self, rows: int) -> None:
        self.lost += rows

    def failed(self) -> None:
        self.failures += 1


def read(folder: Path) -> list[Row]:
    return [found for path in log_files(folder) for found in read_file(path)]


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


@contextmanager
def writing(folder: Path, counts: Counts, limits: Limits | None = None, **options: Any) -> Iterator[LogWriter]:
    own = LogWriter(folder, limits or Limits(), counts, **options)
    try:
        yield own
    finally:
        own.close()


def test_what_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    folder, counts = tmp_path / "new" / "log", Counts()
    text = {
        "question": "What is 1 + 1?",
        "answer": "2",
        "prompt_ids": [1, 2],
        "attempts": [
            {
                "ids": [3, 4],
                "logprobs": [-0.5, None],
                "injected": [1],
                "thinking_from": 0,
                "thinking_to": 1,
                "closed": True,
            }
        ],
    }
    rows = [row(0), row(1, text=text, adapter="a", canary='{"share": 0.05}'), row(2, boundaries=[])]
    with writing(folder, counts) as own:
        assert all(own.submit(lambda one=one: one) for one in rows)
    (path,) = log_files(folder)
    found = [{**one, "time": round(one["time"].timestamp() * 1000)} for one in read_file(path)]
    assert found == rows
    assert (counts.rows, counts.lost, counts.failures, counts.bytes) == (3, 0, 0, path.stat().st_size)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "prompts are nobody else's business"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"


def test_a_file_ends_at_its_size_and_at_its_age(tmp_path: Path) -> None:
    counts = Counts()
    size = one_row(row()).nbytes
    with writing(tmp_path, counts, Limits(file_bytes=10 * size, seconds=60.0)) as own:
        for number in range(200):
            own.submit(lambda number=number: row(number))
        until(lambda: len(counts.files) >= 10)
    assert len(read(tmp_path)) == 200
    assert max(counts.files) <= 12, "ids differ in length"
    old = Counts()
    with writing(tmp_path / "old", old, Limits(seconds=0.05)) as own:
        own.submit(row)
        until(lambda: old.files == [1])


def test_the_names_of_files_sort_by_time(tmp_path: Path) -> None:
    with writing(tmp_path, Counts(), Limits(file_bytes=1)) as own:
        for number in range(20):
            own.submit(lambda number=number: row(number))
    assert [one["id"] for one in read(tmp_path)] == [f"chatcmpl-{number}" for number in range(20)]


def test_the_oldest_files_are_deleted(tmp_path: Path) -> None:
    counts = Counts()
    with writing(tmp_path, counts, Limits(file_bytes=1, total_bytes=50_000)) as own:
        for number in range(30):
            own.submit(lambda number=number: row(number))
    sizes = [path.stat().st_size for path in log_files(tmp_path)]
    assert counts.rows == 30
    assert sum(sizes) <= 50_000 < sum(sizes) + max(sizes), "as many as there is room for"
    assert read(tmp_path)[-1]["id"] == "chatcmpl-29"
    other = tmp_path / "notes.parquet"
    other.write_bytes(b"x" * 100_000)
    keep_within(tmp_path, 1)
    assert [path.name for path in log_files(tmp_path)] == [log_files(tmp_path)[-1].name], "the newest stays"
    assert other.exists(), "it is not the log's"


def test_nobody_waits_where_rows_come_too_fast(tmp_path: Path) -> None:
    counts, going = Counts(), threading.Event()

    def slow() -> Row:
        going.wait(20)
        return row()

    with writing(tmp_path, counts, queued=5) as own:
        own.submit(slow)
        until(own._queue.empty)
        begun = time.monotonic()
        taken = [own.submit(row) for _ in range(1000)]
        assert time.monotonic() - begun < 1.0
        assert sum(taken) == 5
        assert counts.lost == 995
        going.set()
    assert counts.rows == 6
    with writing(tmp_path, counts) as own:
        assert not own.submit(row, writer._QUEUED_BYTES + 1), "it would take too much memory"
        assert own.submit(row, writer._QUEUED_BYTES)
        until(lambda: own._waiting == 0)
    assert not own.submit(row), "it is closed"


def test_a_row_that_cannot_be_made_costs_nothing_but_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = Counts()
    with writing(tmp_path, counts) as own:
        own.submit(lambda: row(1, choice=10**9))
        own.submit(lambda: row(1, tokens="many"))
        own.submit(lambda: {}["missing"])
        own.submit(row)
    assert (counts.rows, counts.lost) == (1, 3)
    assert len(caplog.records) == 1, "said once"


def test_a_full_disk_is_said_once_and_writing_goes_on_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "drr")
    full = threading.Event()
    full.set()

    def write(table: Any, where: Any, **options: Any) -> None:
        if full.is_set():
            Path(where).write_bytes(b"PAR1 and no more")
            raise OSError(28, "No space left on device")
        pq_write(table, where, **options)

    pq_write = pq.write_table
    monkeypatch.setattr(files.pq, "write_table", write)
    counts, size = Counts(), one_row(row()).nbytes
    limits = Limits(file_bytes=20 * size, seconds=0.01)
    with writing(tmp_path, counts, limits, retry=0.02) as own:
        for number in range(100):
            own.submit(lambda number=number: row(number))
        until(lambda: counts.failures >= 3 and counts.lost > 0)
        assert list(tmp_path.iterdir()) == [], "no half file stays"
        until(own._queue.empty)
        kept = own._count
        assert 40 <= kept <= 45, "two files' rows are kept, the rest is dropped"
        full.clear()
        until(lambda: counts.rows == kept)
        own.submit(row)
    assert counts.rows + counts.lost == 101
    assert [one["id"] for one in read(tmp_path)][:2] == ["chatcmpl-0", "chatcmpl-1"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "cannot be written (No space left on device): responses go on" in said[0]
    assert said[1].endswith("is written again")


def test_what_cannot_be_written_at_the_end_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    counts = Counts()
    with writing(blocked / "log", counts) as own:
        own.submit(row)
    assert (counts.rows, counts.lost) == (0, 1)
    assert "1 rows of the decision log" in caplog.text


LIMITED = """
import resource, sys, threading
from pathlib import Path
from drr.decisions.writer import Limits, LogWriter
from tests.decisions.rows import row
from tests.decisions.test_writer import Counts, until
counts = Counts()
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
writer = LogWriter(Path(sys.argv[1]), Limits(seconds=0.05), counts, retry=0.05)
for number in range(10):
    writer.submit(lambda number=number: row(number))
until(lambda: counts.failures >= 2)
assert not list(Path(sys.argv[1]).iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
until(lambda: counts.rows == 10)
writer.close()
"""


def test_a_file_that_the_system_cuts_off_is_no_file(tmp_path: Path) -> None:
    """The kernel itself refuses bytes in the middle of a file, and then takes them again."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    ran = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert len(read(tmp_path)) == 10


def test_a_killed_writer_leaves_whole_files(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline().split()[1]) for _ in range(5)]
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        told += [int(line.split()[1]) for line in process.stdout if line.startswith("written")]
    found = [int(one["id"].rpartition("-")[2]) for one in read(tmp_path)]
    assert found == list(range(len(found))), "all up to the kill, but for those of the newest file"
    assert sum(told) <= len(found)
    left = [path for path in tmp_path.iterdir() if path.suffix != ".parquet"]
    assert len(left) <= 1
    for path in left:
        os.utime(path, (0, 0))
    with writing(tmp_path, Counts()):
        pass
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".parquet"], "the next server sweeps"


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "decisions-1.parquet"
    pq.write_table(pa.table({"id": ["a"]}), other)
    with pytest.raises(InputError, match="is no decision log of this version: it has no column choice"):
        read(tmp_path)
    other.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="is not a readable Parquet file"):
        read(tmp_path)


def test_columns_of_a_later_version_are_no_harm(tmp_path: Path) -> None:
    name = "decisions-1.parquet"
    write_file(tmp_path, name, [one_row(row())])
    table = pq.read_table(tmp_path / name)
    pq.write_table(table.append_column("more", pa.array([1])), tmp_path / name)
    assert [sorted(one) for one in read(tmp_path)] == [sorted(SCHEMA.names)]


_NUMBERS = st.floats(width=32, allow_nan=False) | st.none()


@given(
    st.lists(
        st.builds(
            row,
            st.integers(0, 10**6),
            boundaries=st.lists(
                st.builds(boundary, st.integers(0, 1000), p_now=_NUMBERS, ms=_NUMBERS, features=st.none()), max_size=3
            ),
            canary=st.none() | st.text(st.characters(codec="utf-8")),
            shaped_by=st.lists(st.sampled_from(["grammar", "stop"])),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_row_comes_back(rows: list[Row]) -> None:
    table = pa.Table.from_batches([one_row(one) for one in rows])
    assert [{**one, "time": round(one["time"].timestamp() * 1000)} for one in table.to_pylist()] == rows


def test_batches_of_one_are_put_together(tmp_path: Path) -> None:
    with writing(tmp_path, Counts(), Limits()) as own:
        for number in range(3 * writer._ROWS_TOGETHER + 2):
            own.submit(lambda number=number: row(number))
        until(lambda: own._count == 3 * writer._ROWS_TOGETHER + 2)
        assert [batch.num_rows for batch in own._rows] == [writer._ROWS_TOGETHER] * 3 + [1, 1]
    assert len(read(tmp_path)) == 3 * writer._ROWS_TOGETHER + 2

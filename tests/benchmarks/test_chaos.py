"""What the chaos run says of a server: each verdict can fail, and says by what."""

import os
from collections import Counter
from pathlib import Path

import psutil
import pytest

from benchmarks.answers import Answer
from benchmarks.chaos import Blow, Record, Verdict, markdown, verdicts
from benchmarks.chaos_clients import Told
from benchmarks.server_processes import ServerProcesses, Size, metric, slope
from benchmarks.small_disk import SmallDisk, small_disk


def sizes(pss: float = 900.0, files: int = 40) -> dict[str, Size]:
    return {
        "api": Size(1000.0, pss, files, 20),
        "reasoner": Size(1300.0, 1200.0, 30, 9),
        "dm": Size(1300.0, 1000.0, 30, 9),
        "other": Size(9.0, 2.0, 5, 1),
    }


def good() -> tuple[Record, Told]:
    record = Record(
        blows=[Blow(120.0, "killed", 20.0), Blow(240.0, "stopped", 30.0)],
        samples=[(10.0 * number, sizes(900.0 + number % 3, 60)) for number in range(1, 30)],
        rest=[sizes(), sizes()],
        full=(75.0, 225.0),
        left={"drr_requests_running": 0.0, "vllm:num_requests_running": 0.0},
        log_grew=True,
        judged_at_end=True,
        status=0,
    )
    answers = [(float(second), Answer("complete", "stop", 0.1, 0.4)) for second in range(300)]
    return record, Told(
        [*answers, (5.0, Answer("error", "429", 0.0, 0.0))], cut=7, huge=Counter({"413": 9, "closed": 2})
    )


def failing(record: Record, told: Told) -> list[str]:
    return [verdict.asked for verdict in verdicts(record, told, "tmpfs") if not verdict.holds]


def test_all_holds_of_a_good_run() -> None:
    record, told = good()
    assert failing(record, told) == []
    told_of = {verdict.asked: verdict.figures for verdict in verdicts(record, told, "tmpfs")}
    assert any(figures.startswith("300 of 300; 7 clients left") for figures in told_of.values())
    assert any(told.startswith("killed: 20.0 s, stopped: 30.0 s; ") for told in told_of.values())


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        (lambda record, told: told.answers.append((1.0, Answer("broken", "ReadError", 0.0, 1.0))), "every admitted"),
        (lambda record, told: told.answers.append((1.0, Answer("error", "503", 0.0, 1.0))), "every admitted"),
        (lambda record, told: told.answers.clear(), "every admitted"),
        (lambda record, told: record.blows.append(Blow(1.0, "killed", None)), "the DM is back"),
        (lambda record, told: record.blows.append(Blow(1.0, "killed", 61.0)), "the DM is back"),
        (lambda record, told: record.blows.clear(), "the DM is back"),
        (lambda record, told: setattr(record, "judged_at_end", False), "the DM is back"),
        (lambda record, told: record.rest.append(sizes(pss=1100.0)), "memory is flat"),
        (lambda record, told: record.rest.append(sizes(files=50)), "open files are flat"),
        (lambda record, told: record.left.update({"vllm:num_requests_running": 1.0}), "the queue is empty"),
        (lambda record, told: record.left.clear(), "the queue is empty"),
        (lambda record, told: told.huge.update({"200": 1}), "bodies of 100 MB"),
        (lambda record, told: told.huge.clear(), "bodies of 100 MB"),
        (lambda record, told: setattr(record, "log_grew", False), "with a full disk"),
        (lambda record, told: told.answers.append((99.0, Answer("broken", "500", 0.0, 1.0))), "with a full disk"),
        (lambda record, told: setattr(record, "status", 1), "SIGTERM"),
    ],
)
def test_each_line_can_fail(change: object, asked: str) -> None:
    record, told = good()
    change(record, told)  # type: ignore[operator]
    assert any(found.startswith(asked) for found in failing(record, told))


def test_the_table_marks_what_does_not_hold() -> None:
    assert "| a | **no** | b |" in markdown([Verdict("a", holds=False, figures="b")])


def test_growth_is_by_least_squares() -> None:
    assert slope([0.0, 1.0, 2.0], [5.0, 7.0, 9.0]) == pytest.approx(2.0)
    assert slope([1.0], [5.0]) == 0.0
    assert slope([1.0, 1.0], [5.0, 9.0]) == 0.0


def test_metrics_are_summed_over_labels() -> None:
    text = 'a_total{x="1"} 2.0\na_total{x="2"} 3.0\nab_total 9.0\n'
    assert metric(text, "a_total") == 5.0


def test_this_process_has_a_size_and_no_engines() -> None:
    processes = ServerProcesses(os.getpid())
    found = processes.sizes()["api"]
    assert found.rss >= found.pss > 1.0
    assert found.threads >= 1
    assert found.files >= psutil.Process().num_fds() - 5
    assert processes.dm_engine() is None


def test_a_small_disk_gets_full_and_is_freed_again() -> None:
    with small_disk(1) as disk:
        if disk.folder is None:
            pytest.skip("no tmpfs may be mounted here")
        disk.log.write_text("before")
        disk.fill()
        assert disk.is_full()
        with pytest.raises(OSError, match="No space"):
            (disk.folder / "more").write_bytes(b"x" * 9000)
        disk.free()
        disk.log.write_text("after" * 9000)
        folder = disk.folder
    assert not folder.exists()


def test_where_nothing_may_be_mounted_the_log_is_full_from_the_beginning() -> None:
    disk = SmallDisk(None)
    disk.fill()
    disk.free()
    assert disk.is_full()
    assert disk.log == Path("/dev/full")

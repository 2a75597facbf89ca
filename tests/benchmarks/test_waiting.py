"""How long processes waited for a CPU."""

import os
import sys
import time

import pytest

from benchmarks.waiting import Waited, between, threads_of, work_seconds


def test_what_came_on_top_between_two_readings() -> None:
    before = {(1, 1): (1_000_000_000, 500_000_000), (1, 2): (7, 7)}
    after = {(1, 1): (3_000_000_000, 1_500_000_000), (2, 2): (1_000_000_000, 2_000_000_000)}
    found = between(before, after)
    assert (found.ran, found.waited) == (3.0, 3.0)
    assert found.slowdown == 2.0
    assert Waited(0.0, 0.0).slowdown == 1.0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_thread_that_works_is_counted() -> None:
    before = threads_of([os.getpid()])
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    found = between(before, threads_of([os.getpid()]))
    assert 0.04 < found.ran < 5
    assert found.slowdown >= 1


def test_a_process_that_is_gone_counts_nothing() -> None:
    assert threads_of([2**22 + 1]) == {}


def test_a_piece_of_work_takes_cpu_time_not_waiting() -> None:
    asleep = time.thread_time()
    took = [work_seconds() for _ in range(20)]
    assert 0 < min(took) < 0.1
    assert sum(took) <= time.thread_time() - asleep

"""Engines that are started side by side: the first that fails is told at once."""

import multiprocessing
import time
from collections.abc import Callable

import pytest

from server.engines import _side_by_side


def engine_that_waits(ends: list[int | None]) -> Callable[[], None]:
    """A start whose process goes on for long; notes how it ended."""

    def start() -> None:
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
        process.start()
        process.join()
        ends.append(process.exitcode)
        raise RuntimeError("the engine has ended")

    return start


def that_fails() -> None:
    raise ValueError("there is no tokenizer")


async def test_whoever_fails_first_is_told_and_nobody_waits_for_the_others() -> None:
    ends: list[int | None] = []
    begun = time.monotonic()
    with pytest.raises(ValueError, match="no tokenizer"):
        await _side_by_side([engine_that_waits(ends), that_fails])
    assert ends == [-9]
    assert time.monotonic() - begun < 60


async def test_nothing_more_is_started_once_one_has_failed() -> None:
    begun: list[str] = []
    with pytest.raises(ValueError, match="no tokenizer"):
        await _side_by_side([that_fails, lambda: begun.append("the Reasoner")])
    assert begun == []


async def test_nothing_is_waited_for_where_nothing_is_started() -> None:
    await _side_by_side([])


async def test_all_are_waited_for_where_none_fails() -> None:
    done: list[str] = []

    def slow() -> None:
        time.sleep(0.2)
        done.append("the DM")

    await _side_by_side([slow, lambda: done.append("the Reasoner")])
    assert sorted(done) == ["the DM", "the Reasoner"]

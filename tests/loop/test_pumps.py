"""Generators that run side by side, delivered as they come and ended for certain."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from drr.loop.pumps import Ended, Pumps, merged


class Counting:
    """Streams that know how many of them run."""

    def __init__(self) -> None:
        self.running = 0

    async def stream(self, name: str, items: int, fails: bool = False) -> AsyncGenerator[str, None]:
        self.running += 1
        try:
            for number in range(items):
                await asyncio.sleep(0)
                yield f"{name}{number}"
            if fails:
                raise ValueError(name)
        finally:
            await asyncio.sleep(0)  # a clean-up that takes its time
            self.running -= 1


async def test_streams_are_merged_and_each_keeps_its_order() -> None:
    counting = Counting()
    got = [item async for item in merged([counting.stream("a", 3), counting.stream("b", 2)])]
    assert [item for index, item in got if index == 0] == ["a0", "a1", "a2"]
    assert [item for index, item in got if index == 1] == ["b0", "b1"]
    assert counting.running == 0


async def test_one_stream_is_passed_on_as_it_is() -> None:
    assert [item async for item in merged([Counting().stream("a", 2)])] == [(0, "a0"), (0, "a1")]


async def test_an_error_ends_all_streams_and_is_raised() -> None:
    counting = Counting()
    with pytest.raises(ValueError, match="bad"):
        async for _ in merged([counting.stream("a", 1000), counting.stream("bad", 1, fails=True)]):
            pass
    assert counting.running == 0


async def test_who_stops_listening_leaves_nothing_running() -> None:
    counting = Counting()
    stream = merged([counting.stream("a", 1000), counting.stream("b", 1000)])
    await anext(stream)
    await stream.aclose()
    assert counting.running == 0


async def test_single_streams_can_be_ended_while_others_go_on() -> None:
    counting, got = Counting(), list[tuple[int, str | Ended]]()
    pumps: Pumps[str] = Pumps(lambda number, item: got.append((number, item)))
    pumps.start(0, counting.stream("a", 10**9))
    pumps.start(1, counting.stream("b", 3))
    await asyncio.sleep(0.01)
    await asyncio.gather(pumps.end([0]), pumps.end([0]))
    assert counting.running == 0
    assert (1, Ended()) in got
    assert not any(number == 0 and isinstance(item, Ended) for number, item in got)
    await pumps.end()

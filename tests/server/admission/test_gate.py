"""Turns: never more at once than allowed, in order, and none is lost whoever leaves when."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.admission.gate import FullError, Gate


async def test_turns_come_in_order() -> None:
    gate, order = Gate(1, 3), list[int]()
    assert gate.turn().done()

    async def wait(number: int, turn: "asyncio.Future[None]") -> None:
        await turn
        order.append(number)
        gate.leave(1.0)

    tasks = [asyncio.ensure_future(wait(number, gate.turn())) for number in range(3)]
    with pytest.raises(FullError):
        gate.turn()
    gate.leave(1.0)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    assert (gate.running, gate.waiting) == (0, 0)


async def test_nobody_overtakes_who_waits() -> None:
    gate = Gate(1, 2)
    assert gate.turn().done()
    first = gate.turn()
    gate.leave(0.1)
    assert first.done()
    assert not gate.turn().done()
    assert (gate.running, gate.waiting) == (1, 1)


async def test_a_closed_gate_tells_who_waits() -> None:
    gate = Gate(1, 2)
    assert gate.turn().done()
    waiting = [gate.turn(), gate.turn()]
    gate.close(ValueError("closed"))
    for turn in waiting:
        with pytest.raises(ValueError, match="closed"):
            await turn
        gate.give_up(turn)
    gate.leave(1.0)
    assert (gate.running, gate.waiting) == (0, 0)


async def test_the_wait_that_is_told_grows_with_what_requests_take() -> None:
    told = []
    for seconds in (0.1, 4.0, 1e6):
        gate = Gate(2, 0)
        gate.turn()
        gate.leave(seconds)
        gate.turn()
        gate.turn()
        with pytest.raises(FullError) as full:
            gate.turn()
        told.append(full.value.seconds)
    assert told == [1.0, 2.0, 60.0]


async def test_who_is_told_to_come_again_comes_behind_those_who_were_told_before() -> None:
    now = 0.0
    gate = Gate(2, 1, lambda: now)
    gate.turn()
    gate.leave(4.0)
    gate.turn()
    gate.turn()
    gate.turn()

    def told() -> float:
        with pytest.raises(FullError) as full:
            gate.turn()
        return full.value.seconds

    assert [told() for _ in range(4)] == [4.0, 6.0, 8.0, 10.0]
    now = 6.0  # two of them are back
    assert told() == 8.0
    now = 100.0
    assert told() == 4.0


@settings(max_examples=200, deadline=None)
@given(
    running=st.integers(1, 3),
    waiting=st.integers(0, 4),
    moves=st.lists(st.tuples(st.sampled_from(["come", "end", "cancel"]), st.integers(0, 9)), max_size=60),
)
def test_no_place_is_lost_or_made(running: int, waiting: int, moves: list[tuple[str, int]]) -> None:
    """Whatever comes, ends and is cancelled in any order, also in the same moment in which its turn comes."""

    async def play() -> None:
        gate = Gate(running, waiting)
        ends = dict[asyncio.Task[None], asyncio.Event]()
        inside = set[asyncio.Task[None]]()

        async def request(end: asyncio.Event) -> None:
            try:
                turn = gate.turn()
            except FullError:
                return
            try:
                await asyncio.wait({turn})
            except asyncio.CancelledError:
                gate.give_up(turn)
                raise
            me = asyncio.current_task()
            assert me is not None
            inside.add(me)
            assert len(inside) <= running
            try:
                await end.wait()
            finally:
                inside.discard(me)
                gate.leave(1.0)

        for move, number in moves:
            alive = [task for task in ends if not task.done()]
            if move == "come":
                end = asyncio.Event()
                ends[asyncio.ensure_future(request(end))] = end
            elif alive and move == "end":
                ends[alive[number % len(alive)]].set()
            elif alive:
                alive[number % len(alive)].cancel()
            if number % 3:
                await asyncio.sleep(0)
            assert gate.waiting <= waiting
        for end in ends.values():
            end.set()
        await asyncio.gather(*ends, return_exceptions=True)
        assert (gate.running, gate.waiting) == (0, 0)

    asyncio.run(play())

"""Async generators run as tasks, what they give delivered in order, and all of them ended for certain."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Ended:
    """A generator is exhausted, or failed with `error`."""

    error: Exception | None = None


class Pumps(Generic[Item]):
    """Runs generators, each under a number, and hands what they give to `deliver`, an Ended last.

    A generator that is ended from outside delivers nothing more, not even an Ended.
    """

    def __init__(self, deliver: Callable[[int, Item | Ended], None]) -> None:
        self._deliver = deliver
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def start(self, number: int, stream: AsyncGenerator[Item, None]) -> None:
        """Run a generator; the number must be free."""
        self._tasks[number] = asyncio.create_task(self._run(number, stream))

    async def end(self, numbers: Iterable[int] | None = None) -> None:
        """Close these generators, or all; when this returns they have released what they held."""
        tasks = [self._tasks[number] for number in (tuple(self._tasks) if numbers is None else tuple(numbers))]
        for task in tasks:
            if not task.cancelling():  # a second cancellation would interrupt the generator's own clean-up
                task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._tasks = {number: task for number, task in self._tasks.items() if task not in tasks}

    async def _run(self, number: int, stream: AsyncGenerator[Item, None]) -> None:
        try:
            async with contextlib.aclosing(stream):
                async for item in stream:
                    self._deliver(number, item)
        except Exception as error:
            self._deliver(number, Ended(error))
        else:
            self._deliver(number, Ended())


async def merged(streams: Sequence[AsyncGenerator[Item, None]]) -> AsyncGenerator[tuple[int, Item], None]:
    """What all of `streams` give, as it comes, each item with its stream's index. The first error is raised."""
    if len(streams) == 1:
        async with contextlib.aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, Item | Ended]] = asyncio.Queue()
    pumps: Pumps[Item] = Pumps(lambda number, item: queue.put_nowait((number, item)))
    try:
        for index, stream in enumerate(streams):
            pumps.start(index, stream)
            await asyncio.sleep(0)  # hundreds that begin in one turn of the event loop hold up everybody else
        running = len(streams)
        while running:
            index, got = await queue.get()
            if not isinstance(got, Ended):
                yield index, got
            elif got.error is not None:
                raise got.error
            else:
                running -= 1
    finally:
        await pumps.end()

"""How many requests run at once, and how many wait for their turn."""

import asyncio
import contextlib
import heapq
import time
from collections import deque
from collections.abc import Callable

_LEAST_WAIT, _LONGEST_WAIT = 1.0, 60.0
"""Seconds after which somebody who found no place is told to come again."""

_MOST_COMING = 10_000
"""Of those who will be back, how many are remembered: more could not be served within the longest wait."""

_NEWEST = 0.1
"""Weight of the newest request in the mean time that requests take."""


class FullError(Exception):
    """There is no place to wait either; `seconds` until there may be one."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"full for another {seconds:.1f} s")
        self.seconds = seconds


class Gate:
    """Lets `running` requests in at once, has `waiting` more wait in order, and turns away all others."""

    def __init__(self, running: int, waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_running, self._most_waiting, self._clock = running, waiting, clock
        self._queue = deque[asyncio.Future[None]]()
        self.running = 0
        self._seconds = 0.0
        """Mean time that a request takes; 0 before the first has ended."""
        self._coming = list[float]()
        """When those will be back who were told to come again: a heap."""

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def is_open(self) -> bool:
        """Whether the next turn comes at once."""
        return self.running < self._most_running and not self._queue

    def turn(self) -> "asyncio.Future[None]":
        """Done when it is this request's turn: then it is in, and has to leave. It takes its place in the queue at
        once. FullError where it may not even wait."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.is_open:
            self.running += 1
            turn.set_result(None)
        elif len(self._queue) >= self._most_waiting:
            raise FullError(self._until_free())
        else:
            self._queue.append(turn)
        return turn

    def give_up(self, turn: "asyncio.Future[None]") -> None:
        """Nobody waits for this turn any more, whether it has come or not."""
        if turn.done():
            if not turn.cancelled() and turn.exception() is None:
                self._next()
            return
        turn.cancel()
        with contextlib.suppress(ValueError):
            self._queue.remove(turn)

    def close(self, why: Exception) -> None:
        """Whoever waits waits in vain, and is told why."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_exception(why)

    def leave(self, seconds: float) -> None:
        """A request is done that took this long."""
        self._seconds = seconds if not self._seconds else self._seconds + _NEWEST * (seconds - self._seconds)
        self._next()

    def _next(self) -> None:
        """Give a place that has become free to whoever has waited longest."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def _until_free(self) -> float:
        """Seconds until there is a place for one more, as far as requests take what they took: behind those who wait,
        and behind those who were told so before, because all of them will be back."""
        now = self._clock()
        while self._coming and self._coming[0] <= now:
            heapq.heappop(self._coming)
        before = len(self._queue) + len(self._coming) + 1
        wait = min(max(self._seconds * before / self._most_running, _LEAST_WAIT), _LONGEST_WAIT)
        if len(self._coming) < _MOST_COMING:
            heapq.heappush(self._coming, now + wait)
        return wait

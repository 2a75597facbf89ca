"""One engine request at a time, delivered as messages, and ended for certain."""

import contextlib
from collections.abc import AsyncGenerator, Callable

from drr.loop.pumps import Ended, Pumps
from drr.loop.reasoner import Delta, Reasoner, Segment


class SegmentStream:
    """Runs segments of a Reasoner and hands what they bring to `deliver`, in order; an Ended with an error where the
    engine request fails."""

    def __init__(self, reasoner: Reasoner, deliver: Callable[[Delta | Ended], None]) -> None:
        self._reasoner = reasoner
        self._pumps: Pumps[Delta] = Pumps(lambda _, item: deliver(item))

    def open(self, segment: Segment) -> None:
        """Start a segment; the one before must have been closed."""
        self._pumps.start(0, _finishing(self._reasoner.stream(segment)))

    async def close(self) -> None:
        """End the running segment, if any; when this returns its engine request is freed."""
        await self._pumps.end()


async def _finishing(stream: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    """The stream's deltas; RuntimeError where the last of them has no finish reason."""
    finished = False
    async with contextlib.aclosing(stream):
        async for delta in stream:
            finished = delta.finish_reason is not None
            yield delta
    if not finished:
        raise RuntimeError("the Reasoner's stream ended without a finish reason")

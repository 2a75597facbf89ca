"""One engine request at a time, delivered as messages, and ended for certain."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from drr.reasoner import Delta, Reasoner, Segment


@dataclass(frozen=True, slots=True)
class StreamFailed:
    """The engine request ended with an error."""

    error: Exception


class SegmentStream:
    """Runs segments of a Reasoner and hands what they bring to `deliver`, in order."""

    def __init__(self, reasoner: Reasoner, deliver: Callable[[Delta | StreamFailed], None]) -> None:
        self._reasoner, self._deliver = reasoner, deliver
        self._pump: asyncio.Task[None] | None = None

    def open(self, segment: Segment) -> None:
        """Start a segment; the one before must have been closed."""
        self._pump = asyncio.create_task(self._run(segment))

    async def close(self) -> None:
        """End the running segment, if any; when this returns its engine request is freed."""
        pump = self._pump
        if pump is None:
            return
        if not pump.cancelling():  # who is cancelled here and comes back must wait for the same end
            pump.cancel()
        await asyncio.wait([pump])
        self._pump = None

    async def _run(self, segment: Segment) -> None:
        finished = False
        try:
            async with contextlib.aclosing(self._reasoner.stream(segment)) as stream:
                async for delta in stream:
                    finished = delta.finish_reason is not None
                    self._deliver(delta)
            if not finished:
                raise RuntimeError("the Reasoner's stream ended without a finish reason")
        except Exception as error:
            self._deliver(StreamFailed(error))

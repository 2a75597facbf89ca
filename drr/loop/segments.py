"""One engine request at a time, delivered as messages, and ended for certain."""

from collections.abc import Callable

from drr.loop.pumps import Ended, Pumps
from drr.loop.reasoner import Delta, Reasoner, Segment


class SegmentStream:
    """Runs segments of a Reasoner and hands what they bring to `deliver`, in order; an Ended with an error where the
    engine request fails, or ends without a finish reason."""

    def __init__(self, reasoner: Reasoner, deliver: Callable[[Delta | Ended], None]) -> None:
        self._reasoner, self._deliver = reasoner, deliver
        self._pumps: Pumps[Delta] = Pumps(self._pass_on)
        self._finished = False

    def open(self, segment: Segment) -> None:
        """Start a segment; the one before must have been closed."""
        self._finished = False
        self._pumps.start(0, self._reasoner.stream(segment))

    async def close(self) -> None:
        """End the running segment, if any; when this returns its engine request is freed."""
        await self._pumps.end()

    def _pass_on(self, _: int, item: Delta | Ended) -> None:
        if isinstance(item, Delta):
            self._finished = item.finish_reason is not None
        elif item.error is None and not self._finished:
            item = Ended(RuntimeError("the Reasoner's stream ended without a finish reason"))
        self._deliver(item)

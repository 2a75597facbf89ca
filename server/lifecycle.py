"""From the first request to the last: when the server is ready, and how it ends."""

import asyncio
import logging
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from server.admission.middleware import Door, draining
from server.refusals import unavailable

logger = logging.getLogger("drr")

_SECONDS_TO_SAY_SO = 10.0
"""What clients that are cut off may take to hear why."""


@dataclass(slots=True)
class Lifecycle:
    """What the server is doing. `lead` are seconds between the end of readiness and the refusal of new requests, for
    load balancers that ask; `limit` those that requests under way may take to finish."""

    door: Door
    lead: float
    limit: float
    ready: bool = False
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody wants the server to end."""
    hurried: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody wants it to end at once."""

    @property
    def why_not_ready(self) -> str | None:
        """What keeps the server from taking requests; None where nothing does."""
        if self.ending.is_set():
            return "shutting down"
        return None if self.ready else "starting"

    def on_signal(self) -> None:
        """SIGTERM or SIGINT: the first ends the server, the second does so at once."""
        if self.ending.is_set():
            self.hurried.set()
        self.ending.set()

    def listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_signal)

    async def drain(self) -> None:
        """Stop to be ready, then begin nothing new, then wait for what is under way, and cut off what takes too
        long."""
        self.ready = False
        under_way = self.door.under_way
        logger.warning("Shutting down: %d requests are under way (at most %g s)", len(under_way), self.limit)
        begun = time.monotonic()
        await self.unless_hurried(self.lead)
        self.door.close(draining(self.limit))
        await self.unless_hurried(self.limit - (time.monotonic() - begun), under_way.idle())
        if len(under_way):
            left = under_way.cut_all(unavailable("The server is being shut down; the response ends here."))
            logger.warning("Shutting down: %d requests are cut off", left)
            await _at_most(_SECONDS_TO_SAY_SO, under_way.idle())

    async def give_up(self) -> None:
        """The Reasoner's engine has died: whoever waits is told so."""
        self.ready = False
        gone = unavailable("The Reasoner's engine has died; the server is going down.")
        self.door.close(gone)
        if self.door.under_way.cut_all(gone):
            await _at_most(_SECONDS_TO_SAY_SO, self.door.under_way.idle())

    async def unless_hurried(self, seconds: float, otherwise: Any = None) -> None:
        """Wait so long, or until `otherwise` is done, or until nobody wants to wait any more."""
        waits = [asyncio.ensure_future(self.hurried.wait())]
        if otherwise is not None:
            waits.append(asyncio.ensure_future(otherwise))
        try:
            await asyncio.wait(waits, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


async def _at_most(seconds: float, wait: Any) -> None:
    try:
        await asyncio.wait_for(wait, seconds)
    except TimeoutError:
        logger.warning("Shutting down: some clients did not hear why they were cut off")

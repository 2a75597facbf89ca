"""A DM's engine that is gone, or hangs, is started again while requests go on without it."""

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import AsyncIterator, Sequence

from drr.engine.children import kill_engines
from server import metrics
from server.health import Pulse
from server.judges import Dm
from server.runtime import DrrRuntime

logger = logging.getLogger("drr")

_BETWEEN_LOOKS = 1.0
_BEATS = 1.0, 5.0
"""A DM judges in milliseconds: one that has not answered for five seconds is holding up every request."""

_SECONDS_TO_END, _SECONDS_TO_WARM_UP = 5.0, 60.0
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
"""Seconds before the first start, and at most before a later one: each wait is twice the last."""

_LASTS = 60.0
"""Seconds after which an engine that runs counts as one that had never failed: one that dies every other minute is not
waited for longer each time."""


class Reviver:
    """Watches the engine of the DM that serves as `dm`, and has another one started in its place."""

    def __init__(self, dm: Dm, runtime: DrrRuntime, pulses: dict[str, Pulse]) -> None:
        """The engine's pulse, and later that of the engine in its place, is kept in `pulses` as "dm"."""
        self._dm, self._runtime, self._pulses = dm, runtime, pulses
        self._wait = _FIRST_WAIT
        self.starting: asyncio.Task[Dm] | None = None
        self._take_pulse()

    def _take_pulse(self) -> None:
        assert self._dm.engine is not None
        self._pulses["dm"] = Pulse(self._dm.engine, *_BEATS)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            begun = asyncio.get_running_loop().time()
            await self._until_it_fails()
            if asyncio.get_running_loop().time() - begun > _LASTS:
                self._wait = _FIRST_WAIT
            await self._revive()

    async def _until_it_fails(self) -> None:
        pulse = self._pulses["dm"]
        beating = asyncio.create_task(pulse.beat())
        try:
            while not self._dm.dead and pulse.state == "ok":  # noqa: ASYNC110  # nobody is told
                await asyncio.sleep(_BETWEEN_LOOKS)
        finally:
            beating.cancel()

    async def _revive(self) -> None:
        metrics.DM_UP.set(0)
        while True:
            logger.warning("The DM's engine is started again in %g s; until then requests think in full.", self._wait)
            try:
                await self._end()
                await asyncio.sleep(self._wait)
                self._wait = min(2 * self._wait, _LONGEST_WAIT)
                await self._start()
            except Exception as error:  # whatever keeps an engine from ending or starting: it is tried again
                metrics.DM_RESTARTS.labels("failed").inc()
                logger.warning("The DM's engine could not be started: %r", error)
                continue
            self._runtime.scorers["dm"] = self._dm.scorer
            self._forget_the_old_one()
            metrics.DM_RESTARTS.labels("started").inc()
            metrics.DM_UP.set(1)
            logger.warning("The DM's engine is back.")
            return

    async def _start(self) -> None:
        assert self._dm.again is not None
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # this process has threads that a fork would lose
        self.starting = asyncio.create_task(asyncio.to_thread(self._dm.again))
        try:
            other = await asyncio.shield(self.starting)
            async with asyncio.timeout(_SECONDS_TO_WARM_UP):
                await self._dm.take_over(other)
        finally:
            if self.starting.done():
                self.starting = None

    def _forget_the_old_one(self) -> None:
        """Have the old engine's sockets and threads go at once. The errors that it ended requests with refer to it in
        circles, which Python would not look for soon. A look takes milliseconds: vLLM has frozen what was there when
        the server began."""
        self._take_pulse()
        gc.collect()

    async def _end(self) -> None:
        """End what is left of the old engine, a hanging process included."""
        if self._dm.text is not None:
            self._dm.text.dead = True
        if self._dm.engine is not None:
            engine, self._dm.engine = self._dm.engine, None
            await asyncio.to_thread(engine.shutdown, timeout=_SECONDS_TO_END)


async def _end_start(starting: "asyncio.Task[Dm]") -> None:
    """The server ends while an engine is being started: that is not waited for."""
    while not starting.done():
        kill_engines()
        await asyncio.wait({starting}, timeout=0.2)
    if not starting.cancelled() and starting.exception() is None:
        await starting.result().shutdown()


@contextlib.asynccontextmanager
async def reviving(dms: Sequence[Dm], runtime: DrrRuntime | None, pulses: dict[str, Pulse]) -> AsyncIterator[None]:
    """While the block runs, the first DM's engine is watched, where it has one here."""
    if runtime is None or not dms or dms[0].engine is None:
        yield
        return
    reviver = Reviver(dms[0], runtime, pulses)
    watching = asyncio.create_task(reviver.watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        if reviver.starting is not None:
            await _end_start(reviver.starting)

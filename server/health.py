"""Whether engines answer: asked for again and again, by a call that costs them nothing."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping

from server.vllm_api import AsyncLLM

BETWEEN_BEATS, LONGEST_BEAT = 5.0, 20.0
"""Seconds between two questions, and until one that is not answered tells that an engine hangs. An engine answers
between two steps, so that its longest step has to fit in."""


class Pulse:
    """Asks one engine, and remembers whether it answers."""

    def __init__(self, engine: AsyncLLM, between: float = BETWEEN_BEATS, longest: float = LONGEST_BEAT) -> None:
        self._engine, self._between, self._longest = engine, between, longest
        self._asked_since: float | None = None

    @property
    def state(self) -> str:
        """`ok`, `dead` where the engine is gone, `hung` where it has not answered for long."""
        if self._engine.errored:
            return "dead"
        silent = 0.0 if self._asked_since is None else time.monotonic() - self._asked_since
        return "hung" if silent > self._longest else "ok"

    async def beat(self) -> None:
        """Ask until cancelled. One question at a time: one that hangs is waited for."""
        while not self._engine.errored:
            self._asked_since = time.monotonic()
            try:
                await self._engine.is_sleeping()
            except Exception:  # whatever vLLM raises of an engine that is going down: `errored` will tell
                await asyncio.sleep(self._between)
                continue
            self._asked_since = None
            await asyncio.sleep(self._between)


@contextlib.asynccontextmanager
async def beating(engines: Mapping[str, AsyncLLM]) -> AsyncIterator[dict[str, Pulse]]:
    """The pulses of these engines, which are asked while the block runs. Others may be put beside them."""
    pulses = {name: Pulse(engine) for name, engine in engines.items()}
    tasks = [asyncio.create_task(pulse.beat()) for pulse in pulses.values()]
    try:
        yield pulses
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

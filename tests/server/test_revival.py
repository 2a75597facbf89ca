"""How long a DM's engine that dies is waited for: longer each time, unless it has run for a while."""

import asyncio
import gc
import time
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from server import revival
from server.revival import Reviver


class Engine:
    """Answers until it is killed."""

    def __init__(self) -> None:
        self.errored = False

    async def is_sleeping(self) -> bool:
        return False

    def shutdown(self, timeout: float) -> None:
        self.errored = True


class Dm:
    """A DM whose engines are counted, and told when they were asked for."""

    def __init__(self) -> None:
        self.engine: Engine | None = Engine()
        self.text = None
        self.scorer = object()
        self.asked = list[float]()

    @property
    def dead(self) -> bool:
        return self.engine is not None and self.engine.errored

    def again(self) -> "Dm":
        self.asked.append(time.monotonic())
        return Dm()

    async def take_over(self, other: "Dm") -> None:
        self.engine, self.scorer = other.engine, other.scorer


async def waits(monkeypatch: pytest.MonkeyPatch, lives: list[float]) -> list[float]:
    """Seconds between each death and the next start, for engines that live so long."""
    monkeypatch.setattr(revival, "_BETWEEN_LOOKS", 0.005)
    monkeypatch.setattr(revival, "_FIRST_WAIT", 0.04)
    monkeypatch.setattr(revival, "_LASTS", 0.2)
    dm, pulses = Dm(), dict[str, Any]()
    reviver = Reviver(dm, SimpleNamespace(scorers={}), pulses)  # type: ignore[arg-type]
    watching = asyncio.create_task(reviver.watch())
    found = []
    for life in lives:
        await asyncio.sleep(life)
        assert dm.engine is not None
        died, engine = time.monotonic(), dm.engine
        engine.errored = True
        while dm.engine is engine or dm.engine is None:  # noqa: ASYNC110  # nobody is told
            await asyncio.sleep(0.002)
        found.append(dm.asked[-1] - died)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return found


async def test_an_engine_that_dies_again_and_again_is_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = await waits(monkeypatch, [0.01, 0.01, 0.01])
    assert second > 1.5 * first
    assert third > 1.5 * second


async def test_one_that_has_run_for_a_while_is_started_as_soon_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    _, second, after_long = await waits(monkeypatch, [0.01, 0.01, 0.3])
    assert after_long < second


async def test_nothing_is_left_of_an_engine_once_another_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revival, "_BETWEEN_LOOKS", 0.005)
    monkeypatch.setattr(revival, "_FIRST_WAIT", 0.01)
    dm, pulses = Dm(), dict[str, Any]()
    assert dm.engine is not None
    refused: Any = RuntimeError("the engine is gone")
    refused.engine, refused.itself = dm.engine, refused  # as errors do, by their tracebacks
    old = weakref.ref(dm.engine)
    dm.engine.errored = True
    reviver = Reviver(dm, SimpleNamespace(scorers={}), pulses)  # type: ignore[arg-type]
    del refused
    gc.disable()
    try:
        watching = asyncio.create_task(reviver.watch())
        async with asyncio.timeout(10):
            while not reviver._runtime.scorers or old() is not None:  # noqa: ASYNC110  # nobody is told
                await asyncio.sleep(0.005)
    finally:
        gc.enable()
        watching.cancel()
    assert pulses["dm"].state == "ok"

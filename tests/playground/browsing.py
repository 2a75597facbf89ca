"""Debian's Chromium, driven by Playwright; tests that need it skip where it is not installed."""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def chromium() -> str:
    """Where Chromium is; skips the test where there is none."""
    pytest.importorskip("playwright", reason="the package playwright is not installed")
    found = os.environ.get("DRR_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    return found


def node() -> str:
    """Where Node is; skips the test where there is none."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node is not installed")
    return found


_FIRST_PAINT = """() => new Promise((done) => {
    const told = (entries) => entries.find((entry) => entry.name === "first-contentful-paint")?.startTime;
    new PerformanceObserver((list) => told(list.getEntries()) && done(told(list.getEntries())))
        .observe({ type: "paint", buffered: true });
})"""


async def first_paint(page: Any) -> float:
    """When the page that is open showed its first content, in ms since it was asked for."""
    painted: float = await page.evaluate(_FIRST_PAINT)
    return painted


@dataclass
class Worked:
    """What the page's main thread did."""

    seconds: float = 0.0


@contextlib.asynccontextmanager
async def working(page: Any) -> AsyncIterator[Worked]:
    """Measure the processor time of the page's main thread. It does not grow because others use the cores."""
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable", {"timeDomain": "threadTicks"})
    worked, before = Worked(), await _task_seconds(session)
    yield worked
    worked.seconds = await _task_seconds(session) - before
    await session.detach()


async def _task_seconds(session: Any) -> float:
    metrics = (await session.send("Performance.getMetrics"))["metrics"]
    seconds: float = next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")
    return seconds

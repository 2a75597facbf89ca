"""What a browser measures of the page, as Lighthouse would, written into docs/playground.md.

    python -m tests.playground.figures

The server plays recorded answers. axe-core, which looks for what keeps people out, comes with axe-playwright-python.
"""

import asyncio
import os
import statistics
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.pages import check_section, write_section
from tests.local_http import served
from tests.playground.browsing import ARGUMENTS, chromium, first_paint, working
from tests.playground.scripted import examples, make_app

PAGE = Path(__file__).parents[2] / "docs" / "playground.md"
SECTION, COMMAND = "figures", "python -m tests.playground.figures"
LOOKS = [
    {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
    for width, height in ((1280, 900), (375, 720))
    for scheme in ("light", "dark")
]
"""The windows in which axe-core looks at the page: a desktop and a phone, light and dark."""

_TIMES = 9
_DRAWN = """() => document.getElementById("result").getAttribute("aria-busy") === "false" """
_SETTLED = 500
"""Milliseconds behind the drawing, in which a browser may still name a larger paint or shift the layout."""

_OBSERVED = """() => new Promise((done) => {
    const kinds = { "largest-contentful-paint": [], "layout-shift": [] };
    for (const [type, held] of Object.entries(kinds))
        new PerformanceObserver((list) => held.push(...list.getEntries())).observe({ type, buffered: true });
    setTimeout(() => done({
        largest: kinds["largest-contentful-paint"].at(-1)?.startTime,
        shifted: kinds["layout-shift"].reduce((sum, { value }) => sum + value, 0),
    }), 100);
})"""

_LOADED = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .map(({ transferSize }) => transferSize)"""


@dataclass
class Load:
    """One visit with an empty cache."""

    first_paint: float = 0.0
    largest_paint: float = 0.0
    shifted: float = 0.0
    processor: float = 0.0
    sizes: list[int] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


async def load(browser: Any, url: str) -> Load:
    """Open the page in a fresh profile, and wait until its first example is drawn."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    seen = Load()
    page.on("request", lambda asked: None if asked.url.startswith(url) else seen.elsewhere.append(asked.url))
    page.on("console", lambda message: seen.said.append(message.text))
    page.on("pageerror", lambda error: seen.said.append(str(error)))
    async with working(page) as worked:
        await page.goto(url)
        await page.wait_for_function(_DRAWN)
        await page.wait_for_timeout(_SETTLED)
    seen.processor = worked.seconds
    seen.first_paint = await first_paint(page)
    observed = await page.evaluate(_OBSERVED)
    seen.largest_paint, seen.shifted = observed["largest"], observed["shifted"]
    seen.sizes = await page.evaluate(_LOADED)
    await context.close()
    return seen


async def faults(browser: Any, url: str, **look: Any) -> list[str]:
    """What axe-core finds wrong: in the page as it opens, with several attempts, and with the code unfolded. A rule and
    an element each."""
    # The page's policy lets nobody add a script; and what fades in is looked at when it is there.
    context = await browser.new_context(bypass_csp=True, reduced_motion="reduce", **look)
    page = await context.new_page()
    await page.goto(url)
    await page.wait_for_function(_DRAWN)
    await page.add_script_tag(path=str(files("axe_playwright_python") / "axe.min.js"))
    found = await _violations(page)
    again = next(number for number, trace in enumerate(examples()) if trace["title"] == "Thinking again")
    await page.locator("#examples button").nth(again).click()
    await page.wait_for_function(_DRAWN)
    await page.locator("summary").click()
    found |= await _violations(page)
    await context.close()
    return sorted(found)


async def _violations(page: Any) -> set[str]:
    result = await page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return {
        f"{fault['id']} ({fault['impact']}): {node['html'][:120]}"
        for fault in result["violations"]
        for node in fault["nodes"]
    }


def report(loads: list[Load], found: list[str]) -> str:
    """The table."""

    def middle(name: str) -> float:
        return statistics.median(getattr(own, name) for own in loads)

    def best(name: str) -> float:
        return float(min(getattr(own, name) for own in loads))

    one = loads[0]
    rows = [
        ("first contentful paint", f"{middle('first_paint'):.0f} ms", f"{best('first_paint'):.0f} ms"),
        ("largest contentful paint", f"{middle('largest_paint'):.0f} ms", f"{best('largest_paint'):.0f} ms"),
        (
            "main thread's processor time, all in all",
            f"{1000 * middle('processor'):.0f} ms",
            f"{1000 * best('processor'):.0f} ms",
        ),
        ("cumulative layout shift", f"{middle('shifted'):.3f}", f"{best('shifted'):.3f}"),
        ("requests", str(len(one.sizes)), ""),
        ("bytes over the wire", f"{sum(one.sizes):,}", ""),
        ("requests to other addresses", str(sum(len(own.elsewhere) for own in loads)), ""),
        ("messages on the console", str(sum(len(own.said) for own in loads)), ""),
        ("faults that axe-core finds", str(len(found)), ""),
    ]
    lines = ["| what | median | best |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    cores, busy = os.cpu_count(), os.getloadavg()[0]
    told = (
        f"{len(loads)} visits with an empty cache, in Chromium, to a server on the same machine (of {cores} cores, "
        f"with a load average of {busy:.0f})."
    )
    return "\n".join([*lines, "", told])


async def main() -> None:
    """Measure, and write the section."""
    from playwright.async_api import async_playwright

    check_section(PAGE, SECTION)
    async with served(make_app()) as url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        loads = [await load(browser, url) for _ in range(_TIMES)]
        found = [fault for look in LOOKS for fault in await faults(browser, url, **look)]
        await browser.close()
    write_section(PAGE, SECTION, COMMAND, report(loads, found))
    for fault in found:
        raise SystemExit(fault)


if __name__ == "__main__":
    asyncio.run(main())

"""The pictures in docs/pictures: the page, as it shows recorded examples.

python -m tests.playground.pictures
"""

import asyncio
from pathlib import Path
from typing import Any

from PIL import Image

from tests.local_http import served
from tests.playground.browsing import ARGUMENTS, chromium
from tests.playground.scripted import make_app

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
_DESKTOP, _PHONE = {"width": 1280, "height": 1000}, {"width": 390, "height": 1040}


async def picture(browser: Any, url: str, name: str, example: str, *, scrolled: bool, **options: Any) -> None:
    """One picture of the page with an example open, `scrolled` to what came of it."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    await page.goto(url)
    await page.get_by_text(example, exact=True).click()
    await page.locator("#chart svg").wait_for()
    if scrolled:
        await page.locator("#result").evaluate("(result) => result.scrollIntoView()")
    await page.wait_for_timeout(800)  # until nothing moves any more
    path = FOLDER / f"{name}.png"
    await page.screenshot(path=path)
    await context.close()
    Image.open(path).convert("RGB").save(path, optimize=True)


async def main() -> None:
    """Take them all."""
    from playwright.async_api import async_playwright

    FOLDER.mkdir(exist_ok=True)
    async with served(make_app()) as url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        await picture(browser, url, "playground", "Sums", scrolled=False, viewport=_DESKTOP, color_scheme="light")
        await picture(
            browser, url, "playground-attempts", "Thinking again", scrolled=True, viewport=_DESKTOP, color_scheme="dark"
        )
        await picture(browser, url, "playground-phone", "Logic", scrolled=True, viewport=_PHONE, color_scheme="light")
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())

"""The page in a real browser, against a server that plays recorded answers and what goes wrong."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.local_http import served
from tests.playground.browsing import ARGUMENTS, chromium, first_paint, working
from tests.playground.figures import LOOKS, faults, load
from tests.playground.scripted import KEY, examples, make_app

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

_FOCUSED = """(({ activeElement: on }) => on.id || on.name || on.dataset.title || on.tagName)(document)"""

_COLOURS = """["paper", "ink", "soft", "faint", "sure", "cut"].map((name) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`))"""

_PATIENCE = 30_000
"""Milliseconds that a test waits for what must come; other work may use the cores."""

_TAKEN = "(question) => document.getElementById('asked').textContent === question"

_DRAWN = """(question) => document.getElementById("asked").textContent === question
    && document.getElementById("result").getAttribute("aria-busy") === "false" """
"""The page sets `aria-busy` when it opens a result, and takes it back in the frame that draws all of it."""

_MOVED = """() => new Promise((done) => {
    const slider = document.getElementById("replay-threshold");
    slider.value = "0.4";
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    requestAnimationFrame(() => requestAnimationFrame(done));
})"""

_REFUSED = "Failed to load resource"
"""What the browser itself notes of a status that is no success."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Any]:
    executable = chromium()
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield running
        await running.close()


class Visit:
    """An open page, what it asked for and what its console said."""

    def __init__(self, page: Any, app: Any, url: str) -> None:
        self.page, self.app, self.url = page, app, url
        self.addresses: list[str] = []
        self.said: list[str] = []
        page.on("request", lambda request: self.addresses.append(request.url))
        page.on("console", lambda message: self.said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))

    def __call__(self, selector: str) -> Any:
        return self.page.locator(selector)

    async def text(self, selector: str) -> str:
        text: str = await self(selector).first.inner_text()
        return " ".join(text.split())

    async def ask(self, question: str) -> None:
        """Ask, and wait until the page has taken the question: what is read from now on belongs to it."""
        await self("#question").fill(question)
        await self("#question").press("Enter")
        await self.page.wait_for_function(_TAKEN, arg=question)

    async def answered(self, question: str) -> None:
        """Wait until the result of this question, recorded or asked, is complete and drawn."""
        await self.page.wait_for_function(_DRAWN, arg=question)

    async def open_example(self, number: int) -> None:
        """Click on a recorded example, and wait until it is drawn."""
        await self("#examples button").nth(number).click()
        await self.answered(examples()[number]["question"])

    async def load(self) -> None:
        """Open the page, or open it again, and wait for the example that it begins with."""
        await self.page.goto(self.url)
        await self.answered(examples()[0]["question"])

    async def until(self, selector: str, text: str) -> None:
        await self(selector).filter(has_text=text).first.wait_for(timeout=_PATIENCE)

    async def texts(self, selector: str) -> list[str]:
        found: list[str] = await self(selector).all_inner_texts()
        return found


@contextlib.asynccontextmanager
async def visit(browser: Any, *, told: tuple[str, ...] = (), **options: Any) -> AsyncIterator[Visit]:
    """The page of a server of its own. In the end nothing was asked of others, and the console told only of refusals
    that a test expects (`told`)."""
    app = make_app(**{name: options.pop(name) for name in ("needs_key", "judged", "knows_drr") if name in options})
    async with served(app) as url:
        context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(_PATIENCE)
        opened = Visit(await context.new_page(), app, url)
        await opened.load()
        try:
            yield opened
            assert all(address.startswith((url, "blob:")) for address in opened.addresses), opened.addresses
            unexpected = [
                text
                for text in opened.said
                if not (told and text.startswith(_REFUSED) and any(status in text for status in told))
            ]
            assert unexpected == []
        finally:
            await context.close()


async def test_it_shows_something_before_anybody_types(browser: Any) -> None:
    async with visit(browser) as page:
        assert (await page.text("#headline")).startswith("Sure enough after")
        assert await page(".column").count() == 2
        assert len(await page.texts("#examples button")) == len(examples())
        await page.until("#server", "judged by drr-reference-dm-head")
        assert await page.text("#server") == "drr-reference judged by drr-reference-dm-head"
        assert page.app.state.asked == []


async def test_it_is_painted_at_once(browser: Any) -> None:
    """Under 0.5 s; where the machine is busy, under three times what a page without script or style takes there."""
    async with visit(browser) as page:
        own, bare = [], []
        for _ in range(4):
            await page.page.goto(f"{page.url}/bare")
            bare.append(await first_paint(page.page))
            await page.load()
            own.append(await first_paint(page.page))
        assert min(own) < max(500, 3 * min(bare)), f"first paint after {own} ms, of a bare page after {bare} ms"
        async with working(page.page) as worked:
            await page.load()
        assert worked.seconds < 0.4, "of the processor, whoever else uses it"


async def test_it_is_light_and_asks_nobody_else(browser: Any) -> None:
    async with served(make_app()) as url:
        seen = await load(browser, url)
    assert (seen.elsewhere, seen.said) == ([], [])
    assert sum(seen.sizes) < 200_000
    assert seen.shifted < 0.1, "what is on the screen stays where it is"


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: f"{look['viewport']['width']}-{look['color_scheme']}")
async def test_axe_finds_nothing_that_keeps_people_out(browser: Any, look: dict[str, Any]) -> None:
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    async with served(make_app()) as url:
        assert await faults(browser, url, **look) == []


async def test_it_works_without_the_api(browser: Any) -> None:
    async with visit(browser, told=("404",), needs_key=False) as page:
        await page.page.route("**/v1/models", lambda route: route.abort())
        await page.load()
        await page.until("#server", "cannot be reached")
        assert (await page.text("#headline")).startswith("Sure enough after")
        page.said.clear()  # the browser's own word for the aborted request


async def test_thinking_streams_is_coloured_and_cut(browser: Any) -> None:
    async with visit(browser) as page:
        await page.ask("stop early, please")
        await page.answered("stop early, please")
        assert (await page.text("#headline")).startswith("Sure enough after")
        drr, full = examples()[0]["runs"]
        steps = [value for _, kind, value in drr["events"] if kind == "step"]
        scores = await page.texts(".column.drr .score")
        assert scores == [f"{step['p_now']:.2f}" for step in steps]
        colours = await page.page.evaluate(
            "[...document.querySelectorAll('.column.drr .text')].map((e) => getComputedStyle(e).borderLeftColor)"
        )
        assert colours[0] != colours[-1]
        accounts = [next(value for _, kind, value in run["events"] if kind == "account") for run in (drr, full)]
        own, whole = (account["thinking_tokens"] for account in accounts)
        spared = whole - own - accounts[0]["discarded_tokens"]
        await page.until("#told", f"{whole - own} more tokens")
        await page.until("#told", f"{spared} of them were never generated here")
        assert f"{spared} tokens not generated" in await page.text(".column.drr .mark")
        assert f"{spared} tokens of what follows it never generated" in await page.text(".column.full .mark")
        assert await page(".column.full .beyond").count() == await page(".column.full .step").count() - len(steps)
        label = await page("#chart svg").get_attribute("aria-label")
        assert f"cut after {own} tokens" in label
        assert (await page.text(".column.drr .answer p")).startswith("The answer is")
        bodies = sorted(page.app.state.asked, key=lambda body: body["drr"]["mode"])
        assert [body["drr"]["mode"] for body in bodies] == ["auto", "shadow"]
        assert bodies[0]["seed"] == bodies[1]["seed"]


async def test_thinking_is_shown_while_it_comes(browser: Any) -> None:
    async with visit(browser) as page:
        await page("#beside").uncheck()
        await page.ask("held back")
        await page.until("#headline", "Thinking")
        await page(".column.drr .open.live").wait_for()
        await page(".column.drr .step").nth(1).wait_for()
        assert await page("#stop").is_visible()
        assert await page("#result").get_attribute("aria-busy") == "true"
        early = await page(".column.drr .step").count()
        page.app.state.resumed.set()
        await page.answered("held back")
        assert (await page.text("#headline")).startswith("Sure enough after")
        assert await page(".column.drr .step").count() > early
        assert await page("#stop").is_hidden()
        assert await page(".live").count() == 0


async def test_without_full_thinking_beside_it_what_was_spared_is_said_to_be_unknown(browser: Any) -> None:
    async with visit(browser) as page:
        await page("#beside").uncheck()
        await page.ask("stop early, please")
        await page.answered("stop early, please")
        assert "is not known" in await page.text("#told")
        assert "not generated" not in await page.text("#figures")
        assert len(page.app.state.asked) == 1
        await page("#replay-threshold").fill("1")
        await page("#replay-futile").uncheck()
        await page.until("#replay-told", "gone on behind what is recorded")


async def test_rejected_attempts_are_crossed_out_columns(browser: Any) -> None:
    async with visit(browser) as page:
        await page("#attempts").fill("3")
        await page.ask("rethink this")
        await page.answered("rethink this")
        assert "was accepted" in await page.text("#headline")
        assert page.app.state.asked[0]["drr"] == {"mode": "auto", "max_rethinks": 2}
        assert await page(".column.drr").count() == 2
        assert await page(".column.rejected").count() == 1
        assert "rejected" in await page.text(".column.rejected .fate")
        assert await page(".column.rejected .answer").is_hidden()
        assert await page("#chart .cross").count() == 1
        attempts = await page.texts(".column.drr h3")
        assert attempts == ["Attempt 1", "Attempt 2"]


@pytest.mark.parametrize("by", ["key", "button"])
async def test_stopping_ends_the_requests(browser: Any, by: str) -> None:
    async with visit(browser) as page:
        await page.ask("slow one")
        await page.until(".column.drr .open", "Let me think")
        await (page("#stop").click() if by == "button" else page.page.keyboard.press("Escape"))
        await page.answered("slow one")
        assert await page.text("#headline") == "Stopped by you."
        assert await page.text(".column.drr .open") == "Let me think about this."
        await asyncio.wait_for(page.app.state.left.wait(), 10)
        assert await page("#go").is_visible()


async def test_a_new_question_ends_the_one_before(browser: Any) -> None:
    async with visit(browser) as page:
        await page.ask("slow one")
        await page.until(".column.drr .open", "Let me think")
        await page.open_example(2)
        assert (await page.text("#headline")).startswith("Sure enough")
        await asyncio.wait_for(page.app.state.left.wait(), 10)


@pytest.mark.parametrize(
    ("question", "headline", "told", "status"),
    [
        ("bad value", "No answer.", "drr.threshold: Input should be less than", "400"),
        ("busy now", "No answer.", "Try again in 7 seconds", "429"),
        ("cut off", "Broke off.", "The connection broke off", ""),
        ("failing one", "Broke off.", "took longer than 5 seconds", ""),
    ],
)
async def test_errors_are_said_in_plain_words(
    browser: Any, question: str, headline: str, told: str, status: str
) -> None:
    async with visit(browser, told=(status,) if status else ()) as page:
        await page.ask(question)
        await page.answered(question)
        assert headline in await page.text("#headline")
        assert told in await page.text("#told")
        await page.ask("stop early, please")
        await page.answered("stop early, please")
        assert "Sure enough" in await page.text("#headline")


async def test_a_server_that_goes_away_is_said_to_be_gone(browser: Any) -> None:
    async with visit(browser) as page:
        await page.page.route("**/v1/chat/completions", lambda route: route.abort())
        await page.ask("anything")
        await page.answered("anything")
        assert "The server cannot be reached" in await page.text("#told")
        page.said.clear()


async def test_a_key_is_asked_for_and_kept_in_the_tab_only(browser: Any) -> None:
    async with visit(browser, needs_key=True, told=("401",)) as page:
        await page.until("#server", "API key is needed")
        assert (await page.text("#headline")).startswith("Sure enough"), "examples need no key"
        await page("#key").fill("a wrong key")
        await page("#key").press("Enter")
        await page.until("#server", "not taken")
        await page("#key").fill(KEY)
        await page("#key").press("Enter")
        await page.until("#server", "judged by")
        await page.ask("stop early, please")
        await page.answered("stop early, please")
        assert "Sure enough" in await page.text("#headline")
        kept = await page.page.evaluate("[localStorage.length, document.cookie, Object.values(sessionStorage)]")
        assert kept == [0, "", [KEY]]
        await page("summary").click()
        code = await page.text("#snippet")
        assert "DRR_API_KEY" in code
        assert KEY not in code


async def test_text_is_never_markup(browser: Any) -> None:
    async with visit(browser) as page:
        await page.ask("markup <b>now</b>")
        await page.answered("markup <b>now</b>")
        assert "<script>alert(2)</script>" in await page.text(".column.drr .answer")
        await page("#question").fill("something else")
        await page.until("#asked", "markup <b>now</b>")
        assert await page("main img, main script, main b >> text=now").count() == 0


async def test_servers_without_a_judge_or_without_drr_are_of_use(browser: Any) -> None:
    async with visit(browser, judged=False) as page:
        await page.until("#support", "without a judge")
        assert await page("#attempts").is_disabled()
    async with visit(browser, knows_drr=False) as page:
        await page.until("#support", "tells nothing of DRR")
        await page.ask("plain question")
        await page.answered("plain question")
        assert "Four." in await page.text(".column.drr .answer")
        assert "This server tells no scores" in await page.text("#headline")
        assert "drr" not in page.app.state.asked[0]
        assert await page.text(".column.drr .open") == "Two and two."


async def test_the_threshold_is_moved_without_a_model(browser: Any) -> None:
    async with visit(browser) as page:
        full = examples()[0]["runs"][1]
        steps = [value for _, kind, value in full["events"] if kind == "step"]
        await page("#replay-futile").uncheck()
        for threshold in (0.1, 0.5, 0.97):
            await page("#replay-threshold").fill(str(threshold))
            index = next(number for number, step in enumerate(steps) if step["p_now"] >= threshold)
            tokens = sum(step["tokens"] for step in steps[: index + 1])
            await page.until("#replay-told", f"Step {index + 1}, after {tokens} tokens: sure enough.")
            assert await page(".column.full .beyond").count() == len(steps) - index - 1
        await page("#replay-threshold").fill("1.01")
        await page.until("#replay-told", "thought to its own end")
        await page("#replay-reset").click()
        await page.until(".column.full .mark", "DRR stopped here")
        assert page.app.state.asked == []


async def test_risk_threshold_and_attempts_are_asked_for(browser: Any) -> None:
    async with visit(browser) as page:
        await page("#beside").uncheck()
        await page("#seed").fill("7")
        await page.page.get_by_text("At a risk").click()
        await page("#risk").fill("1")
        assert await page.text("#risk-value") == "1 %"
        await page.ask("stop one")
        await page.answered("stop one")
        await page.page.get_by_text("At a threshold").click()
        await page("#threshold").fill("0.7")
        await page("#attempts").fill("2")
        await page.ask("stop two")
        await page.answered("stop two")
        first, second = page.app.state.asked
        assert (first["seed"], first["drr"]) == (7, {"mode": "auto", "max_lost_correct": 0.01})
        assert second["drr"] == {"mode": "auto", "threshold": 0.7, "max_rethinks": 1}


async def test_an_example_is_asked_again_as_it_was_recorded(browser: Any) -> None:
    async with visit(browser) as page:
        await page.until("#server", "judged by")
        await page("#beside").uncheck()
        for number in (1, 0, 5):
            await page.open_example(number)
            async with page.page.expect_request("**/v1/chat/completions"):
                await page("#go").click()
            await page.answered(examples()[number]["question"])
        trace = examples()
        assert [body["drr"] for body in page.app.state.asked] == [
            trace[n]["runs"][0]["request"]["drr"] for n in (1, 0, 5)
        ]
        assert [body["seed"] for body in page.app.state.asked] == [
            trace[n]["runs"][0]["request"]["seed"] for n in (1, 0, 5)
        ]


async def test_a_trace_is_saved_and_loaded(browser: Any, tmp_path: Path) -> None:
    async with visit(browser) as page:
        await page.ask("rethink this")
        await page.answered("rethink this")
        before = await page.text("#columns"), await page.text("#figures")
        async with page.page.expect_download() as downloading:
            await page("#save").click()
        saved = tmp_path / "trace.json"
        await (await downloading.value).save_as(saved)
        assert json.loads(saved.read_text())["question"] == "rethink this"
        await page.open_example(0)
        await page("#file").set_input_files(saved)
        await page.answered("rethink this")
        assert "was accepted" in await page.text("#headline")
        assert (await page.text("#columns"), await page.text("#figures")) == before
        broken = tmp_path / "broken.json"
        broken.write_text('{"format": "drr-trace"')
        await page("#file").set_input_files(broken)
        await page.until("#problem", "broken.json: This file is not JSON.")


async def test_four_thousand_tokens_stay_readable_and_quick(browser: Any) -> None:
    async with visit(browser) as page:
        await page("#beside").uncheck()
        await page.ask("long thoughts")
        await page.answered("long thoughts")
        assert "4,000 tokens" in await page.text("#headline")
        assert await page(".column.drr .step").count() == 400
        async with working(page.page) as worked:
            await page.page.evaluate(_MOVED)
        assert worked.seconds < 0.15, "of the processor, for a replay of 400 steps"
        await page.until("#replay-told", "Step 161, after 1,610 tokens")


async def test_everything_is_reached_by_the_keyboard(browser: Any) -> None:
    async with visit(browser) as page:
        await page.until("#server", "judged by")  # what it offers can be used from now on
        await page("#question").focus()
        reached = []
        for _ in range(40):
            await page.page.keyboard.press("Tab")
            reached.append(await page.page.evaluate(_FOCUSED))
        for wanted in (
            "go",
            "rule",
            "attempts",
            "beside",
            "seed",
            "Sums",
            "replay-threshold",
            "play",
            "save",
            "load",
            "SUMMARY",
        ):
            assert wanted in reached, (wanted, reached)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone_and_has_contrast(browser: Any, scheme: str) -> None:
    async with visit(browser, viewport={"width": 375, "height": 720}, color_scheme=scheme) as page:
        for number in (0, 1):
            await page.open_example(number)
            width = await page.page.evaluate("document.documentElement.scrollWidth")
            assert width <= 375, "nothing has to be scrolled sideways but what scrolls by itself"
        paper, ink, *others = await page.page.evaluate(_COLOURS)
        assert _contrast(ink, paper) > 10
        assert min(_contrast(other, paper) for other in others) > 4.5


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

"""Do what somebody does who has never seen the project, with a clock: clone it, run `make serve`, open the page that it
names in a real browser, ask a question, and see the thinking cut.

    python scripts/stranger.py FOLDER                            prints what took how long
    python scripts/stranger.py FOLDER --write docs/quickstart.md  writes it there, and takes the page's picture

FOLDER must be empty or absent; the clone, with a virtual environment of its own, stays there. What is not committed is
not cloned. Chromium is needed (Debian: apt-get install chromium); nothing else is taken from this environment.
"""

import argparse
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.pages import check_section, write_section

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "pictures" / "first-question.png"
SECTION, COMMAND = "stranger", "python scripts/stranger.py"
QUESTION = "Tom has 12 apples. He buys 3 bags of 8 apples each. He loses 7 of them. How many apples does Tom have now?"
_ADDRESS = re.compile(r"^The playground is at (http://\S+)$")
_SET_UP = "Set up in "
"""What scripts/install.py says when it is done."""
_BROWSER = ("--no-sandbox", "--disable-gpu")
_SERVE_MINUTES = 60
_ANSWER_SECONDS = 120


@dataclass
class Walk:
    """What the stranger did, and how long each part took, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    commands: int = 0
    clicks: int = 0
    keys: int = 0
    load: float = 0.0
    headline: str = ""
    told: str = ""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begun
        print(f"{name}: {self.seconds[name]:.1f} s", flush=True)


def clone(walk: Walk, folder: Path) -> None:
    """`git clone` of this repository, without its history's objects being shared. CalledProcessError if it fails."""
    walk.commands += 1
    with walk.part("clone"):
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)], check=True)


@contextmanager
def served(walk: Walk, folder: Path) -> Iterator[str]:
    """Run `make serve` in the clone; yields the address that it names. RuntimeError if it names none."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "VENV")}
    walk.commands += 1
    begun = time.monotonic()
    process = subprocess.Popen(
        ["make", "serve", f"ARGS=--port {port}"],
        cwd=folder,
        env=kept,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    lines = _lines_of(process)
    try:
        yield _address(walk, lines, begun)
    finally:
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    """End make and everything that it started."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _lines_of(process: "subprocess.Popen[str]") -> "queue.Queue[str | None]":
    """What a process says, line by line, and None at its end."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as said:
            for line in said:
                lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _address(walk: Walk, lines: "queue.Queue[str | None]", begun: float) -> str:
    installed = 0.0
    while time.monotonic() - begun < _SERVE_MINUTES * 60:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            continue
        if line is None:
            raise RuntimeError("make serve ended:\n" + "\n".join(walk.said[-20:]))
        seconds = time.monotonic() - begun
        walk.said.append(f"{seconds:6.0f} s  {line}")
        print(walk.said[-1], flush=True)
        if line.startswith(_SET_UP):
            installed, walk.load = seconds, os.getloadavg()[2]
        found = _ADDRESS.match(line)
        if found is not None:
            walk.seconds |= {"`make serve`, the set-up": installed, "`make serve`, the start": seconds - installed}
            return found.group(1)
    raise RuntimeError(f"make serve named no page in {_SERVE_MINUTES} minutes")


def ask(walk: Walk, address: str, picture: Path | None) -> None:
    """Open the page, ask, and wait until the cut is on the screen. playwright's TimeoutError if it never is."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=list(_BROWSER))
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        with walk.part("open the page, until a recorded example is drawn"):
            page.goto(address)
            page.locator(".column.drr .step").first.wait_for()
        page.locator("#server", has_text="judged by").wait_for()
        with walk.part("ask, until the cut is drawn"):
            page.locator("#question").click()
            page.keyboard.insert_text(QUESTION)
            page.keyboard.press("Enter")
            _answered(page)
        walk.clicks, walk.keys = 1, 1
        walk.headline = page.locator("#headline").inner_text()
        walk.told = page.locator("#told").inner_text()
        if picture is not None:
            _take(page, picture)
        browser.close()


def _answered(page: Any) -> None:
    page.wait_for_function(
        """(question) => document.getElementById("asked").textContent === question
            && document.getElementById("result").getAttribute("aria-busy") === "false" """,
        arg=QUESTION,
        timeout=_ANSWER_SECONDS * 1000,
    )


def _take(page: Any, picture: Path) -> None:
    from PIL import Image

    page.mouse.move(0, 0)
    page.locator("#result").scroll_into_view_if_needed()
    page.wait_for_timeout(800)  # until nothing moves any more
    picture.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=picture)
    Image.open(picture).convert("RGB").save(picture, optimize=True)


def _chromium() -> str:
    found = os.environ.get("DRR_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise RuntimeError("no Chromium is installed (Debian: apt-get install chromium)")
    return found


def report(walk: Walk) -> str:
    """The parts and their times, as a table, and what was on the page in the end."""
    whole = sum(walk.seconds.values())
    rows = [f"| {name} | {_spoken(seconds)} |" for name, seconds in walk.seconds.items()]
    done = f"{walk.commands} commands, {walk.clicks} click, a question typed, {walk.keys} key (Enter)"
    machine = f"a machine of {os.cpu_count()} cores with a load average of {walk.load:.0f} during the set-up"
    return "\n".join(
        [
            "| what | time |",
            "| --- | --- |",
            *rows,
            f"| in all | {_spoken(whole)} |",
            "",
            f"On {machine}. It took {done}. The page then said: “{walk.headline} {walk.told}”",
        ]
    )


def _spoken(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


def main(argv: Sequence[str] | None = None) -> int:
    """Walk; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--write", type=Path, metavar="PAGE", help=f"put the figures into its section {SECTION!r}")
    options = parser.parse_args(argv)
    try:
        if options.write is not None:
            check_section(options.write, SECTION)
        if options.folder.exists() and any(options.folder.iterdir()):
            raise RuntimeError(f"{options.folder} is not empty")
        _chromium()
        walk = Walk()
        clone(walk, options.folder)
        with served(walk, options.folder) as address:
            ask(walk, address, PICTURE if options.write is not None else None)
    except (OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        print(f"stranger: {error}", file=sys.stderr)
        return 1
    print(report(walk))
    if options.write is not None:
        write_section(options.write, SECTION, COMMAND, report(walk))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What quick start, README and the clients' page show is run as it stands there, against a server of the reference
models. test_sample.py runs some of it against a record, in seconds."""

import contextlib
import io
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from clients.sample import URL
from tests.docs.pages import README, ROOT, Block, all_blocks, blocks
from tests.server.running import Server, start, stop

pytestmark = pytest.mark.slow

QUICKSTART, CLIENTS = ROOT / "docs" / "quickstart.md", ROOT / "docs" / "clients.md"
ADDRESS = URL.removesuffix("/v1")
INSTALLED = ("from openai import OpenAI", "from anthropic import Anthropic")
"""What begins a program whose SDK comes with the development extra; the others' are run by clients.real."""

PROGRAMS = [
    block
    for block in all_blocks("python")
    if block.page in (README, QUICKSTART, CLIENTS) and block.text.startswith(INSTALLED)
]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(tmp_path_factory.mktemp("pages") / "log", "--dm-deadline-ms", "60000")
    yield running
    stop(running)


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.place)
def test_programs_run(block: Block, real: Server) -> None:
    assert ADDRESS in block.text
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(block.text.replace(ADDRESS, real.url), block.place, "exec"), names)
    names["client"].close()  # type: ignore[attr-defined]
    assert "The answer is" in printed.getvalue()


def test_all_pages_have_programs() -> None:
    assert {block.page for block in PROGRAMS} == {README, QUICKSTART, CLIENTS}
    assert len(PROGRAMS) == 4


def test_the_terminal_of_quick_start_shows_scores_and_answer(real: Server) -> None:
    (command,) = (block.text for block in blocks(QUICKSTART) if ".venv/bin/drr chat" in block.text)
    _, *arguments = shlex.split(command)
    shown = subprocess.run(
        [sys.executable, "-m", "drr.cli", *arguments, "--url", f"{real.url}/v1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "The answer is 36." in shown.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl was not found")
def test_the_comparison_of_quick_start_comes_out_as_it_says(real: Server) -> None:
    (command,) = (block.text for block in blocks(QUICKSTART) if "curl" in block.text)
    told = command.replace(ADDRESS, real.url).replace("python3", sys.executable)
    printed = subprocess.run(["bash", "-c", told], capture_output=True, text=True, timeout=120, check=True).stdout
    (_, stopped), (_, full) = lines = [line.split() for line in printed.splitlines()]
    assert [cause for cause, _ in lines] == ["sure", "off"]
    assert int(stopped) < int(full)
    assert f"`sure {stopped}` and `off {full}`" in " ".join(QUICKSTART.read_text().split())

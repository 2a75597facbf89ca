"""The examples in JavaScript, run by Node against a server that plays a recorded answer in the real wire format."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.local_http import served
from tests.playground.browsing import node
from tests.playground.scripted import KEY, make_app, recorded

FOLDER = Path(__file__).parents[2] / "clients" / "javascript"
EVENTS = recorded(0, "drr")
STEPS = [value for _, kind, value in EVENTS if kind == "step"]
ACCOUNT = next(value for _, kind, value in EVENTS if kind == "account")


async def run(script: Path, url: str, question: str, **variables: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a script that asks the server at `url`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    environment = {**kept, "DRR_URL": f"{url}/v1", "NO_PROXY": "127.0.0.1", **variables}
    process = await asyncio.create_subprocess_exec(
        *(node(), str(script), question),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


def check_shown(out: str) -> None:
    """That every step stands behind its score, and then the answer and the account."""
    thought = "".join(value for _, kind, value in EVENTS if kind == "reasoning").split("\n\n")
    answer = "".join(value for _, kind, value in EVENTS if kind == "content").strip()
    assert len(STEPS) > 1
    assert thought.pop() == ""
    wanted = [f"{step['p_now']:.2f}  {text}" for step, text in zip(STEPS, thought, strict=True)]
    tokens, thrown = ACCOUNT["thinking_tokens"], ACCOUNT["discarded_tokens"]
    wanted += ["", answer, f"{ACCOUNT['stop_cause']}: {tokens} thinking tokens, {thrown} thrown away"]
    assert out.splitlines() == wanted


async def test_fetch_streams_thinking_with_scores() -> None:
    node()
    app = make_app()
    async with served(app) as url:
        status, out, err = await run(FOLDER / "with-fetch.mjs", url, "stop early, please")
    assert (status, err) == (0, "")
    check_shown(out)
    asked = app.state.asked[0]
    assert (asked["stream"], asked["drr"]) == (True, {"max_lost_correct": 0.02})
    assert asked["messages"][-1]["content"] == "stop early, please"


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("bad value", "400 drr.threshold: Input should be"),
        ("failing one", "The response took longer than 5 seconds."),
    ],
)
async def test_fetch_says_in_one_line_what_went_wrong(question: str, said: str) -> None:
    node()
    async with served(make_app()) as url:
        status, _, err = await run(FOLDER / "with-fetch.mjs", url, question)
    assert status == 1
    assert said in err
    assert err.count("\n") == 1


async def test_fetch_sends_the_key_and_says_where_nobody_answers() -> None:
    node()
    async with served(make_app(needs_key=True)) as url:
        refused, _, err = await run(FOLDER / "with-fetch.mjs", url, "stop early", DRR_API_KEY="a wrong one")
        assert refused == 1
        assert err.startswith("401 ")
        taken, _, _ = await run(FOLDER / "with-fetch.mjs", url, "stop early", DRR_API_KEY=KEY)
        assert taken == 0
    status, _, err = await run(FOLDER / "with-fetch.mjs", "http://127.0.0.1:9", "anything")
    assert status == 1
    assert err.startswith("http://127.0.0.1:9/v1: ")


@pytest.mark.slow
async def test_openai_node_streams_thinking_with_scores(tmp_path: Path) -> None:
    node()
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    command = [npm, "install", "--no-audit", "--no-fund", "--silent"]
    installed = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True)
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install openai: {installed.stderr[-200:]}")
    app = make_app()
    async with served(app) as url:
        status, out, err = await run(tmp_path / "with-openai.mjs", url, "stop early, please")
        assert (status, err) == (0, "")
        check_shown(out)
        assert app.state.asked[0]["drr"] == {"max_lost_correct": 0.02}
        refused, _, err = await run(tmp_path / "with-openai.mjs", url, "bad value")
        assert refused == 1
        assert "drr.threshold" in err

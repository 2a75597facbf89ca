"""README's sample: it is what a server answered, and README's own commands get it."""

import contextlib
import io
import json
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients import sample
from clients.sample import OBJECT_PAGE, RECORD, Record
from server.wire import Account, StepChunk
from tests.docs.pages import README, ROOT, Block, blocks

RECORDED = Record.read(RECORD)
QUICKSTART, CLIENTS = ROOT / "docs" / "quickstart.md", ROOT / "docs" / "clients.md"


@pytest.fixture
def replaying() -> Iterator[str]:
    """The address of a server that answers every question with the record."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            whole = json.dumps(RECORDED.response)
            chunks = [*map(json.dumps, RECORDED.chunks), "[DONE]"]
            body = ("".join(f"data: {chunk}\n\n" for chunk in chunks) if asked.get("stream") else whole).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if asked.get("stream") else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-DRR-Outcome", RECORDED.outcome_header)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()


def test_the_pages_show_what_was_recorded(tmp_path: Path) -> None:
    readme, page = tmp_path / "README.md", tmp_path / "page.md"
    shutil.copyfile(README, readme)
    shutil.copyfile(ROOT / OBJECT_PAGE, page)
    sample.write_pages(RECORDED, readme, page)
    assert readme.read_text() == README.read_text(), "write it with: python -m clients.sample --report"
    assert page.read_text() == (ROOT / OBJECT_PAGE).read_text()


def test_the_record_is_of_today() -> None:
    assert RECORDED.request == sample.REQUEST, "record it again: python -m clients.sample"
    account = Account.model_validate(RECORDED.response["drr"])
    assert account.steps
    steps = [chunk["drr"] for chunk in RECORDED.chunks if not chunk["choices"]]
    assert [StepChunk.model_validate(step).step.index for step in steps] == [step.index for step in account.steps]
    counts = (account.thinking_tokens, account.answer_tokens, account.discarded_tokens, account.probe_tokens)
    assert sum(count or 0 for count in counts) == RECORDED.response["usage"]["completion_tokens"]


def test_what_readme_says_about_the_sample_holds() -> None:
    account = Account.model_validate(RECORDED.response["drr"])
    assert account.steps
    threshold, patience = account.settings["threshold"], account.settings["patience"]
    assert (account.stop_cause, patience, len(account.steps)) == ("sure", 2, 4)
    assert [(step.p_now or 0.0) >= threshold for step in account.steps] == [False, False, True, True]


def test_what_was_streamed_is_what_came_whole() -> None:
    deltas = [choice["delta"] for chunk in RECORDED.chunks for choice in chunk["choices"]]
    message = RECORDED.response["choices"][0]["message"]
    assert "".join(delta.get("reasoning") or "" for delta in deltas) == message["reasoning"]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]


def test_a_record_is_made_of_what_a_server_answers(replaying: str, tmp_path: Path) -> None:
    assert sample.ask(replaying, RECORDED.request) == RECORDED


def test_nobody_there_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert sample.main(["--url", "http://127.0.0.1:9/v1"]) != 0
    said = capsys.readouterr().err
    assert said.startswith("clients.sample: ")
    assert said.count("\n") == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl was not found")
def test_readmes_curl_gets_it(replaying: str) -> None:
    (block,) = (block for block in blocks(README) if block.language == "sh" and "curl" in block.text)
    command = shlex.split(block.text)
    assert json.loads(command[-1]) == RECORDED.request
    answered = subprocess.run(
        [replaying + "/chat/completions" if part.startswith("http://") else part for part in command],
        capture_output=True,
        check=True,
    )
    assert json.loads(answered.stdout) == RECORDED.response


def run_python(block: Block, url: str) -> str:
    """What a block prints whose client is told another address."""
    printed = io.StringIO()
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        exec(compile(block.text.replace(sample.URL, url), block.place, "exec"), names)
    names["client"].close()
    return printed.getvalue()


def test_readmes_call_of_the_sdk_prints_it(replaying: str) -> None:
    (block,) = (block for block in blocks(README) if block.language == "python")
    assert sample.URL in block.text
    account = RECORDED.response["drr"]
    assert run_python(block, replaying).split() == [
        *RECORDED.response["choices"][0]["message"]["content"].split(),
        *(account["stop_cause"], str(account["thinking_tokens"])),
    ]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl was not found")
def test_the_quick_starts_comparison_runs(replaying: str) -> None:
    (block,) = (block for block in blocks(QUICKSTART) if block.language == "sh" and "curl" in block.text)
    command = block.text.replace(sample.URL, replaying).replace("python3", sys.executable)
    printed = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == ["sure 35", "sure 35"]


@pytest.mark.parametrize("page", [QUICKSTART, CLIENTS], ids=lambda page: page.name)
def test_other_calls_of_the_sdk_run(page: Path, replaying: str) -> None:
    block = next(block for block in blocks(page) if block.language == "python")
    assert "from openai import OpenAI" in block.text
    printed = run_python(block, replaying)
    message = RECORDED.response["choices"][0]["message"]
    assert "".join(printed.split()) == "".join((message["reasoning"] + message["content"] + "sure").split())


def test_json_stands_on_lines_that_are_not_too_long() -> None:
    text = sample.formatted({"a": list(range(60)), "b": {"c": "x" * 90, "d": [{"e": "y" * 80}]}, "f": None})
    assert json.loads(text)["b"]["d"] == [{"e": "y" * 80}]
    assert max(map(len, text.splitlines())) <= 104
    assert sample.formatted([]) == "[]"
    assert httpx.URL(sample.URL).path == "/v1"

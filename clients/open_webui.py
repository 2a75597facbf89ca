"""Open WebUI in front of a running server: sign up, list the models, ask through its API and in a browser, and tell
what of the thinking arrives.

    python -m clients.open_webui --environment FOLDER --url http://127.0.0.1:8000

Open WebUI is installed into FOLDER, where it takes 7.4 GB, with an account and chats of its own. In a browser it is
asked where Chromium is installed. The exit status is 1 if the thinking, the answer or a model is missing.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

VERSION = "0.12.4"
QUESTION = "Tom has 12 apples. He buys 3 bags of 8 apples each. How many apples does Tom have now?"
ANSWER = "36"
_ACCOUNT = {"name": "Tester", "email": "tester@example.org", "password": "a-password-of-some-length-1"}
_START_SECONDS = 600.0
_ASK_SECONDS = 120.0
_OFFLINE = {
    "OFFLINE_MODE": "True",
    "HF_HUB_OFFLINE": "1",
    "RAG_EMBEDDING_ENGINE": "openai",  # so that no embedding model is loaded
    "ENABLE_OLLAMA_API": "False",
    "ENABLE_PERSISTENT_CONFIG": "False",
    "ANONYMIZED_TELEMETRY": "False",
    "SCARF_NO_ANALYTICS": "True",
    "DO_NOT_TRACK": "True",
    # Its page adds tools to every chat, which a server takes that was started with --enable-auto-tool-choice.
    "DEFAULT_MODEL_PARAMS": '{"function_calling": "legacy"}',
}
_NO_MORE_QUESTIONS = {f"ENABLE_{what}_GENERATION": "False" for what in ("TITLE", "TAGS", "FOLLOW_UP", "AUTOCOMPLETE")}
"""Open WebUI asks the model for titles, tags and next questions; the reference model can do none of them."""


def installed(folder: Path) -> Path:
    """The command, installed into `folder` where it is not there yet. CalledProcessError if pip fails."""
    command = folder / "open-webui" / "bin" / "open-webui"
    if not command.exists():
        environment = command.parents[1]
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "-q", f"open-webui=={VERSION}"]
        subprocess.run(pip, check=True)
    return command


@contextlib.contextmanager
def served(command: Path, folder: Path, api: str, key: str) -> Iterator[str]:
    """Run it in front of the API at `api`; yields its own address. RuntimeError if it does not come up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTHON"))}
    own |= _OFFLINE | _NO_MORE_QUESTIONS
    own |= {"DATA_DIR": str(data), "HOME": str(data), "OPENAI_API_BASE_URL": api, "OPENAI_API_KEY": key}
    own |= {"WEBUI_SECRET_KEY": "of-this-run-alone", "NO_PROXY": "127.0.0.1,localhost"}
    with (folder / "open-webui.log").open("wb") as log:
        whole = [str(command), "serve", "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(whole, env=own, cwd=data, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield _healthy(f"http://127.0.0.1:{port}", process)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _healthy(url: str, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").status_code == 200:
                return url
        time.sleep(1)
    raise RuntimeError("Open WebUI did not come up; its log is in open-webui.log")


class Front:
    """Open WebUI, signed in."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=_ASK_SECONDS)
        token = self._json("POST", "/api/v1/auths/signup", _ACCOUNT)["token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def __enter__(self) -> "Front":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        return self._http.request(method, path, json=body).raise_for_status().json()

    def models(self) -> list[str]:
        return [model["id"] for model in self._json("GET", "/api/models")["data"]]

    def ask(self, model: str) -> tuple[str, str]:
        """Thinking and answer of a streamed chat."""
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
        thinking = content = ""
        with self._http.stream("POST", "/api/chat/completions", json=body) as response:
            for line in response.raise_for_status().iter_lines():
                if not line.startswith("data: {"):
                    continue
                for choice in json.loads(line.removeprefix("data: ")).get("choices", []):
                    thinking += choice["delta"].get("reasoning") or choice["delta"].get("reasoning_content") or ""
                    content += choice["delta"].get("content") or ""
        return thinking, content


def ask_in_a_browser(url: str, model: str, picture: Path | None) -> tuple[str, str]:
    """Sign in, choose the model, ask, and unfold the thinking; what the thinking and the whole page then say."""
    from playwright.sync_api import TimeoutError as NothingNew
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1180, "height": 760})
        page.set_default_timeout(_ASK_SECONDS * 1000)
        page.goto(f"{url}/auth")
        page.locator("input[type=email]").fill(_ACCOUNT["email"])
        page.locator("input[type=password]").fill(_ACCOUNT["password"])
        page.locator("button[type=submit]").click()
        page.locator("#chat-input").wait_for()
        page.goto(f"{url}/?models={model}")
        page.locator("#chat-input").wait_for()
        with contextlib.suppress(NothingNew):
            page.get_by_role("dialog").wait_for(timeout=10_000)  # what is new in this version
            page.keyboard.press("Escape")
        page.locator("#chat-input").click()
        page.keyboard.insert_text(QUESTION)
        page.keyboard.press("Enter")
        page.get_by_text(f"The answer is {ANSWER}.").first.wait_for()
        page.get_by_text("Thought for").first.click()
        page.wait_for_timeout(1500)
        said = page.locator("body").inner_text()
        if picture is not None:
            page.screenshot(path=picture)
        browser.close()
    return said.partition("Thought for")[2], said


def main(argv: Sequence[str] | None = None) -> int:
    """Ask; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m clients.open_webui", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environment", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="a running server; default: %(default)s")
    parser.add_argument("--model", default="drr-reference")
    parser.add_argument("--key", default="none", help="the server's API key")
    parser.add_argument("--picture", type=Path, help="keep a picture of the page, as PNG")
    options = parser.parse_args(argv)
    folder = options.environment.resolve()
    api = options.url.rstrip("/").removesuffix("/v1") + "/v1"
    missing, console = list[str](), Console()
    try:
        with served(installed(folder), folder, api, options.key) as url:
            with Front(url) as front:
                models = front.models()
                console.print(f"models: {', '.join(models)}", markup=False)
                missing += [f"the model {options.model}"] if options.model not in models else []
                thinking, answer = front.ask(options.model)
                console.print(
                    f"through its API: {len(thinking)} characters of thinking, {answer.strip()!r}", markup=False
                )
                missing += ["the thinking, through its API"] if not thinking else []
                missing += ["the answer, through its API"] if ANSWER not in answer else []
            if shutil.which("chromium") or shutil.which("chromium-browser"):
                shown, _ = ask_in_a_browser(url, options.model, options.picture)
                console.print(f"in a browser, unfolded: {' '.join(shown.split())[:200]}", markup=False)
                missing += ["the thinking, in a browser"] if "3*8=24" not in shown else []
    except (OSError, RuntimeError, subprocess.CalledProcessError, httpx.HTTPError) as error:
        console.print(f"open_webui: {error}", markup=False)
        return 1
    for what in missing:
        console.print(f"missing: {what}", markup=False)
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""A server of our own in another process, and an OpenAI client for it."""

import contextlib
import functools
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

MODEL = "drr-reference"
QUESTION = (
    "Tom has 12 apples. He buys 3 bags of 8 apples each. He loses 7 of them. Then the number grows to 4 times what it "
    "was. He finds 46 more. He sells 5 boxes of 9 apples each. How many apples does Tom have now?"
)
MESSAGES: Any = [{"role": "user", "content": QUESTION}]


_SECONDS_TO_START = 600.0
"""Half a minute where nothing else runs; tests are also run on machines that are shared by many."""


@dataclass
class Server:
    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @functools.cached_property
    def sdk(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def ask(self, **fields: Any) -> Any:
        drr = fields.pop("drr", None)
        extra = {**fields.pop("extra_body", {}), **({"drr": drr} if drr is not None else {})}
        fields = {"model": MODEL, "messages": MESSAGES, "seed": 1, **fields}
        return self.sdk.chat.completions.create(**fields, extra_body=extra)

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics").text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def start(log: Path, *arguments: str) -> Server:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "drr.cli", "serve", "--host", "127.0.0.1", "--port", str(port), *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    server = Server(f"http://127.0.0.1:{port}", process, log)
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/health").status_code == 200:
                return server
        time.sleep(0.25)
    stop(server)
    raise AssertionError(f"no server: {log.read_text()[-3000:]}")


def stop(server: Server) -> int:
    server.sdk.close()
    server.process.send_signal(signal.SIGTERM)
    try:
        return server.process.wait(30)
    except subprocess.TimeoutExpired:
        server.process.kill()
        raise

"""What is to be seen of a server from outside: engine requests left behind, memory, its log."""

import asyncio
import contextlib
import re
import time
from pathlib import Path

import httpx
import psutil

from tests.server.running import MODEL

_MB = 1024 * 1024
_VLLMS_OWN = {
    r"The model `.*` does not exist": "vLLM logs a client's 404 as an error",
    r"Error in count_tokens": "vLLM logs a client's 400 as an error",
    r"Error in create_messages|Error during generation|Error in completion stream generator": (
        "vLLM logs a client's 400 with its traceback"
    ),
    r"Failed to compile grammar": "vLLM's engine logs a client's bad grammar with its traceback",
    r"Grammar error": "vLLM logs the refusal of a stream's grammar with its traceback, on /v1/completions as well",
}
"""What vLLM logs as an error without one, by its words."""


class Watch:
    """Notes the resident memory of a server and its engines, every few seconds."""

    def __init__(self, url: str, pid: int | None, every: float = 30.0) -> None:
        self._url, self._pid, self._every = url, pid, every
        self._sizes: list[int] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, if the server's process is known."""
        if self._pid is not None:
            self._task = asyncio.create_task(self._watch(psutil.Process(self._pid)))

    async def _watch(self, process: psutil.Process) -> None:
        while True:
            self._sizes.append(resident_mb(process))
            await asyncio.sleep(self._every)

    async def stop(self) -> list[int]:
        """End; about a dozen sizes in MB, first and last among them."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        every = max(1, len(self._sizes) // 12)
        return [*self._sizes[::every], *self._sizes[-1:]]


def resident_mb(process: psutil.Process) -> int:
    """The resident memory of a process and those below it."""
    total = 0
    for own in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += own.memory_info().rss
    return total // _MB


async def wait_until_idle(url: str, patience: float = 60.0) -> list[str]:
    """What is still running although nobody waits for it."""
    left = -1.0
    began = time.monotonic()
    async with httpx.AsyncClient() as client:
        while time.monotonic() - began < patience:
            left = _requests((await client.get(f"{url}/metrics")).text)
            if left == 0:
                return []
            await asyncio.sleep(0.5)
    return [f"{left:g} engine requests are left"]


def _requests(metrics: str) -> float:
    found = re.findall(r"^vllm:num_requests_(?:running|waiting)(?:{[^}]*})? (\S+)$", metrics, re.MULTILINE)
    return sum(float(value) for value in found) if found else -1.0


async def still_answers(url: str) -> list[str]:
    """What is wrong with a simple answer."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "What is 3 + 4?"}], "max_tokens": 30}
    async with httpx.AsyncClient(timeout=60) as client:
        response = await client.post(f"{url}/v1/chat/completions", json=body)
        health = await client.get(f"{url}/health")
    wrong = [] if response.status_code == 200 else [f"a simple question is HTTP {response.status_code}"]
    return wrong if health.json()["status"] == "ok" else [*wrong, f"health: {health.text}"]


def wrong_log(log: Path) -> list[str]:
    """The beginnings of what a log tells of that should not happen."""
    wrong: list[list[str]] = []
    place = None
    for line in log.read_text(errors="replace").splitlines():
        if re.search(r"\b(Traceback|ERROR|CRITICAL)\b|never (retrieved|awaited)", line) is None:
            place = None
            continue
        found = re.search(r"\[[\w.]+:\d+\]", line)
        here = None if found is None else found.group()
        if here is None or here != place or "] Error in " in line:
            wrong.append([])
        wrong[-1].append(line)
        place = here
    unknown = [block for block in wrong if not any(re.search(own, "\n".join(block)) for own in _VLLMS_OWN)]
    return [f"log: {block[0][:300]}" for block in unknown]

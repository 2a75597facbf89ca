"""Commands and servers that benchmarks run."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx

_START_SECONDS = 600.0
_TOLD = 4000
"""Bytes of a failed server's log that are shown."""

DRR_SERVE = ("drr.cli", "serve")
VLLM_SERVE = ("vllm.entrypoints.launchers.api_server.entry",)
"""vLLM's own server, as a module, because vLLM's CPU build comes without the `vllm` command."""


def run_drr(*arguments: object) -> None:
    """Run a `drr` command; CalledProcessError if it fails. It has a process of its own, because an engine frees all its
    memory only when its process ends."""
    subprocess.run([sys.executable, "-m", "drr.cli", *map(str, arguments)], check=True)


@contextlib.asynccontextmanager
async def served(arguments: Sequence[str] = (), command: Sequence[str] = DRR_SERVE) -> AsyncIterator[str]:
    """Run a server with `arguments` on a free port; yields its base URL once it is healthy."""
    async with running(arguments, command) as (url, _):
        yield url


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def running(
    arguments: Sequence[str],
    command: Sequence[str] = DRR_SERVE,
    log: Path | None = None,
    path: str = "/health",
    port: int | None = None,
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Like `served`, but yields the base URL and the process, once `path` answers 200; on this `port`, where one is
    given. What the server says goes to the file `log`, where one is named, and to stderr where it fails."""
    port = free_port() if port is None else port
    whole = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port), *arguments]
    with tempfile.TemporaryFile() if log is None else log.open("w+b") as out:
        process = await asyncio.create_subprocess_exec(*whole, stdout=out, stderr=asyncio.subprocess.STDOUT)
        url = f"http://127.0.0.1:{port}"
        try:
            await _healthy(url, process, path)
            yield url, process
        except RuntimeError:
            out.seek(max(0, out.seek(0, os.SEEK_END) - _TOLD))
            sys.stderr.buffer.write(out.read(_TOLD))
            raise
        finally:
            await _stopped(process)


async def _stopped(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()


async def _healthy(url: str, process: asyncio.subprocess.Process, path: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    async with httpx.AsyncClient() as client:
        while time.monotonic() < deadline:
            if process.returncode is not None:
                raise RuntimeError(f"the server ended with status {process.returncode}")
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{url}{path}")).status_code == 200:
                    return
            await asyncio.sleep(0.1)
    raise RuntimeError(f"the server was not healthy after {_START_SECONDS:.0f} s")

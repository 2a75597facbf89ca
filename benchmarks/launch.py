"""Commands and servers that benchmarks run."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence

import httpx

_START_SECONDS = 300.0

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


@contextlib.asynccontextmanager
async def running(
    arguments: Sequence[str], command: Sequence[str] = DRR_SERVE
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Like `served`, but yields the base URL and the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    whole = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port), *arguments]
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(*whole, stdout=log, stderr=asyncio.subprocess.STDOUT)
        url = f"http://127.0.0.1:{port}"
        try:
            await _healthy(url, process)
            yield url, process
        except RuntimeError:
            log.seek(0)
            sys.stderr.buffer.write(log.read()[-4000:])
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


async def _healthy(url: str, process: asyncio.subprocess.Process) -> None:
    deadline = time.monotonic() + _START_SECONDS
    async with httpx.AsyncClient() as client:
        while time.monotonic() < deadline:
            if process.returncode is not None:
                raise RuntimeError(f"the server ended with status {process.returncode}")
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{url}/health")).status_code == 200:
                    return
            await asyncio.sleep(0.25)
    raise RuntimeError(f"the server was not healthy after {_START_SECONDS:.0f} s")

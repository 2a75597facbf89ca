"""Many times more requests than a server can take: what those that are let in wait, and how soon others are told.

    python -m benchmarks.overload --seconds 300 --times 10

First as many clients as `--drr-max-running` lets in ask without a pause, then `--times` as many. A client that is told
429 waits as long as the server says, and asks again.
"""

import argparse
import asyncio
import sys
import time

import httpx
import psutil
from rich.console import Console

from benchmarks.answers import Answer, ask, quantile, tally
from benchmarks.launch import running
from drr.checks import check_range
from drr.failures import guarded


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0, help="of overload; a quarter of it at capacity before")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--running", type=int, default=16, help="--drr-max-running")
    parser.add_argument("--waiting", type=int, default=4, help="--drr-max-waiting")
    options, flags = parser.parse_known_args()
    check_range("--seconds", options.seconds, above=0)
    for name in ("times", "running"):
        check_range(f"--{name}", getattr(options, name), least=1)
    return asyncio.run(_compare(options, flags))


async def _compare(options: argparse.Namespace, flags: list[str]) -> int:
    limits = ["--drr-max-running", str(options.running), "--drr-max-waiting", str(options.waiting)]
    async with running([*limits, *flags]) as (url, process):
        await _load(url, options.running, 5.0)
        at_capacity = await _load(url, options.running, options.seconds / 4)
        _tell_memory(process.pid, "before")
        overload = await _load(url, options.running * options.times, options.seconds)
        _tell_memory(process.pid, "after")
    usual = _p95(at_capacity)
    told = [answer.seconds for answer in overload if answer.code == "429"]
    Console().print(f"{options.running} clients: {tally(at_capacity)}; p95 {usual:.2f} s")
    Console().print(
        f"{options.running * options.times} clients: {tally(overload)}; p95 of those let in {_p95(overload):.2f} s"
    )
    Console().print(
        f"ratio of p95 {_p95(overload) / usual:.2f}; told 429 within {1000 * quantile(told, 0.95):.0f} ms (p95)"
    )
    return 1 if any(answer.fate == "broken" for answer in overload) else 0


def _p95(answers: list[Answer]) -> float:
    return quantile([answer.seconds for answer in answers if answer.fate == "complete"], 0.95)


def _tell_memory(pid: int, when: str) -> None:
    process = psutil.Process(pid)
    Console().print(f"{when}: {process.memory_info().rss / 2**20:.0f} MiB, {process.num_fds()} descriptors")


async def _load(url: str, clients: int, seconds: float) -> list[Answer]:
    answers: list[Answer] = []
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None)

    async def asks(client: int) -> None:
        number = client
        while time.monotonic() < end:
            answers.append(await ask(http, url, number, stream=client % 2 == 0))
            if answers[-1].code == "429":
                await asyncio.sleep(min(answers[-1].retry_after, max(0.0, end - time.monotonic())))
            number += clients

    async with httpx.AsyncClient(timeout=120, limits=limits) as http:
        await asyncio.gather(*map(asks, range(clients)))
    return answers


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.overload", main))

"""SIGTERM under load, again and again: does everybody who was let in get an answer, and does the server end well?

    python -m benchmarks.shutdown --times 20

Every round starts the server of the reference models, has clients ask without a pause, half of them streaming, sends
SIGTERM at a random moment, and waits for all of it to end. Exit status 1 if an answer was lost or a server ended badly.
"""

import argparse
import asyncio
import random
import sys
import time

import httpx
from rich.console import Console

from benchmarks.answers import Answer, ask, tally
from benchmarks.launch import running
from drr.checks import check_range
from drr.failures import guarded

_LONGEST = 60.0
"""Seconds from SIGTERM to the end of the process, and then some."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options, flags = parser.parse_known_args()
    for name in ("times", "clients"):
        check_range(f"--{name}", getattr(options, name), least=1)
    rng = random.Random(options.seed)
    lost = sum(
        asyncio.run(_round(number, options.clients, rng.uniform(1.0, 5.0), flags)) for number in range(options.times)
    )
    Console().print(f"{options.times} rounds, {lost} with an answer that was lost or a server that ended badly")
    return 1 if lost else 0


async def _round(number: int, clients: int, after: float, flags: list[str]) -> bool:
    """One server's life; whether anything was lost."""
    answers: list[Answer] = []
    ending = asyncio.Event()
    async with running(flags) as (url, process), httpx.AsyncClient(timeout=_LONGEST) as http:
        asking = [asyncio.create_task(_asks(http, url, client, ending, answers)) for client in range(clients)]
        await asyncio.sleep(after)
        process.terminate()
        begun = time.perf_counter()
        ending.set()
        await asyncio.gather(*asking)
        status = await _status(process)
    # Whoever came when the socket was closed was never let in.
    let_in = [answer for answer in answers if answer.code not in ("ConnectError", "503")]
    good = status == 0 and bool(let_in) and all(answer.fate == "complete" for answer in let_in)
    seconds = time.perf_counter() - begun
    Console().print(
        f"round {number}: SIGTERM after {after:.1f} s; {tally(answers)}; ended after {seconds:.1f} s, status {status}"
    )
    return not good


async def _asks(http: httpx.AsyncClient, url: str, client: int, ending: asyncio.Event, answers: list[Answer]) -> None:
    """Ask again and again, and once more after the end has begun."""
    for number in range(client, 10_000, 100):
        late = ending.is_set()
        mode = {"mode": "rethink"} if client % 3 == 0 else {}
        answers.append(await ask(http, url, number, stream=client % 2 == 0, drr=mode))
        if late:
            return


async def _status(process: asyncio.subprocess.Process) -> int | None:
    """The exit status; None if it does not end."""
    try:
        return await asyncio.wait_for(process.wait(), _LONGEST)
    except TimeoutError:
        return None


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.shutdown", main))

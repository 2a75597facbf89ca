"""Many times more requests than a server can take: what those that are let in wait, and how soon others are told.

    python -m benchmarks.overload --seconds 300 --times 10

First as many clients as `--drr-max-running` lets in ask without a pause: that is the server's capacity. Then requests
arrive at random moments (Poisson), `--times` as many a second as were answered then, whatever becomes of those before.
Then capacity once more: on a machine that others use, too, both are told, and the ratio is to both together.

Exit status 1 where those that are let in take more than 1.5 times as long as at capacity (p95), where the others are
not told 429 within 100 ms (p95), where a request is lost, or where memory grows by more than 5 %.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil
import uvloop
from rich.console import Console

from benchmarks.answers import Answer, asked, judged, quantile, tally
from benchmarks.launch import running
from benchmarks.light_client import LightClient, Reply, request
from benchmarks.load_client import stolen_share
from benchmarks.server_processes import ServerProcesses, Size
from drr.checks import check_range
from drr.failures import guarded

_PATH = "/v1/chat/completions"
_PREPARED = 512
"""Requests whose bytes are made before anything is timed; then they come again."""

_MOST_RATIO, _MOST_TOLD, _MOST_GROWTH = 1.5, 0.1, 0.05
_LONGEST = 60.0
"""Seconds that those under way may take after the last has come."""

_WARM_UP = 5.0


@dataclass(frozen=True)
class Phase:
    """What clients saw for a while. `seconds` from the first request to the last answer; `own` is the client's share of
    a core, `stolen` what the machine's host took."""

    answers: list[Answer]
    seconds: float
    own: float
    stolen: float

    @property
    def p95(self) -> float:
        """Of those that were let in."""
        return quantile([answer.seconds for answer in self.answers if answer.fate == "complete"], 0.95)

    @property
    def told(self) -> float:
        """The p95 of those that were not."""
        return quantile([answer.seconds for answer in self.answers if answer.code == "429"], 0.95)

    @property
    def rate(self) -> float:
        """Complete answers a second."""
        return sum(answer.fate == "complete" for answer in self.answers) / self.seconds

    def __str__(self) -> str:
        return (
            f"{tally(self.answers)} in {self.seconds:.0f} s ({self.rate:.1f} complete a second); p95 of those let in "
            f"{self.p95:.2f} s; the client took {self.own:.2f} of a core, {self.stolen:.1%} of the machine was stolen"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="of overload; an eighth at capacity before and after"
    )
    parser.add_argument("--times", type=float, default=10.0)
    parser.add_argument("--running", type=int, default=16, help="--drr-max-running")
    parser.add_argument("--waiting", type=int, default=4, help="--drr-max-waiting")
    parser.add_argument("--seed", type=int, default=0)
    options, flags = parser.parse_known_args()
    check_range("--seconds", options.seconds, above=0)
    check_range("--times", options.times, above=0)
    check_range("--running", options.running, least=1)
    status: int = uvloop.run(_compare(options, flags))
    return status


async def _compare(options: argparse.Namespace, flags: list[str]) -> int:
    limits = ["--drr-max-running", str(options.running), "--drr-max-waiting", str(options.waiting)]
    prepared = [request(_PATH, asked(number, stream=number % 2 == 0)) for number in range(_PREPARED)]
    async with running([*limits, *flags]) as (url, process):
        processes = ServerProcesses(process.pid)
        client = LightClient(url)
        await _timed(lambda: _closed(client, prepared, options.running, _WARM_UP))
        at_capacity = await _timed(lambda: _closed(client, prepared, options.running, options.seconds / 8))
        before = processes.sizes()["api"]
        rate = options.times * at_capacity.rate
        overload = await _timed(lambda: _open(client, prepared, rate, options.seconds, options.seed))
        after = processes.sizes()["api"]
        again = await _timed(lambda: _closed(client, prepared, options.running, options.seconds / 8))
        client.close()
    return _tell(at_capacity, overload, again, rate, before, after)


def _tell(first: Phase, overload: Phase, again: Phase, rate: float, before: Size, after: Size) -> int:
    at_capacity = Phase([*first.answers, *again.answers], first.seconds + again.seconds, 0.0, 0.0)
    ratio, told = overload.p95 / max(at_capacity.p95, 1e-9), overload.told
    out = Console(soft_wrap=True, highlight=False)
    out.print(f"at capacity: {first}")
    out.print(f"{rate:.0f} requests a second: {overload}")
    out.print(f"at capacity once more: {again}")
    out.print(f"ratio of p95: {ratio:.2f} (at most {_MOST_RATIO})")
    out.print(f"told 429 within {1000 * told:.0f} ms (p95, at most {1000 * _MOST_TOLD:.0f})")
    out.print(
        f"API server: {before.pss:.0f} MiB before, {after.pss:.0f} after; {before.files} and {after.files} open files"
    )
    broken = any(answer.fate == "broken" for answer in (*at_capacity.answers, *overload.answers))
    good = ratio <= _MOST_RATIO and told <= _MOST_TOLD and after.pss <= before.pss * (1 + _MOST_GROWTH)
    return 0 if good and not broken else 1


async def _timed(asking: Callable[[], Awaitable[list[tuple[int, Reply]]]]) -> Phase:
    before, own, begun = psutil.cpu_times(), time.process_time(), time.perf_counter()
    replies = await asking()
    seconds = time.perf_counter() - begun
    share, taken = (time.process_time() - own) / seconds, stolen_share(before, psutil.cpu_times())
    return Phase([_answer(number, reply) for number, reply in replies], seconds, share, taken)  # read only now


def _answer(number: int, reply: Reply) -> Answer:
    if reply.status == 0:
        return Answer("broken", "the connection broke", reply.first, reply.seconds)
    return judged(reply.status, reply.text, reply.first, reply.seconds, stream=number % 2 == 0)


async def _closed(client: LightClient, prepared: list[bytes], clients: int, seconds: float) -> list[tuple[int, Reply]]:
    """So many clients, each of which asks again as soon as it has its answer."""
    replies: list[tuple[int, Reply]] = []
    end = time.monotonic() + seconds

    async def asks(number: int) -> None:
        while time.monotonic() < end:
            replies.append((number, await client.ask(prepared[number % _PREPARED])))
            number += clients

    await asyncio.gather(*map(asks, range(clients)))
    return replies


async def _open(
    client: LightClient, prepared: list[bytes], rate: float, seconds: float, seed: int
) -> list[tuple[int, Reply]]:
    """Requests that arrive at this rate."""
    replies: list[tuple[int, Reply]] = []
    rng, begun, due, number = random.Random(seed), time.monotonic(), 0.0, 0
    under_way = set[asyncio.Task[None]]()

    async def asks(number: int) -> None:
        replies.append((number, await client.ask(prepared[number % _PREPARED])))

    while (due := due + rng.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, begun + due - time.monotonic()))
        task = asyncio.create_task(asks(number))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        number += 1
    if under_way:
        _, late = await asyncio.wait(under_way, timeout=_LONGEST)
        replies += [(0, Reply(0, b"", b"", 0.0, _LONGEST)) for _ in late]
    return replies


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.overload", main))

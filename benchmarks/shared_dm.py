"""Two API servers before one text DM in a process of its own, each of which is killed in turn.

    python -m benchmarks.shared_dm [--seconds 20] [--clients 8] [--out benchmarks/results/shared_dm.json]

Clients ask as behind a load balancer with health checks: each server in turn, and the other one where a connection
breaks. First both servers are there; then the DM is killed (both must think on in full) and started again (both must
judge again without a restart of theirs); then one server is killed (the other must go on) and started again; then the
other. Exit status 1 where a client is left without an answer, or where judging does not stop and come back.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvloop
from rich.console import Console

from benchmarks.answers import Answer, ask, quantile
from benchmarks.beside_vllm import cpu_flags
from benchmarks.launch import DRR_SERVE, VLLM_SERVE, free_port, running
from drr import reference
from drr.checks import check_range
from drr.engine.devices import prepare_environment
from drr.failures import guarded
from drr.files import write_whole

_BACK_WITHIN = 60.0


@dataclass
class Place:
    """A process that can be killed and started again on the same port: `name`, its command and arguments."""

    name: str
    command: tuple[str, ...]
    arguments: Sequence[str]
    port: int = field(default_factory=free_port)
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> float:
        """Start it; returns the seconds until it was healthy."""
        begun = time.monotonic()
        started = running(self.arguments, self.command, port=self.port)
        _, self.process = await self.stack.enter_async_context(started)
        return time.monotonic() - begun

    async def kill(self) -> None:
        """SIGKILL to the process; its engine ends by itself."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()


@dataclass(frozen=True)
class Phase:
    """What clients saw for a while. `retried` answers came from the other server after a broken connection."""

    name: str
    seconds: float
    answers: list[Answer]
    retried: int

    def figures(self) -> dict[str, Any]:
        """As plain data."""
        done = [answer for answer in self.answers if answer.fate == "complete"]
        judges = [answer.account.get("judge") or {} for answer in done]
        milliseconds = [judge["mean_ms"] for judge in judges if judge.get("mean_ms") is not None]
        return {
            "phase": self.name,
            "seconds": self.seconds,
            "answers": len(self.answers),
            "complete": len(done),
            "answered_by_the_other": self.retried,
            "answers_per_second": len(done) / self.seconds,
            "p95_seconds": quantile([answer.seconds for answer in done], 0.95),
            "thinking_tokens": sum(answer.account["thinking_tokens"] for answer in done) / max(1, len(done)),
            "judged": sum(judge.get("decisions", 0) > judge.get("failed", 0) + judge.get("late", 0) for judge in judges)
            / max(1, len(done)),
            "scores_failed": sum(judge.get("failed", 0) for judge in judges),
            "scores_late": sum(judge.get("late", 0) for judge in judges),
            "dm_ms": sum(milliseconds) / len(milliseconds) if milliseconds else None,
            "causes": dict(Counter(answer.account.get("stop_cause", "?") for answer in done)),
        }


class Clients:
    """Clients that go on asking. `here` are the servers that the load balancer knows to be there."""

    def __init__(self, http: httpx.AsyncClient, servers: Sequence[Place], count: int) -> None:
        self.here = list(servers)
        self._http, self._number, self._retried = http, 0, 0
        self._answers: list[Answer] = []
        self._begun = time.monotonic()
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(count)]

    async def _ask(self) -> None:
        while True:
            self._number += 1
            number = self._number
            first = self.here[number % len(self.here)]
            answer = await ask(self._http, first.url, number, stream=False)
            if answer.fate == "broken" and (others := [place for place in self.here if place is not first]):
                self._retried += 1
                answer = await ask(self._http, others[0].url, number, stream=False)
            self._answers.append(answer)

    def phase(self, name: str) -> Phase:
        """What has been answered since the phase before."""
        now = time.monotonic()
        found = Phase(name, now - self._begun, self._answers, self._retried)
        self._answers, self._retried, self._begun = [], 0, now
        return found

    async def leave(self) -> None:
        """Stop asking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """All phases; their figures, and what was expected and did not hold."""
    folder = reference.dm_folder("text")
    classifier = ["--model", str(folder), "--runner", "pooling", "--dtype", "float32", "--disable-uvicorn-access-log"]
    judge = Place("DM", VLLM_SERVE, [*cpu_flags(), *classifier])
    model = ["--model", str(reference.reasoner_folder()), "--served-model-name", reference.MODEL_NAME]
    ours = [*model, "--dm", str(folder), "--dm-url", judge.url, "--disable-uvicorn-access-log"]
    servers = [Place(name, DRR_SERVE, ours) for name in ("first", "second")]
    phases: list[Phase] = []
    async with contextlib.AsyncExitStack() as stack:
        for place in (judge, *servers):
            await stack.enter_async_context(place.stack)
        await judge.start()
        await asyncio.gather(*(server.start() for server in servers))
        http = await stack.enter_async_context(
            httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None))
        )
        await asyncio.gather(*(ask(http, server.url, number, stream=False) for number, server in enumerate(servers)))
        clients = Clients(http, servers, options.clients)
        stack.push_async_callback(clients.leave)

        async def watch(name: str) -> None:
            await asyncio.sleep(options.seconds)
            phases.append(clients.phase(name))

        await watch("both servers")
        await judge.kill()
        await watch("the DM killed")
        await judge.start()
        back = {server.name: await _judged_again(http, server) for server in servers}
        phases.append(clients.phase("the DM starts again"))
        await watch("the DM back")
        for gone in servers:
            await gone.kill()
            await asyncio.sleep(options.seconds / 4)  # until health checks have seen it
            clients.here = [server for server in servers if server is not gone]
            await watch(f"the {gone.name} server killed")
            if gone is servers[0]:
                await gone.start()
                clients.here = list(servers)
                phases.append(clients.phase(f"the {gone.name} server starts again"))
    return {"clients": options.clients, "judged_again_after": back, "phases": [phase.figures() for phase in phases]}


async def _judged_again(http: httpx.AsyncClient, server: Place) -> float | None:
    """Seconds until the server's answers are judged; None where that takes longer than a minute."""
    begun = time.monotonic()
    number = 10_000
    while (passed := time.monotonic() - begun) < _BACK_WITHIN:
        number += 1
        account = (await ask(http, server.url, number, stream=False)).account
        told = account.get("judge") or {}
        if told.get("decisions", 0) and not told.get("failed", 0):
            return passed
    return None


def faults(found: dict[str, Any]) -> list[str]:
    """What should have held and did not."""
    told = [
        f"{phase['phase']}: {phase['answers'] - phase['complete']} of {phase['answers']} had no complete answer"
        for phase in found["phases"]
        if phase["complete"] < phase["answers"] or not phase["complete"]
    ]
    by_name = {phase["phase"]: phase for phase in found["phases"]}
    if not by_name["the DM killed"]["scores_failed"]:
        told.append("the DM killed: no score failed, so it was not the DM that judged")
    if not by_name["the DM back"]["judged"]:
        told.append("the DM back: nothing is judged")
    told += [f"{name} server: not judged again" for name, after in found["judged_again_after"].items() if after is None]
    return told


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a phase")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/shared_dm.json"))
    options = parser.parse_args()

    def work() -> int:
        check_range("--seconds", options.seconds, above=0)
        check_range("--clients", options.clients, least=1)
        prepare_environment(quiet=True)
        found = uvloop.run(run(options))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.out, json.dumps(found, indent=1) + "\n")
        out = Console(width=150, highlight=False)
        out.print_json(json.dumps(found))
        told = faults(found)
        out.print("\n".join(told) or "Everything held.")
        return 1 if told else 0

    return guarded("benchmarks.shared_dm", work)


if __name__ == "__main__":
    sys.exit(main())

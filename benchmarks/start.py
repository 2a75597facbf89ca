"""How long does a server take to start, and raw vLLM beside it?

    python -m benchmarks.start [--times 3] [--model FOLDER --dm FOLDER] [--most 1.15] [--out FILE]

Starts one after the other, again and again, raw vLLM and DRR with a DM, on the same Reasoner (the reference Reasoner
and its head DM unless others are named), and times them from the start of the process: until they say that they are
ready (`/health` of vLLM, `/ready` of DRR), and until a first question is answered. Other flags are for both servers.
Exit status 1 where the median of DRR's times to be ready is more than `--most` times vLLM's.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
from rich.console import Console

from benchmarks.beside_vllm import cpu_flags
from benchmarks.launch import DRR_SERVE, VLLM_SERVE, running
from benchmarks.load_client import stolen_share
from drr import reference
from drr.checks import check_range
from drr.engine.devices import prepare_environment
from drr.failures import guarded
from drr.files import write_whole

_NAME = "started"
_QUESTION = {"model": _NAME, "messages": [{"role": "user", "content": "What is 3 + 4?"}], "max_tokens": 16}


@dataclass(frozen=True)
class Start:
    """Seconds from the start of the process until a server is ready, and until it has answered; `stolen` is the share
    of this machine's CPU time that its host took meanwhile."""

    server: str
    ready: float
    answered: float
    stolen: float


async def time_start(server: str, arguments: Sequence[str], command: Sequence[str], path: str) -> Start:
    """Start a server, ask it one question, and end it."""
    before, begun = psutil.cpu_times(), time.perf_counter()
    async with running(arguments, command, path=path) as (url, _), httpx.AsyncClient(timeout=120) as http:
        ready = time.perf_counter() - begun
        (await http.post(f"{url}/v1/chat/completions", json=_QUESTION)).raise_for_status()
        answered = time.perf_counter() - begun
    return Start(server, ready, answered, stolen_share(before, psutil.cpu_times()))


async def compare(options: argparse.Namespace, flags: Sequence[str]) -> list[Start]:
    """All starts, in turn, so that a machine that changes changes for both."""
    common = ["--model", str(options.model), "--served-model-name", _NAME, *flags]
    starts = []
    for number in range(options.times):
        for server, arguments, command, path in (
            ("raw vLLM", [*cpu_flags(), *common], VLLM_SERVE, "/health"),
            ("DRR", [*common, "--dm", str(options.dm)], DRR_SERVE, "/ready"),
        ):
            starts.append(await time_start(server, arguments, command, path))
            Console().print(
                f"{number + 1}. {server}: ready after {starts[-1].ready:.1f} s, answered after "
                f"{starts[-1].answered:.1f} s; {starts[-1].stolen:.1%} of the machine was stolen"
            )
    return starts


def ratio(starts: Sequence[Start]) -> float:
    """DRR's median time to be ready by raw vLLM's."""
    ready = {server: [start.ready for start in starts if start.server == server] for server in ("raw vLLM", "DRR")}
    return statistics.median(ready["DRR"]) / statistics.median(ready["raw vLLM"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--model", type=Path, default=reference.reasoner_folder())
    parser.add_argument("--dm", type=Path, default=reference.dm_folder("head"))
    parser.add_argument("--most", type=float, default=1.15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/start.json"))
    options, flags = parser.parse_known_args()
    check_range("--times", options.times, least=1)
    check_range("--most", options.most, above=0)
    prepare_environment()
    starts = asyncio.run(compare(options, flags))
    found = ratio(starts)
    told = {"model": options.model.name, "dm": options.dm.name, "ratio": found, "starts": list(map(asdict, starts))}
    write_whole(options.out, json.dumps(told, indent=1) + "\n")
    Console().print(f"DRR takes {found:.2f} times as long as raw vLLM (at most {options.most:g})")
    return 0 if found <= options.most else 1


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.start", main))

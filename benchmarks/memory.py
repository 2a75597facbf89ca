"""Does the server's memory grow with the number of requests that it has served?

    python -m benchmarks.memory [--requests 10000] [--out benchmarks/results/memory.json]

Uses the reference pair in mode auto, a different question for every request, and streamed answers of at most 32 tokens.
Reports memory, open files and threads of the server's processes (API server and engines) after every 500 requests. Exit
status 1 where resident memory at the end is more than 5 % above that after the first 500, or where there are more open
files or threads than then.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.launch import running
from benchmarks.load_client import Load, Target, drive
from benchmarks.server_processes import ServerProcesses
from drr.failures import guarded
from drr.files import write_whole
from drr.progress import Progress
from drr.reference import MODEL_NAME
from drr.tasks.sources import load_questions

_PART = 500
_MOST_GROWTH = 0.05
_REST = 1.0
"""Seconds in which the connections of the last requests are closed."""


async def measure(requests: int, clients: int) -> list[dict[str, Any]]:
    """The sizes after every 500 requests, as plain data. RuntimeError if a request fails."""
    prompts = [
        {"messages": [{"role": "user", "content": question.text}], "max_tokens": 32, "drr": {"mode": "auto"}}
        for question in load_questions(f"arithmetic:{requests}", need_answer=False).questions
    ]
    found = []
    async with running(["--disable-uvicorn-access-log"]) as (url, process):
        target = Target("drr", url, MODEL_NAME)
        with Progress("requests", requests) as progress:
            processes = ServerProcesses(process.pid)
            for start in range(0, requests, _PART):
                run = await drive(target, prompts[start : start + _PART], Load(clients=clients), progress.advance)
                if failed := next((sample.error for sample in run.samples if sample.error), None):
                    raise RuntimeError(failed)
                await asyncio.sleep(_REST)
                sizes = processes.sizes()
                found.append(
                    {
                        "requests": start + len(run.samples),
                        "mib": sum(size.rss for size in sizes.values()),
                        "files": sum(size.files for size in sizes.values()),
                        "threads": sum(size.threads for size in sizes.values()),
                        "processes": {part: asdict(size) for part, size in sizes.items()},
                    }
                )
    return found


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/memory.json"))
    options = parser.parse_args()
    found = uvloop.run(measure(options.requests, options.clients))
    write_whole(options.out, json.dumps(found, indent=1) + "\n")
    first, last = found[0], found[-1]
    grown = last["mib"] / first["mib"] - 1
    print(  # noqa: T201
        f"{first['mib']:.0f} MiB after {first['requests']} requests, {last['mib']:.0f} after {last['requests']}: "
        f"{grown:+.1%}; open files {first['files']} and {last['files']}, "
        f"threads {first['threads']} and {last['threads']}"
    )
    return 0 if flat(first, last) else 1


def flat(first: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    """Whether the server is as large as it was."""
    more = last["files"] > first["files"] or last["threads"] > first["threads"]
    return not more and last["mib"] <= first["mib"] * (1 + _MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.memory", main))

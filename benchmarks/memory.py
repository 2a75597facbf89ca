"""Does the server's memory grow with the number of requests that it has served?

    python -m benchmarks.memory [--requests 10000] [--out benchmarks/results/memory.json]

Uses the reference pair in mode auto, a different question for every request, and streamed answers of at most 32 tokens.
Reports the resident memory of all the server's processes (API server and both engines) after every 500 requests.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks.launch import running
from benchmarks.load_client import Load, Target, drive
from drr.failures import guarded
from drr.files import write_whole
from drr.progress import Progress
from drr.reference import MODEL_NAME
from drr.tasks.sources import load_questions

_PART = 500
_MIB = 1 << 20


def resident(process: int) -> dict[str, float]:
    """Resident memory in MiB of a server's process and of each of its children, in the order of their start."""
    root = psutil.Process(process)
    family = [root, *sorted(root.children(recursive=True), key=lambda child: child.create_time())]
    return {f"{place} {member.name()}": member.memory_info().rss / _MIB for place, member in enumerate(family)}


async def measure(requests: int, clients: int) -> list[dict[str, Any]]:
    """The memory after every 500 requests, as plain data. RuntimeError if a request fails."""
    prompts = [
        {"messages": [{"role": "user", "content": question.text}], "max_tokens": 32, "drr": {"mode": "auto"}}
        for question in load_questions(f"arithmetic:{requests}", need_answer=False).questions
    ]
    found = []
    async with running(["--disable-uvicorn-access-log"]) as (url, process):
        target = Target("drr", url, MODEL_NAME)
        with Progress("requests", requests) as progress:
            for start in range(0, requests, _PART):
                run = await drive(target, prompts[start : start + _PART], Load(clients=clients), progress.advance)
                if failed := next((sample.error for sample in run.samples if sample.error), None):
                    raise RuntimeError(failed)
                by_process = resident(process.pid)
                found.append(
                    {"requests": start + len(run.samples), "mib": sum(by_process.values()), "processes": by_process}
                )
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/memory.json"))
    options = parser.parse_args()
    found = uvloop.run(measure(options.requests, options.clients))
    write_whole(options.out, json.dumps(found, indent=1) + "\n")
    first, last = found[0], found[-1]
    print(  # noqa: T201
        f"{first['mib']:.0f} MiB after {first['requests']} requests, {last['mib']:.0f} after {last['requests']}: "
        f"{100 * (last['mib'] / first['mib'] - 1):+.1f} %"
    )


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.memory", main))

"""The constants of the capacity model, measured on a real server, and predictions checked against other loads.

    python -m benchmarks.capacity measure --rounds 3     starts the reference pair's server; minutes
    python -m benchmarks.capacity report                 writes the record into docs/scaling.md, measures nothing

A round first measures constants (equal lengths, 1, 4 and 16 clients, thinking in full and judged), then runs that are
held out: 8 clients with real questions, and Poisson arrivals at three rates. What the model and the simulation predict
for these comes from the constants of the same round, so that a machine that is slower today is no error of the model.
Of the held-out runs they are told when requests came and how long the answers were, never how long anything took.
"""

import argparse
import json
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from benchmarks.beside_vllm import setting
from benchmarks.capacity_report import section
from benchmarks.capacity_rounds import Bench, one_round
from benchmarks.fleet.replica import Limits
from benchmarks.launch import running
from benchmarks.load_client import Load, drive
from benchmarks.pages import SCALING_PAGE, check_section, write_section
from benchmarks.waiting import work_seconds
from drr import reference
from drr.checks import check_range
from drr.engine.devices import prepare_environment
from drr.failures import guarded
from drr.files import read_json_object, write_whole
from drr.tasks import Split
from drr.tasks.reference_suite import reference_questions

RECORD = Path("benchmarks/results/capacity.json")
_WARM_UP = 64
_PIECES = 64
"""Pieces of work, the quickest of which says how fast the machine can be."""


async def measure(options: argparse.Namespace) -> AsyncIterator[dict[str, Any]]:
    """One round after the other, on one server."""
    questions = [question.text for question in reference_questions(Split.TEST, levels=("easy", "hard"))]
    limits = Limits(options.running, options.waiting)
    flags = ["--drr-max-running", str(limits.running), "--drr-max-waiting", str(limits.waiting)]
    async with running(["--disable-uvicorn-access-log", *flags]) as (url, process):
        fastest = min(work_seconds() for _ in range(_PIECES))
        bench = Bench(url, reference.MODEL_NAME, process.pid, questions, limits, options.seconds, fastest)
        tell = partial(Console(stderr=True, highlight=False).log, log_locals=False)
        tell("warm-up")
        await drive(bench.target("auto"), bench.prompts(900_000, _WARM_UP), Load(clients=4, seconds=60))
        for number in range(options.rounds):
            yield await one_round(bench, number + options.first, tell)


async def _record(options: argparse.Namespace) -> None:
    """Add the rounds to the record as they come."""
    async for found in measure(options):
        before = read_json_object(options.out)["rounds"] if options.out.exists() and options.add else []
        options.add = True
        limits = {"running": options.running, "waiting": options.waiting, "seconds": options.seconds}
        record = {**setting(None), **limits, "rounds": [*before, found]}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.out, json.dumps(record, indent=1) + "\n")
        Console(width=150, highlight=False).print(section(record))


def report(record: Path, page: Path) -> None:
    """Write what is recorded into the page."""
    check_section(page, "capacity")
    write_section(page, "capacity", "python -m benchmarks.capacity report", section(read_json_object(record)))


def _run(options: argparse.Namespace) -> None:
    if options.command == "report":
        report(options.out, options.page)
        return
    check_range("--rounds", options.rounds, least=1)
    check_range("--seconds", options.seconds, above=0)
    prepare_environment(quiet=True)
    uvloop.run(_record(options))


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="start a server and measure")
    measuring.add_argument("--rounds", type=int, default=3)
    measuring.add_argument("--first", type=int, default=0, help="number of the first round: other numbers, other seeds")
    measuring.add_argument("--seconds", type=float, default=25.0, help="of a held-out run; constants take half of it")
    measuring.add_argument("--running", type=int, default=16, help="--drr-max-running")
    measuring.add_argument("--waiting", type=int, default=4, help="--drr-max-waiting")
    measuring.add_argument("--add", action="store_true", help="keep the rounds that are recorded")
    reporting = commands.add_parser("report", help="write the record into the page")
    reporting.add_argument("--page", type=Path, default=SCALING_PAGE)
    for command in (measuring, reporting):
        command.add_argument("--out", type=Path, default=RECORD, help="the record")
    return guarded("benchmarks.capacity", partial(_run, parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())

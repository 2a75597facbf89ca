"""Plan a fleet: what saved tokens are worth in replicas, by simulation with measured constants.

    python -m benchmarks.fleet plan                     simulates, writes pictures, a record and docs/scaling.md
    python -m benchmarks.fleet report                   only writes the record into docs/scaling.md
    python -m benchmarks.fleet plan --record full=FILE.parquet --record mine=OTHER.parquet --page none
    python -m benchmarks.fleet shape TRACE.csv          the shape of a recorded trace (column TIMESTAMP)

Service times are those that `python -m benchmarks.capacity measure` or `benchmarks.wall_clock` recorded, lengths those
of recorded evaluations: the first `--record` is thinking in full, without a judge; the others are judged. Arrivals have
the shape of a public trace. Every strategy gets the same arrivals and questions.
"""

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.capacity_model import Lengths, carried
from benchmarks.fleet.arrivals import SHAPES, read_trace, shape_of
from benchmarks.fleet.constants import read_constants
from benchmarks.fleet.drawing import draw_check, draw_plan
from benchmarks.fleet.planning import Strategy, Traffic, plan, played, replicas_needed
from benchmarks.fleet.reporting import section
from benchmarks.fleet.routing import ROUTERS
from benchmarks.fleet.simulation import Goal
from benchmarks.fleet.work import recorded
from benchmarks.pages import SCALING_PAGE, check_section, write_section
from drr.checks import check_range
from drr.errors import InputError
from drr.failures import guarded
from drr.files import read_json_object, write_whole
from drr.progress import Progress

_RESULTS = Path("benchmarks/results")
_RECORDS = (
    f"thinking in full={_RESULTS}/evidence/full_thinking.parquet",
    f"DRR={_RESULTS}/evidence/dm__default.parquet",
    f"DRR, at most 5 % lost={_RESULTS}/evidence/dm__5___lost.parquet",
)
_SLOWER = (1.5, 4.0)
"""Goals for the whole answer, in times of what the longest five of 100 take alone. The first is for the pictures."""

_FIRST_TOKEN = 100
"""The goal for the first token, in decode steps of one sequence."""

_LOADS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
_SIZES = (0.25, 0.5, 1.0, 2.0)
_TURNS, _ROUTED = 4.0, "conversation"


def simulate_all(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the section tells, as plain data."""
    measured = read_constants(options.constants)
    named = [text.partition("=") for text in options.record or _RECORDS]
    strategies = [
        Strategy(name, recorded(Path(path)), measured.judged if place else measured.full)
        for place, (name, _, path) in enumerate(named)
    ]
    prompt, limits, full = measured.prompt, measured.limits, strategies[0]
    lengths = Lengths.of(full.work, prompt, full.times)
    alone = carried(full.times, lengths, 1)
    goals = [Goal(ttft=_FIRST_TOKEN * full.times.step(1), e2e=slower * alone.e2e_p95) for slower in _SLOWER]
    goal = goals[0]
    whole_rate = options.replicas * carried(full.times, lengths, limits.running).requests_per_second
    traffic = Traffic(whole_rate, options.seconds, SHAPES[_ROUTED], prompt, seed=options.seed)
    with Progress("simulations", 3) as progress:
        rows = [
            {"slower": slower, **row}
            for slower, each in zip(_SLOWER, goals, strict=True)
            for row in plan(strategies, SHAPES, traffic, limits, each, options.good)
        ]
        progress.advance()
        loads = [
            {"rate": share * whole_rate, "replicas": options.replicas, "strategy": each.name,
             **asdict(played(each, _at(traffic, share), options.replicas, limits, goal))}
            for share in _LOADS for each in strategies
        ]  # fmt: skip
        sizes = [
            {"rate": share * whole_rate, "strategy": each.name, "replicas": None if needed is None else needed[0]}
            for share in _SIZES
            for each in strategies
            for needed in [replicas_needed(each, _at(traffic, share), limits, goal, options.good)]
        ]
        progress.advance()
        talks = Traffic(0.75 * whole_rate, options.seconds, SHAPES[_ROUTED], prompt, _TURNS, options.seed)
        routed = [
            {"router": router, "strategy": each.name,
             **asdict(played(each, talks, options.replicas, limits, goal, router))}
            for router in ROUTERS for each in strategies
        ]  # fmt: skip
        progress.advance()
    return {
        "source": measured.source,
        "constants": {"full": measured.full.plain(), "judged": measured.judged.plain()},
        "replicas": options.replicas,
        "seconds": options.seconds,
        "rate": whole_rate,
        "good": options.good,
        "goals": [{"slower": slower, **asdict(each)} for slower, each in zip(_SLOWER, goals, strict=True)],
        "limits": asdict(limits),
        "turns": _TURNS,
        "strategies": [_told(each) for each in strategies],
        "shapes": {name: asdict(shape) for name, shape in SHAPES.items()},
        "needed": rows,
        "loads": loads,
        "sizes": sizes,
        "routed": routed,
    }


def _told(strategy: Strategy) -> dict[str, Any]:
    return {
        "name": strategy.name,
        "responses": len(strategy.work),
        "tokens": float(np.mean([work.tokens for work in strategy.work])),
        "right": float(np.mean([work.right for work in strategy.work])),
    }


def _at(traffic: Traffic, share: float) -> Traffic:
    return Traffic(share * traffic.rate, traffic.seconds, traffic.shape, traffic.prompt, traffic.turns, traffic.seed)


def _plan(options: argparse.Namespace) -> None:
    check_range("--replicas", options.replicas, least=1)
    check_range("--seconds", options.seconds, least=180)
    check_range("--good", options.good, above=0, below=1)
    if options.page is not None:
        check_section(options.page, "fleet")
    found = simulate_all(options)
    options.out.mkdir(parents=True, exist_ok=True)
    write_whole(options.out / "fleet.json", json.dumps(found, indent=1) + "\n")
    draw_plan(found["loads"], found["sizes"], options.out / "plan.png")
    if rounds := read_constants(options.constants).rounds:
        draw_check(rounds, options.out / "check.png")
    _report(options)


def _report(options: argparse.Namespace) -> None:
    text = section(read_json_object(options.out / "fleet.json"))
    if options.page is None:
        Console(width=150, highlight=False).print(text)
    else:
        write_section(options.page, "fleet", "python -m benchmarks.fleet report", text)


def _shape(options: argparse.Namespace) -> None:
    try:
        found = shape_of(read_trace(options.trace))
    except ValueError as error:
        raise InputError(str(options.trace), str(error)) from error
    Console(highlight=False).print(", ".join(f"{name} {value:.3g}" for name, value in asdict(found).items()))


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    planning = commands.add_parser("plan", help="simulate, and write what comes out")
    planning.set_defaults(run=_plan)
    planning.add_argument("--record", action="append", metavar="NAME=FILE", help="a recorded evaluation; repeatable")
    planning.add_argument("--constants", type=Path, default=_RESULTS / "capacity.json")
    planning.add_argument("--replicas", type=int, default=10, help="whose whole capacity the rate is (default 10)")
    planning.add_argument("--seconds", type=float, default=1200, help="of arrivals (default 1200)")
    planning.add_argument("--good", type=float, default=0.95, help="share of requests that must be good (default 0.95)")
    planning.add_argument("--seed", type=int, default=0)
    reporting = commands.add_parser("report", help="write the record into the page")
    reporting.set_defaults(run=_report)
    for command in (planning, reporting):
        command.add_argument("--out", type=Path, default=_RESULTS / "fleet", help="folder for record and pictures")
        command.add_argument(
            "--page", type=lambda text: None if text == "none" else Path(text), default=SCALING_PAGE,
            help="the page to write into; none: print instead",
        )  # fmt: skip
    shaping = commands.add_parser("shape", help="the shape of a recorded trace")
    shaping.set_defaults(run=_shape)
    shaping.add_argument("trace", type=Path)
    options = parser.parse_args()
    return guarded("benchmarks.fleet", partial(options.run, options))


if __name__ == "__main__":
    sys.exit(main())

"""Servers side by side, raw vLLM's own among them, and what commands that compare them share."""

import argparse
import contextlib
import json
import os
import platform
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import uvloop
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.launch import DRR_SERVE, VLLM_SERVE, running
from benchmarks.load_report import spread
from benchmarks.readme import check_section, write_section
from drr.engine.devices import cpu_engine_defaults, on_cpu, prepare_environment
from drr.errors import InputError
from drr.files import read_json_object, write_whole

RAW = "raw vLLM"
WIDTH = 180
"""Of tables with four servers, whatever they are printed to."""

_RESULTS = "results.json"
_STEPWISE = ("benchmarks.stepwise",)
_PARSER = ("--reasoning-parser", "deepseek_r1")
"""What DRR takes for these models by itself. Parsing costs time for every token, so raw vLLM has to do it, too."""

Measured = Mapping[str, Any]
"""Figures of one load, as plain data."""

Place = tuple[Any, ...]
"""Where figures stand among those recorded; figures of the same place replace each other."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Cores for the Reasoner's engine, and for everything else."""

    reasoner: frozenset[int]
    rest: frozenset[int]

    @classmethod
    def halves(cls) -> "Cores":
        """Half of this machine's cores for the Reasoner's engine."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise InputError("--split", "needs two cores")
        return cls(frozenset(cores[: len(cores) // 2]), frozenset(cores[len(cores) // 2 :]))

    @contextlib.contextmanager
    def confined(self) -> Iterator[None]:
        """Keep this process, and what it starts, off the Reasoner's cores."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.rest)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def free_engine(self, server: int) -> None:
        """Put the only engine of this server, which does not do so itself, on the Reasoner's cores."""
        engines = [own for own in psutil.Process(server).children(recursive=True) if "EngineCore" in str(own.cmdline())]
        if len(engines) != 1:
            raise RuntimeError(f"the server has {len(engines)} engines, not one")
        for thread in engines[0].threads():
            os.sched_setaffinity(thread.id, self.reasoner)


@dataclass(frozen=True, slots=True)
class Servers:
    """Base URLs of raw vLLM, of DRR, and of DRR's engines judged step by step."""

    raw: str
    drr: str
    stepwise: str | None


@contextlib.asynccontextmanager
async def servers(
    reasoner: str, arguments: Sequence[str], own: Sequence[str], cores: Cores | None, *, stepwise: bool
) -> AsyncIterator[Servers]:
    """All servers, on `reasoner`; `arguments` are for all, `own` for DRR's."""
    common = ["--model", reasoner, *_PARSER, "--disable-uvicorn-access-log", *arguments]
    ours = [*common, *own]
    if cores is not None:
        ours += ["--drr-reasoner-cpus", ",".join(map(str, sorted(cores.reasoner)))]
    async with contextlib.AsyncExitStack() as stack:
        if cores is not None:
            stack.enter_context(cores.confined())
        raw, process = await stack.enter_async_context(running([*_cpu_flags(), *common], VLLM_SERVE))
        if cores is not None:
            cores.free_engine(process)
        drr, _ = await stack.enter_async_context(running(ours, DRR_SERVE))
        peer = await stack.enter_async_context(running(ours, _STEPWISE)) if stepwise else None
        yield Servers(raw, drr, None if peer is None else peer[0])


def salt(mode: str) -> dict[str, str]:
    """Keeps the prefix cache of one mode's requests from helping those of another on the same server."""
    return {"cache_salt": mode}


def _cpu_flags() -> list[str]:
    """What `drr serve` gives an engine on a CPU, as flags for raw vLLM."""
    flags = []
    for name, value in cpu_engine_defaults().items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def setting(cores: Cores | None) -> dict[str, Any]:
    """What figures are measured on, for their results."""
    split = None if cores is None else {"reasoner": len(cores.reasoner), "rest": len(cores.rest)}
    gpu = "" if on_cpu() else f", {torch.cuda.get_device_name()}"
    return {"machine": f"{platform.machine()}, {os.cpu_count()} cores{gpu}", "cores": split}


def machine(results: Mapping[str, Any]) -> str:
    """What the results were measured on, and how its cores were split."""
    cores = results["cores"]
    split = "" if cores is None else f", {cores['reasoner']} for the Reasoner's engine, {cores['rest']} for all else"
    return f"{results['machine']}{split}"


def stolen(measured: Measured) -> str:
    """How much of the machine's CPU time was stolen in the runs of a load, or `?` where that was not recorded."""
    shares = [run.get("stolen") for runs in measured["runs"].values() for run in runs]
    if None in shares:
        return "?"
    found = spread(shares)
    median, least, greatest = (f"{100 * found[name]:.0f} %" for name in ("median", "least", "greatest"))
    return f"{median} ({least} to {greatest})"


def cell(ratio: Mapping[str, float]) -> str:
    """A median with its spread."""
    return f"{ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['greatest']:.3f})"


def run(
    parser: argparse.ArgumentParser,
    name: str,
    measure: Callable[[argparse.Namespace, Cores | None], AsyncIterator[Measured]],
    place: Callable[[Measured], Place],
    section: Callable[[Sequence[Measured]], str],
    *,
    split: bool,
) -> int:
    """Parse, measure and record, or write section `name` of the README from what is recorded; returns the exit status.

    `split` says whether the cores are split unless told otherwise. Whatever `measure` yields is recorded at once, in
    the order of `place`, instead of what had been recorded for the same place.
    """
    module = name.replace(" ", "_")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results") / module)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--split", action=argparse.BooleanOptionalAction, default=split, help="split the cores")
    parser.add_argument("--report", action="store_true", help="only write what is recorded into the README")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    options = parser.parse_args()
    try:
        if options.report:
            check_section(options.readme, name)
            text = section(recorded(options.out))
            write_section(options.readme, name, f"python -m benchmarks.{module} --report", text)
            return 0
        prepare_environment(quiet=True)
        options.out.mkdir(parents=True, exist_ok=True)
        uvloop.run(_record(options, measure, place))
    except (InputError, ValueError) as error:
        parser.error(str(error))
    Console(width=WIDTH).print(Markdown(section(recorded(options.out))))
    return 0


async def _record(
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace, Cores | None], AsyncIterator[Measured]],
    place: Callable[[Measured], Place],
) -> None:
    cores = Cores.halves() if options.split else None
    async for found in measure(options, cores):
        new = {**setting(cores), **found}
        others = [own for own in recorded(options.out) if place(own) != place(new)]
        whole = {"measured": sorted([*others, new], key=place)}
        write_whole(options.out / _RESULTS, json.dumps(whole, indent=1) + "\n")


def recorded(folder: Path) -> list[dict[str, Any]]:
    """What has been measured into this folder; InputError where its file is not readable."""
    path = folder / _RESULTS
    return list(read_json_object(path)["measured"]) if path.exists() else []

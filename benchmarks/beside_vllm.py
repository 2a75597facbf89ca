"""Start DRR beside raw vLLM's own server, and the common part of the commands that compare them."""

import argparse
import asyncio
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
from benchmarks.pages import PERFORMANCE_PAGE, check_section, write_section
from drr.engine.devices import cpu_engine_defaults, on_cpu, prepare_environment
from drr.errors import InputError
from drr.files import read_json_object, write_whole

RAW = "raw vLLM"
WIDTH = 180
"""Characters: the width of tables with four servers, whatever the width of the terminal."""

_RESULTS = "results.json"
_STEPWISE = ("benchmarks.stepwise",)
_PARSER = ("--reasoning-parser", "deepseek_r1")
"""The parser that DRR uses for these models by default. Parsing costs time for every token, so raw vLLM must parse,
too."""

Measured = Mapping[str, Any]
"""The figures of one load, as plain data."""

Place = tuple[Any, ...]
"""The position of figures among those recorded, for sorting. New figures replace older ones of the same place."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The CPU cores for the Reasoner's engine, and those for everything else."""

    reasoner: frozenset[int]
    rest: frozenset[int]

    @classmethod
    def halves(cls) -> "Cores":
        """Half of this machine's cores for the Reasoner's engine, the rest for everything else. InputError if there are
        fewer than two."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise InputError("--split", "needs two cores")
        return cls(frozenset(cores[: len(cores) // 2]), frozenset(cores[len(cores) // 2 :]))

    @contextlib.contextmanager
    def confined(self) -> Iterator[None]:
        """Keep this process and its children off the Reasoner's cores while the context lasts."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.rest)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def free_engine(self, server: int) -> None:
        """Move the only engine of this server to the Reasoner's cores; raw vLLM's server has no option for that.
        RuntimeError unless there is exactly one engine."""
        engines = [
            child for child in psutil.Process(server).children(recursive=True) if "EngineCore" in str(child.cmdline())
        ]
        if len(engines) != 1:
            raise RuntimeError(f"the server has {len(engines)} engines, not one")
        for thread in engines[0].threads():
            os.sched_setaffinity(thread.id, self.reasoner)


@dataclass(frozen=True, slots=True)
class Servers:
    """Base URLs of raw vLLM, of the servers with DRR by name, and of a server that judges step by step (None if there
    is none)."""

    raw: str
    drr: Mapping[str, str]
    stepwise: str | None


@contextlib.asynccontextmanager
async def servers(
    reasoner: str,
    arguments: Sequence[str],
    drr_arguments: Mapping[str, Sequence[str]],
    cores: Cores | None,
    *,
    stepwise: str | None = None,
) -> AsyncIterator[Servers]:
    """Run all servers on `reasoner`. `arguments` are for all of them, and
    `drr_arguments`, by name, for those with DRR. `stepwise` names the one whose arguments the server that judges step
    by step gets; without it there is none."""
    common = ["--model", reasoner, *_PARSER, "--disable-uvicorn-access-log", *arguments]
    pinned = [] if cores is None else ["--drr-reasoner-cpus", ",".join(map(str, sorted(cores.reasoner)))]
    ours = {name: [*common, *own, *pinned] for name, own in drr_arguments.items()}
    async with contextlib.AsyncExitStack() as stack:
        if cores is not None:
            stack.enter_context(cores.confined())
        if on_cpu():
            raw, process = await stack.enter_async_context(running([*cpu_flags(), *common], VLLM_SERVE))
            if cores is not None:
                cores.free_engine(process.pid)
            drr = {name: (await stack.enter_async_context(running(own, DRR_SERVE)))[0] for name, own in ours.items()}
        else:  # their starts take minutes, mostly of waiting
            starts = [running(common, VLLM_SERVE), *(running(own, DRR_SERVE) for own in ours.values())]
            (raw, _), *urls = await asyncio.gather(*map(stack.enter_async_context, starts))
            drr = {name: url for name, (url, _) in zip(ours, urls, strict=True)}
        peer = None if stepwise is None else await stack.enter_async_context(running(ours[stepwise], _STEPWISE))
        yield Servers(raw, drr, None if peer is None else peer[0])


def cache_salt(mode: str) -> dict[str, str]:
    """A request field that keeps the requests of different modes on one server from sharing the prefix cache."""
    return {"cache_salt": mode}


def cpu_flags() -> list[str]:
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
    """The machine and the split of its cores, as recorded with the figures."""
    split = None if cores is None else {"reasoner": len(cores.reasoner), "rest": len(cores.rest)}
    gpu = "" if on_cpu() else f", {torch.cuda.get_device_name()}"
    return {"machine": f"{platform.machine()}, {os.cpu_count()} cores{gpu}", "cores": split}


def machine(results: Mapping[str, Any]) -> str:
    """One phrase on the machine of the results and the split of its cores."""
    cores = results["cores"]
    split = "" if cores is None else f", {cores['reasoner']} for the Reasoner's engine, {cores['rest']} for all else"
    return f"{results['machine']}{split}"


def stolen(measured: Measured) -> str:
    """The share of the machine's CPU time that was stolen in the runs of a load, or `?` if that was not recorded."""
    shares = [run.get("stolen") for runs in measured["runs"].values() for run in runs]
    if None in shares:
        return "?"
    found = spread(shares)
    median, least, greatest = (f"{100 * found[name]:.0f} %" for name in ("median", "least", "greatest"))
    return f"{median} ({least} to {greatest})"


def cell(ratio: Mapping[str, float]) -> str:
    """A median with its spread, as a table cell."""
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
    """Parse the options, then measure and record, or with `--report` write section `name` of the page from what is
    recorded. Returns the exit status.

    `split` is the default of `--split`. Whatever `measure` yields is recorded immediately, sorted by `place`; it
    replaces what had been recorded for the same place.
    """
    module = name.replace(" ", "_")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results") / module)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--split", action=argparse.BooleanOptionalAction, default=split, help="split the cores")
    parser.add_argument("--report", action="store_true", help="only write what is recorded into the page")
    parser.add_argument("--page", type=Path, default=PERFORMANCE_PAGE)
    options = parser.parse_args()
    try:
        if options.report:
            check_section(options.page, name)
            text = section(_measured(options.out))
            write_section(options.page, name, f"python -m benchmarks.{module} --report", text)
            return 0
        prepare_environment(quiet=True)
        options.out.mkdir(parents=True, exist_ok=True)
        uvloop.run(_record(options, measure, place))
    except (InputError, ValueError) as error:
        parser.error(str(error))
    Console(width=WIDTH).print(Markdown(section(read_results(options.out))))
    return 0


def _measured(folder: Path) -> list[dict[str, Any]]:
    """What has been recorded in this folder. InputError if nothing has: an empty report would replace a full one."""
    measured = read_results(folder)
    if not measured:
        raise InputError(str(folder), "holds no measurements to report")
    return measured


async def _record(
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace, Cores | None], AsyncIterator[Measured]],
    place: Callable[[Measured], Place],
) -> None:
    cores = Cores.halves() if options.split else None
    async for found in measure(options, cores):
        new = {**setting(cores), **found}
        others = [result for result in read_results(options.out) if place(result) != place(new)]
        whole = {"measured": sorted([*others, new], key=place)}
        write_whole(options.out / _RESULTS, json.dumps(whole, indent=1) + "\n")


def read_results(folder: Path) -> list[dict[str, Any]]:
    """What has been recorded in this folder. InputError if its file is not readable."""
    path = folder / _RESULTS
    return list(read_json_object(path)["measured"]) if path.exists() else []

"""What judging costs: DRR beside raw vLLM's own server, and beside judging step by step, as ratios within one run.

    python -m benchmarks.overhead --out benchmarks/results/overhead
    python -m benchmarks.overhead --report        writes the recorded results into the README, measures nothing

Reasoner and DM have random weights, in the proportion of a 7-14 billion Reasoner to a 0.3-0.5 billion DM; every answer
has the same length, every step `--step-tokens` tokens, none is ever stopped. In turn, never at once, the same requests
go to raw vLLM, to DRR in mode off, to DRR in mode shadow (every step judged) and to `benchmarks.stepwise` (every step
judged, the next asked for when the verdict is in). Where there is no GPU the Reasoner's engine has cores of its own,
and everything else, the load generator among it, shares the others.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.markdown import Markdown

from benchmarks import load
from benchmarks.launch import DRR_SERVE, VLLM_SERVE, running
from benchmarks.load_client import Load, Run, Target
from benchmarks.load_report import Targets, draw
from benchmarks.random_models import make_dm, make_reasoner
from benchmarks.readme import check_section, write_section
from drr.engines import cpu_engine_defaults, on_cpu, prepare_environment
from drr.errors import InputError
from drr.records import read_json_object, write_whole
from drr.tasks.sources import load_questions

_RESULTS = "results.json"
_COMMAND = "python -m benchmarks.overhead --report"
_STEPWISE = ("benchmarks.stepwise",)
_JUDGED = {"drr": {"mode": "shadow", "report": "summary"}}
RAW, SHADOW, STEPWISE = "raw vLLM", "DRR, shadow", "step by step"
_FEWEST = 4
_SHORT = 20
WIDTH = 180
"""Of tables with four servers, whatever they are printed to."""

_KV_CACHE_BYTES = 2 << 30


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
    common = ["--model", reasoner, "--disable-uvicorn-access-log", *arguments]
    ours = [*common, *own]
    if cores is not None:
        ours += ["--drr-reasoner-cpus", ",".join(map(str, sorted(cores.reasoner)))]
    async with contextlib.AsyncExitStack() as stack:
        if cores is not None:
            stack.enter_context(cores.confined())
        raw, process = await stack.enter_async_context(running([*common, *_cpu_flags()], VLLM_SERVE))
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
    for name, value in cpu_engine_defaults(_KV_CACHE_BYTES).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    return flags


async def counters(url: str) -> dict[str, float]:
    """Tokens that the server has counted: of the DM's input `computed` and `cached`, and of `thinking`."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{url}/metrics")).text
    return {
        sample.labels["kind"]: sample.value
        for family in text_string_to_metric_families(text)
        if family.name in ("drr_dm_tokens", "drr_tokens")
        for sample in family.samples
        if sample.name.endswith("_total")
    }


async def measure(options: argparse.Namespace, cores: Cores | None) -> dict[str, Any]:
    """Run everything; the figures as plain data, pictures beside them."""
    rule = f"tokens:{options.step_tokens}"
    with tempfile.TemporaryDirectory() as folder:
        reasoner, dm = Path(folder, "reasoner"), Path(folder, "dm")
        parameters = {"reasoner": make_reasoner(reasoner), "dm": make_dm(dm, reasoner, rule)}
        memory = ["--kv-cache-memory-bytes", str(_KV_CACHE_BYTES)] if on_cpu() else []
        own = ["--dm", str(dm), "--drr-step-rule", rule]
        async with servers(str(reasoner), memory, own, cores, stepwise=True) as found:
            assert found.stepwise is not None
            targets = [
                Target(RAW, found.raw, str(reasoner)),
                Target("DRR, off", found.drr, str(reasoner), {"drr": {"mode": "off"}, **salt("off")}),
                Target(SHADOW, found.drr, str(reasoner), {**_JUDGED, **salt("shadow")}),
                Target(STEPWISE, found.stepwise, str(reasoner), _JUDGED),
            ]
            loads = [await _loaded(options, targets, *own_load) for own_load in options.load]
    return {
        "machine": this_machine(),
        "cores": None if cores is None else {"reasoner": len(cores.reasoner), "rest": len(cores.rest)},
        "parameters": parameters,
        "step_tokens": options.step_tokens,
        "pairs": options.pairs,
        "loads": loads,
    }


async def _loaded(
    options: argparse.Namespace, targets: Sequence[Target], boundaries: int, clients: int
) -> dict[str, Any]:
    """One load, with traces of so many boundaries."""
    length = boundaries * options.step_tokens
    if boundaries > _SHORT:
        targets = [own for own in targets if own.name in (RAW, SHADOW)]
    url = next(own.url for own in targets if own.name == SHADOW)
    before = await counters(url)
    prompts = _prompts(max(_FEWEST, clients) * options.pairs, length)
    (runs,) = await load.measure(targets, prompts, [Load(clients=clients)], options.pairs)
    after = await counters(url)
    tokens = {kind: after[kind] - before.get(kind, 0.0) for kind in ("computed", "cached", "thinking")}
    measured = load.results(Targets(), targets, [runs])
    load.show(Console(width=WIDTH), measured)
    found = {
        "boundaries": boundaries,
        "clients": clients,
        **measured["loads"][0],
        "tokens": tokens,
        "dm_tokens_computed_per_token": tokens["computed"] / tokens["thinking"],
        "against_stepwise": _against(runs),
    }
    draw(
        {target.name: [run for run in runs if run.target == target.name] for target in targets},
        found["ratios"],
        options.out / f"{boundaries}-boundaries-{clients}-clients.png",
        f"{boundaries} boundaries, {clients} clients",
    )
    return found


def _against(runs: Sequence[Run]) -> list[float]:
    """Throughput of shadow over that of step by step, pair by pair; empty where that was left out."""
    rates: dict[str, list[float]] = {}
    for run in runs:
        rates.setdefault(run.target, []).append(sum(sample.tokens for sample in run.samples) / run.seconds)
    return [ours / peers for ours, peers in zip(rates[SHADOW], rates.get(STEPWISE, ()), strict=False)]


def _prompts(count: int, length: int) -> list[dict[str, Any]]:
    """Requests that differ, whose answers have `length` tokens."""
    return [
        {
            "messages": [{"role": "user", "content": question.text}],
            "max_tokens": length,
            "ignore_eos": True,
            "temperature": 1.0,
        }
        for question in load_questions(f"arithmetic:{count}:{length}", need_answer=False).questions
    ]


def section(results: Mapping[str, Any]) -> str:
    """The results as the README shows them."""
    parameters = results["parameters"]
    lines = [
        f"Random weights, a Reasoner of {parameters['reasoner'] / 1e6:.1f} and a DM of {parameters['dm'] / 1e6:.2f} "
        f"million parameters, steps of {results['step_tokens']} tokens, every step judged; {machine(results)}. Ratios "
        f"to raw vLLM's server, medians of {results['pairs']} pairs (least to greatest).",
        "",
        "| boundaries | clients | server | tokens a second | time to first token, p95 | gap, p95 | whole answer, p95 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for own in results["loads"]:
        for name, ratios in own["ratios"].items():
            cells = [cell(ratios[key]) for key in ("tokens_per_second", "ttft_p95", "itl_p95", "e2e_p95")]
            lines.append(f"| {own['boundaries']} | {own['clients']} | {name} | {' | '.join(cells)} |")
    cost = "; ".join(
        f"{own['dm_tokens_computed_per_token']:.2f} at {own['boundaries']} boundaries and {own['clients']} clients"
        for own in results["loads"]
    )
    faster = "; ".join(
        f"{np.median(own['against_stepwise']):.2f} at {own['clients']} clients"
        for own in results["loads"]
        if own["against_stepwise"]
    )
    lines += [
        "",
        f"Tokens that the DM computed per token of thinking: {cost}. DRR's throughput over that of judging step by "
        f"step: {faster}.",
    ]
    return "\n".join(lines)


def this_machine() -> str:
    """What figures were measured on."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def machine(results: Mapping[str, Any]) -> str:
    """What the results were measured on, and how its cores were split."""
    cores = results["cores"]
    split = "" if cores is None else f", {cores['reasoner']} for the Reasoner's engine, {cores['rest']} for all else"
    return f"{results['machine']}{split}"


def cell(ratio: Mapping[str, float]) -> str:
    """A median with its spread."""
    return f"{ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['greatest']:.3f})"


def _load(text: str) -> tuple[int, int]:
    boundaries, clients = map(int, text.split(":"))
    if min(boundaries, clients) < 1:
        raise ValueError(text)
    return boundaries, clients


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/overhead"))
    parser.add_argument(
        "--load",
        type=_load,
        action="append",
        metavar="BOUNDARIES:CLIENTS",
        help="repeatable (default: 10:1, 10:16, 10:48, 100:4); traces of more than 20 boundaries leave out all but raw "
        "vLLM and mode shadow",
    )
    parser.add_argument("--step-tokens", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--split", action=argparse.BooleanOptionalAction, default=on_cpu(), help="split the cores")
    parser.add_argument("--report", action="store_true", help="only write what is recorded into the README")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    options = parser.parse_args()
    options.load = options.load or [(10, 1), (10, 16), (10, 48), (100, 4)]
    try:
        if options.report:
            check_section(options.readme, "overhead")
            results = read_json_object(options.out / _RESULTS)
            write_section(options.readme, "overhead", _COMMAND, section(results))
            return 0
        prepare_environment(quiet=True)
        options.out.mkdir(parents=True, exist_ok=True)
        results = asyncio.run(measure(options, Cores.halves() if options.split else None))
    except (InputError, ValueError) as error:
        parser.error(str(error))
    write_whole(options.out / _RESULTS, json.dumps(results, indent=1) + "\n")
    Console(width=WIDTH).print(Markdown(section(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What judging costs: ratios of DRR to raw vLLM's own server, and to judging step by step, within one run.

    python -m benchmarks.overhead --out benchmarks/results/overhead
    python -m benchmarks.overhead --judge head --judge text --load 10:48
    python -m benchmarks.overhead --size 7b --step-tokens 100 --out gpu      (what benchmarks/gpu.sh runs)
    python -m benchmarks.overhead --report        writes the recorded results into the page, measures nothing

Reasoner and DM have random weights; their sizes have the proportion of a 7-14 billion Reasoner to a 0.3-0.5 billion
text classifier. A judge is a head in the Reasoner's engine (the default) or a text classifier in an engine of its own.
Every answer has the same length, every step has `--step-tokens` tokens, and no answer is stopped (except by
`--halfway`). The same requests go, in turn and never at once, to raw vLLM, to DRR in mode off, to DRR in mode shadow
(every step is judged) by every `--judge`, and, where a text classifier is among those, to `benchmarks.stepwise` (every
step is judged by it, and the next is requested after the verdict). Clients begin a fifth of a second apart, because
answers of the same length that began together would stay in step, as real ones do not. Without a GPU the Reasoner's
engine has cores of its own, and everything else, including the load generator, shares the others.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from benchmarks import load
from benchmarks.beside_vllm import RAW, WIDTH, Cores, Measured, Place, cache_salt, cell, machine, run, servers, stolen
from benchmarks.load_client import Load, Run, Target, counted_clients
from benchmarks.load_report import LatencyGoals, by_target, draw, figures, ratios
from benchmarks.random_models import PAIRS, make_dm, make_head, make_reasoner
from drr.engine.devices import on_cpu
from drr.tasks.sources import load_questions

_JUDGED = {"drr": {"mode": "shadow", "report": "summary"}}
_LOADS = ((10, 1), (10, 8), (10, 16), (10, 48), (100, 4))
_OFF = {"drr": {"mode": "off"}}
OFF, STEPWISE, HALFWAY = "DRR, off", "step by step", "DRR, stopped half-way"
JUDGES = ("head", "text")
_FEWEST = 2
_SHORT = 20
_KV_CACHE_BYTES, _DM_KV_CACHE_BYTES = 2 << 30, 1 << 30
_GPU_SHARE, _GPU_DM_SHARE = "0.25", "0.05"
_RAMP = 0.2


async def counters(url: str) -> dict[str, float]:
    """Token counts from the server's metrics: `computed` and `cached` of the DM's input, and `thinking`."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{url}/metrics")).text
    return {
        sample.labels["kind"]: sample.value
        for family in text_string_to_metric_families(text)
        if family.name in ("drr_dm_tokens", "drr_tokens")
        for sample in family.samples
        if sample.name.endswith("_total")
    }


async def measure(options: argparse.Namespace, cores: Cores | None) -> AsyncIterator[Measured]:
    """Run everything. Yields the figures of every load as plain data, and writes a picture of each."""
    rule = f"tokens:{options.step_tokens}"
    with tempfile.TemporaryDirectory() as folder:
        reasoner = Path(folder, "reasoner")
        pair, judges = PAIRS[options.size], options.judge or ["head"]
        parameters = {"reasoner": make_reasoner(reasoner, pair.reasoner, pair.dtype)}
        dms = {judge: Path(folder, judge) for judge in judges}
        for judge, dm in dms.items():
            made = (
                make_dm(dm, reasoner, rule, pair.dm)
                if judge == "text"
                else make_head(dm, reasoner, rule, pair.reasoner)
            )
            parameters[judge] = made
        torch.cuda.empty_cache()  # the models were made on the GPU, whose memory the servers need now
        memory = ["--kv-cache-memory-bytes", str(_KV_CACHE_BYTES)]
        drr_arguments = {judge: ["--dm", str(dm), "--drr-step-rule", rule] for judge, dm in dms.items()}
        if not on_cpu():  # all servers share one GPU
            memory = ["--gpu-memory-utilization", _GPU_SHARE, *memory]
            for judge in set(judges) & {"text"}:
                drr_arguments[judge] += ["--dm-gpu-memory-utilization", _GPU_DM_SHARE]
                drr_arguments[judge] += ["--dm-kv-cache-memory-bytes", str(_DM_KV_CACHE_BYTES)]
        stepwise = "text" if "text" in judges and not options.no_stepwise else None
        async with servers(str(reasoner), memory, drr_arguments, cores, stepwise=stepwise) as found:
            first = found.drr[judges[0]]
            targets = [
                Target(RAW, found.raw, str(reasoner)),
                *([] if options.no_off else [Target(OFF, first, str(reasoner), {**_OFF, **cache_salt("off")})]),
                *(
                    Target(judged_by(judge), url, str(reasoner), {**_JUDGED, **cache_salt("shadow")})
                    for judge, url in found.drr.items()
                ),
            ]
            if found.stepwise is not None:
                targets.append(Target(STEPWISE, found.stepwise, str(reasoner), _JUDGED))
            for requested_load in options.load or _LOADS:
                figures = await _measure_load(options, targets, *requested_load)
                yield {"parameters": parameters, "step_tokens": options.step_tokens, **figures}


def judged_by(judge: str) -> str:
    """The name of a server whose every step is judged so, in mode shadow."""
    return f"DRR, judged by {'a head' if judge == 'head' else 'a text classifier'}"


def _place(measured: Measured) -> Place:
    judges = sorted(set(measured["parameters"]) & set(JUDGES))
    return -measured["parameters"]["reasoner"], judges, measured["boundaries"], measured["clients"]


async def _measure_load(
    options: argparse.Namespace, targets: Sequence[Target], boundaries: int, clients: int, pairs: int | None = None
) -> dict[str, Any]:
    """Measure one load of traces with `boundaries` boundaries each; returns its figures as plain data."""
    pairs = pairs or options.pairs
    length = boundaries * options.step_tokens
    if boundaries > _SHORT:
        targets = [target for target in targets if target.name == RAW or "judged" in target.name]
    if clients < options.stepwise_from:
        targets = [target for target in targets if target.name != STEPWISE]
    judged = [target for target in targets if target.name in map(judged_by, JUDGES)]
    url = judged[-1].url
    if options.halfway:
        targets = [*targets, _halfway(judged[0], boundaries, options.step_tokens)]
    before = await counters(url)
    prompts = _prompts(max(_FEWEST, clients) * pairs, length)
    (runs,) = await load.measure(targets, prompts, [Load(clients=clients, ramp=_RAMP)], pairs)
    after = await counters(url)
    tokens = {kind: after.get(kind, 0.0) - before.get(kind, 0.0) for kind in ("computed", "cached", "thinking")}
    measured = load.results(LatencyGoals(), targets, [runs])
    load.show(Console(width=WIDTH), measured)
    found = {
        "boundaries": boundaries,
        "clients": clients,
        "pairs": pairs,
        **measured["loads"][0],
        "tokens": tokens,
        "dm_tokens_computed_per_token": tokens["computed"] / tokens["thinking"],
        "against_stepwise": _against_stepwise(runs),
    }
    draw(
        by_target(runs),
        found["ratios"],
        options.out / f"{boundaries}-boundaries-{clients}-clients.png",
        f"{boundaries} boundaries, {counted_clients(clients)}",
    )
    return found


def _halfway(shadow: Target, boundaries: int, step_tokens: int) -> Target:
    """A target on the server of `shadow` that stops after half of the boundaries, with an answer as long as a step."""
    steps = max(1, boundaries // 2)
    drr = {"mode": "auto", "threshold": 1.0, "max_steps": steps, "answer_tokens": step_tokens, "report": "summary"}
    body = {"drr": drr, "max_tokens": (steps + 1) * step_tokens, **cache_salt("half-way")}
    return replace(shadow, name=HALFWAY, body=body)


def _against_stepwise(runs: Sequence[Run]) -> list[float]:
    """The ratios of shadow's throughput to that of step by step, pair by pair; empty if the latter was left out."""
    measured = {
        name: [figures(run, LatencyGoals()) for run in target_runs] for name, target_runs in by_target(runs).items()
    }
    if STEPWISE not in measured:
        return []
    return list(ratios(measured[STEPWISE], measured[judged_by("text")])["tokens_per_second"]["pairs"])


def _prompts(count: int, length: int) -> list[dict[str, Any]]:
    """`count` different requests whose answers have `length` tokens."""
    return [
        {
            "messages": [{"role": "user", "content": question.text}],
            "max_tokens": length,
            "ignore_eos": True,
            "temperature": 1.0,
        }
        for question in load_questions(f"arithmetic:{count}:{length}", need_answer=False).questions
    ]


def section(measured: Sequence[Measured]) -> str:
    """The section of the page: a table for every pair of models."""
    pairs = itertools.groupby(measured, key=lambda result: result["parameters"])
    return "\n\n".join(_table(list(group)) for _, group in pairs)


def _table(measured: Sequence[Measured]) -> str:
    first = measured[0]
    parameters = first["parameters"]
    judges = [
        f"a {'head' if judge == 'head' else 'text classifier'} of {parameters[judge] / 1e6:.2f}"
        for judge in JUDGES
        if judge in parameters
    ]
    lines = [
        f"Random weights, a Reasoner of {parameters['reasoner'] / 1e6:.1f} and {' and '.join(judges)} "
        f"million parameters, steps of {first['step_tokens']} tokens, every step judged; {machine(first)}. Ratios "
        f"to raw vLLM's server, medians (least to greatest).",
        "",
        "| boundaries | clients | pairs | server | tokens a second | time to first token, p95 | gap, p95 | "
        "whole answer, p95 | CPU time stolen |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in measured:
        for name, compared in result["ratios"].items():
            cells = [cell(compared[key]) for key in ("tokens_per_second", "ttft_p95", "itl_p95", "e2e_p95")]
            lines.append(
                f"| {result['boundaries']} | {result['clients']} | {result['pairs']} | {name} | {' | '.join(cells)} "
                f"| {stolen(result)} |"
            )
    if not any(result["against_stepwise"] for result in measured):
        return "\n".join(lines)
    cost = "; ".join(
        f"{result['dm_tokens_computed_per_token']:.2f} at {result['boundaries']} boundaries and "
        f"{counted_clients(result['clients'])}"
        for result in measured
    )
    faster = "; ".join(
        f"{np.median(result['against_stepwise']):.2f} at {counted_clients(result['clients'])}"
        for result in measured
        if result["against_stepwise"]
    )
    lines += [
        "",
        f"Tokens that the DM computed per token of thinking: {cost}. DRR's throughput over that of judging step by "
        f"step: {faster}.",
    ]
    return "\n".join(lines)


def _load(text: str) -> tuple[int, ...]:
    numbers = tuple(map(int, text.split(":")))
    if len(numbers) not in (2, 3) or min(numbers) < 1:
        raise ValueError(text)
    return numbers


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--load",
        type=_load,
        action="append",
        metavar="BOUNDARIES:CLIENTS[:PAIRS]",
        help="repeatable (default: 10 boundaries for 1, 8, 16 and 48 clients, 100 for 4); traces of more than 20 "
        "boundaries leave out all but raw vLLM and mode shadow",
    )
    parser.add_argument("--size", choices=sorted(PAIRS), default="small", help="of the models (default small)")
    parser.add_argument("--step-tokens", type=int, default=40)
    parser.add_argument("--judge", choices=JUDGES, action="append", help="repeatable (default: head)")
    parser.add_argument("--no-off", action="store_true", help="leave mode off out")
    parser.add_argument("--no-stepwise", action="store_true", help="leave judging step by step out")
    parser.add_argument(
        "--stepwise-from", type=int, default=1, metavar="CLIENTS", help="leave step by step out where there are fewer"
    )
    parser.add_argument(
        "--halfway",
        action="store_true",
        help="also stop every answer after half of its steps: what that alone is worth",
    )
    return run(parser, "overhead", measure, _place, section, split=on_cpu())


if __name__ == "__main__":
    sys.exit(main())

"""Load test of an OpenAI-compatible server, or of two in turn (A B A B): latencies, throughput, goodput, and ratios.

    python -m benchmarks.load --url http://127.0.0.1:8000 --clients 16 --requests 200
    python -m benchmarks.load --url http://raw:8000 --against http://drr:8001 \\
        --against-body '{"drr": {"mode": "shadow"}}' --clients 1 --clients 16 --clients 48 --pairs 5 --out load
    python -m benchmarks.load --url ... --rate 4 --seconds 120 --good-ttft 0.5 --good-e2e 10
    python -m benchmarks.load --url ... --clients 8 --dataset-name sharegpt --dataset-path FILE --tokenizer MODEL

Prompts come from `--questions` (any source that `drr distill` takes) or from a dataset of `vllm bench serve`, with its
options (`--dataset-name` and others). Two servers are loaded in turn, never at once, so that both runs of a pair meet
the same machine; only ratios within a pair are compared. Both runs of a pair send the same requests, and the next pair
sends others, so that no server profits from its prefix cache of an earlier pair.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.load_client import Load, Run, Target, drive
from benchmarks.load_report import COMPARED, Figures, LatencyGoals, by_target, draw, figures, ratios
from drr.errors import InputError
from drr.failures import guarded
from drr.files import write_whole
from drr.progress import Progress
from drr.tasks.sources import load_questions

_WARM_UP, _WARM_UP_TOKENS = 4, 64
"""Number of requests that each server answers before anything is timed, and their `max_tokens`. The first requests are
slow, because servers prepare some things only when they are needed."""


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this command, and the other arguments, which are for vLLM's datasets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for prefix, what in (("", "the server"), ("against-", "a second one, compared with the first")):
        name = prefix.rstrip("-") if prefix else "url"
        parser.add_argument(f"--{name}", metavar="URL", required=not prefix, help=f"{what}, without /v1")
        parser.add_argument(f"--{prefix}name", help="for tables and pictures")
        parser.add_argument(f"--{prefix}model", help="model name; the first that the server lists")
        parser.add_argument(
            f"--{prefix}body", type=json.loads, default={}, metavar="JSON", help="added to every request"
        )
    parser.add_argument("--clients", type=int, action="append", default=[], help="closed loop; repeat for more loads")
    parser.add_argument("--rate", type=float, action="append", default=[], help="Poisson arrivals a second; repeatable")
    parser.add_argument(
        "--ramp", type=float, default=0, metavar="SECONDS", help="between the beginnings of two clients (default 0)"
    )
    parser.add_argument("--requests", type=int, default=200, help="a run (default 200)")
    parser.add_argument("--seconds", type=float, default=300, help="after these no request is begun (default 300)")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each server (default 5)")
    parser.add_argument("--questions", default="arithmetic:1000", help="a source as drr distill takes it")
    parser.add_argument("--max-tokens", type=int, help="of an answer")
    parser.add_argument(
        "--exactly", action="store_true", help="every answer has --max-tokens tokens (vLLM's ignore_eos)"
    )
    parser.add_argument("--temperature", type=float, help="the server's own if not given")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals, requests and vLLM's datasets")
    parser.add_argument(
        "--seeded",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="send a seed with every request; seeded sampling is slower",
    )
    for name, what in (("ttft", "first token"), ("itl", "mean gap between tokens"), ("e2e", "whole answer")):
        parser.add_argument(f"--good-{name}", type=float, metavar="SECONDS", help=f"a good request keeps this: {what}")
    parser.add_argument("--dataset-name", help="take prompts from this dataset of vllm bench serve instead")
    parser.add_argument("--tokenizer", help="for vLLM's datasets")
    parser.add_argument("--out", type=Path, default=Path("load"), help="folder for results.json and pictures")
    options, rest = parser.parse_known_args(argv)
    if rest and options.dataset_name is None:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options, rest


def requests_of(options: argparse.Namespace, rest: Sequence[str]) -> list[dict[str, Any]]:
    """The bodies of the requests of all pairs, equally many for each pair, without `model` and `stream`."""
    wanted = options.requests * options.pairs
    if options.dataset_name is not None:
        found = _vllm_dataset(options, rest, wanted)
    else:
        questions = load_questions(options.questions, need_answer=False).questions
        found = [{"messages": [{"role": "user", "content": question.text}]} for question in questions]
    prompts = [found[number % len(found)] for number in range(wanted)]
    common: dict[str, Any] = {}
    if options.temperature is not None:
        common["temperature"] = options.temperature
    if options.max_tokens is not None:
        common["max_tokens"] = options.max_tokens
    if options.exactly:
        common["ignore_eos"] = True
    seeds = [{"seed": options.seed + number} if options.seeded else {} for number in range(wanted)]
    return [{**prompt, **seed, **common} for prompt, seed in zip(prompts, seeds, strict=True)]


def _vllm_dataset(options: argparse.Namespace, rest: Sequence[str], wanted: int) -> list[dict[str, Any]]:
    from vllm.benchmarks.datasets import add_dataset_parser, get_samples
    from vllm.tokenizers import get_tokenizer
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    if options.tokenizer is None:
        raise InputError("--tokenizer", "vLLM's datasets need the model's tokenizer")
    parser = FlexibleArgumentParser()
    add_dataset_parser(parser)
    dataset_arguments = [
        "--dataset-name",
        options.dataset_name,
        "--num-prompts",
        str(wanted),
        "--seed",
        str(options.seed),
    ]
    arguments = parser.parse_args([*dataset_arguments, "--skip-chat-template", *rest])
    arguments.backend = "openai-chat"
    samples = get_samples(arguments, get_tokenizer(options.tokenizer))
    return [
        {
            "messages": sample.chat_messages or [{"role": "user", "content": sample.prompt}],
            "max_tokens": sample.expected_output_len,
            **(sample.request_overrides or {}),
        }
        for sample in samples
    ]


async def measure(
    targets: Sequence[Target],
    prompts: Sequence[Mapping[str, Any]],
    loads: Sequence[Load],
    pairs: int,
    *,
    keep_answers: bool = False,
) -> list[list[Run]]:
    """The runs of every load, in the order in which they were made: each target in turn, `pairs` times, each time with
    the next of `pairs` equal parts of `prompts`. InputError if a server does not answer the warm-up."""
    share = len(prompts) // pairs
    first = [_shortened(prompt) for prompt in prompts[:_WARM_UP]]
    for target in targets:
        warm = await drive(target, first, Load(clients=_WARM_UP, seconds=120))
        if failed := next((sample.error for sample in warm.samples if sample.error), None):
            raise InputError(target.url, failed)
    found = []
    for load in loads:
        runs: list[Run] = []
        with Progress(load.name, share * pairs * len(targets)) as progress:
            for pair in range(pairs):
                batch = prompts[pair * share : (pair + 1) * share]
                for target in targets:
                    done = partial(progress.advance, target.name)
                    runs.append(await drive(target, batch, load, done, keep_answers=keep_answers))
        found.append(runs)
    return found


def _shortened(prompt: Mapping[str, Any]) -> dict[str, Any]:
    if "max_tokens" not in prompt:
        return dict(prompt)
    return {**prompt, "max_tokens": min(prompt["max_tokens"], _WARM_UP_TOKENS)}


def results(goals: LatencyGoals, targets: Sequence[Target], runs: Sequence[Sequence[Run]]) -> dict[str, Any]:
    """Everything that was measured, as plain data, with the ratios of every later target to the first."""
    loads = []
    for load_runs in runs:
        measured = {name: [figures(run, goals) for run in each] for name, each in by_target(load_runs).items()}
        first = measured[targets[0].name]
        compared = {target.name: ratios(first, measured[target.name]) for target in targets[1:]}
        loads.append({"load": load_runs[0].load, "runs": measured, "ratios": compared})
    return {"targets": [asdict(target) for target in targets], "good": asdict(goals), "loads": loads}


def show(console: Console, measured: Mapping[str, Any]) -> None:
    """Print a table for every load: medians over the runs, and the ratios with their spread."""
    names = [target["name"] for target in measured["targets"]]
    for load in measured["loads"]:
        table = Table("", *names, *(f"{name} / {names[0]}" for name in names[1:]), title=load["load"])
        for figure in ("failed", "stolen", *COMPARED):
            cells = [_median(load["runs"][name], figure) for name in names]
            cells += [_spread(load["ratios"][name].get(figure)) for name in names[1:]]
            table.add_row(_LABELS.get(figure, figure.replace("_", " ")), *cells)
        console.print(table)


def _spread(ratio: Mapping[str, Any] | None) -> str:
    return "" if ratio is None else f"{ratio['median']:.3f} [{ratio['least']:.3f}, {ratio['greatest']:.3f}]"


_LABELS = {
    "stolen": "share of CPU time stolen",
    "requests_per_second": "requests a second",
    "tokens_per_second": "tokens a second",
    "goodput": "good requests a second",
    **{
        f"{name}_{quantile}": f"{label} {quantile}, s"
        for name, label in (("ttft", "first token"), ("itl", "gap"), ("e2e", "whole answer"))
        for quantile in ("p50", "p95")
    },
}


def _median(runs: Sequence[Figures], figure: str) -> str:
    values = sorted(run[figure] for run in runs)
    return f"{values[len(values) // 2]:.4g}"


async def _target(url: str, name: str | None, model: str | None, body: Mapping[str, Any]) -> Target:
    url = url.rstrip("/").removesuffix("/v1")
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        answer = (await http.get("/v1/models")).raise_for_status()
    try:
        served = [str(card["id"]) for card in answer.json()["data"]]
        return Target(name or url, url, model or served[0], body)
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(url, "does not answer as an OpenAI-compatible server") from error


async def _main(options: argparse.Namespace, rest: Sequence[str]) -> None:
    loads = [Load(clients=count, ramp=options.ramp, seconds=options.seconds) for count in options.clients]
    loads += [Load(rate=rate, seconds=options.seconds, seed=options.seed) for rate in options.rate]
    if not loads:
        raise InputError("--clients", "give --clients or --rate")
    prompts = requests_of(options, rest)
    targets = [await _target(options.url, options.name, options.model, options.body)]
    if options.against:
        targets.append(
            await _target(options.against, options.against_name, options.against_model, options.against_body)
        )
        if targets[0].name == targets[1].name:
            raise InputError("--against-name", "two servers need two names")
    runs = await measure(targets, prompts, loads, options.pairs)
    goals = LatencyGoals(options.good_ttft, options.good_itl, options.good_e2e)
    measured = results(goals, targets, runs)
    options.out.mkdir(parents=True, exist_ok=True)
    write_whole(options.out / "results.json", json.dumps(measured, indent=1) + "\n")
    for number, (load_runs, load) in enumerate(zip(runs, measured["loads"], strict=True)):
        draw(by_target(load_runs), load["ratios"], options.out / f"load-{number}.png", load["load"])
    show(Console(), measured)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options, rest = parse(sys.argv[1:] if argv is None else argv)
    return guarded("benchmarks.load", lambda: uvloop.run(_main(options, rest)))


if __name__ == "__main__":
    sys.exit(main())

"""How much time stopping early saves: the reference pair compared with raw vLLM's own server, under load.

    python -m benchmarks.wall_clock
    python -m benchmarks.wall_clock --stream-interval 1 --mode auto
    python -m benchmarks.wall_clock --clients 1 --questions 6 --mode off --mode shadow
    python -m benchmarks.wall_clock --report      writes the recorded results into the page, measures nothing

The easy and hard reference test questions are answered at the Reasoner's default temperature, at their natural length.
The same requests with the same seeds go, in turn and never at once, to raw vLLM and to DRR in every `--mode`; every
pair has other seeds. Answers are graded after the clock has stopped. `--stream-interval` is vLLM's option for the
tokens per chunk of a stream, the same on all servers; its default is that of the reference pair. A run replaces the
results in `--out` with the same number of clients and questions and the same interval, and leaves the others.
"""

import argparse
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import load
from benchmarks.beside_vllm import RAW, WIDTH, Cores, Measured, Place, cache_salt, cell, machine, run, servers, stolen
from benchmarks.load_client import Load, Run, Target, counted_clients
from benchmarks.load_report import LatencyGoals, by_target, draw, spread
from drr import reference
from drr.tasks import Question, Split
from drr.tasks.grading import is_correct
from drr.tasks.reference_suite import reference_questions

_BOOTSTRAPS = 10_000
_SEEDS_APART = 10_000
_MODES = ("shadow", "auto")


async def measure(options: argparse.Namespace, cores: Cores | None) -> AsyncIterator[Measured]:
    """Run everything. Yields the figures as plain data, and writes a picture."""
    questions = reference_questions(Split.TEST, levels=("easy", "hard"))[: options.questions]
    reasoner, dms = str(reference.reasoner_folder()), options.dm or [reference.dm_folder(reference.SERVED_DM)]
    prompts = [
        {"messages": [{"role": "user", "content": question.text}], "seed": pair * _SEEDS_APART + number}
        for pair in range(options.pairs)
        for number, question in enumerate(questions)
    ]
    interval = options.stream_interval
    arguments = ["--stream-interval", str(interval)]
    async with servers(reasoner, arguments, {dm.name: ["--dm", str(dm)] for dm in dms}, cores) as found:
        targets = [Target(RAW, found.raw, reasoner)]
        targets += [
            Target(_named(mode, dm, found.drr), url, reasoner, {"drr": {"mode": mode}, **cache_salt(mode)})
            for dm, url in found.drr.items()
            for mode in options.mode or _MODES
        ]
        loads = [Load(clients=options.clients)]
        (runs,) = await load.measure(targets, prompts, loads, options.pairs, keep_answers=True)
    measured = load.results(LatencyGoals(), targets, [runs])
    load.show(Console(width=WIDTH), measured)
    by_server = by_target(runs)
    title = counted_clients(options.clients) + (f", chunks of {interval}" if interval > 1 else "")
    name = f"{options.clients}-clients-{len(questions)}-questions-chunks-of-{interval}.png"
    draw(by_server, measured["loads"][0]["ratios"], options.out / name, title)
    yield {
        "questions": len(questions),
        "clients": options.clients,
        "stream_interval": interval,
        "pairs": options.pairs,
        "servers": {name: compared(target_runs, by_server[RAW], questions) for name, target_runs in by_server.items()},
        **measured["loads"][0],
    }


def _named(mode: str, dm: str, dms: Collection[str]) -> str:
    return f"DRR, {mode}" if len(dms) == 1 else f"DRR, {dm}, {mode}"


def _place(measured: Measured) -> Place:
    return -measured["clients"], measured["stream_interval"], -measured["questions"]


def compared(runs: Sequence[Run], raw: Sequence[Run], questions: Sequence[Question]) -> dict[str, Any]:
    """Time, accuracy and tokens of a server's runs compared with those of raw vLLM, pair by pair.

    The interval of the gain in accuracy comes from a bootstrap over questions that keeps all pairs of a question
    together.
    """
    right, raw_right = _right(runs, questions), _right(raw, questions)
    tokens, raw_tokens = (
        sum(sample.tokens for run in server_runs for sample in run.samples) for server_runs in (runs, raw)
    )
    gain = (right - raw_right).mean(0)
    picks = np.random.default_rng(0).integers(0, len(gain), (_BOOTSTRAPS, len(gain)))
    faster = [theirs.seconds / ours.seconds for ours, theirs in zip(runs, raw, strict=True)]
    return {
        "accuracy": float(right.mean()),
        "gain_points": 100 * float(gain.mean()),
        "gain_interval": [100 * float(bound) for bound in np.quantile(gain[picks].mean(1), (0.025, 0.975))],
        "tokens": tokens / right.size,
        "raw_tokens_per_token": raw_tokens / tokens,
        "faster": spread(faster),
    }


def _right(runs: Sequence[Run], questions: Sequence[Question]) -> Any:
    """[pairs, questions] 1.0 where the answer is right, else 0.0."""
    return np.asarray(
        [
            [
                float(is_correct(sample.answer, question.answer))
                for sample, question in zip(run.samples, questions, strict=True)
            ]
            for run in runs
        ]
    )


def section(measured: Sequence[Measured]) -> str:
    """The section of the page."""
    return "\n\n".join(map(_table, measured))


def _table(results: Measured) -> str:
    lines = [
        f"{results['questions']} reference test questions, {counted_clients(results['clients'])}, all servers with "
        f"`--stream-interval {results['stream_interval']}`; "
        f"{machine(results)}; medians of "
        f"{results['pairs']} pairs with raw vLLM's server (least to greatest); CPU time stolen: {stolen(results)}.",
        "",
        "| server | times as fast | accuracy, against raw vLLM in points | tokens a question | what the tokens alone "
        "would give | time to first token, p95 | whole answer, p95 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, server in results["servers"].items():
        low, high = server["gain_interval"]
        ratios = results["ratios"].get(name)
        latencies = [cell(ratios[key]) if ratios else "1" for key in ("ttft_p95", "e2e_p95")]
        lines.append(
            f"| {name} | {cell(server['faster'])} | {100 * server['accuracy']:.1f} %, {server['gain_points']:+.1f} "
            f"[{low:+.1f}, {high:+.1f}] | {server['tokens']:.1f} | {server['raw_tokens_per_token']:.2f} "
            f"| {' | '.join(latencies)} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument(
        "--dm", type=Path, action="append", metavar="FOLDER", help="repeatable (default: that of the reference pair)"
    )
    parser.add_argument(
        "--stream-interval", type=int, default=reference.STREAM_INTERVAL, metavar="TOKENS", help="of all servers"
    )
    parser.add_argument(
        "--mode", choices=("off", "shadow", "auto"), action="append", help="repeatable (default: shadow and auto)"
    )
    return run(parser, "wall clock", measure, _place, section, split=False)


if __name__ == "__main__":
    sys.exit(main())

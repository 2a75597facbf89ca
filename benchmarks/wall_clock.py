"""What stopping early is worth on the clock: the reference pair beside raw vLLM's own server, under load.

    python -m benchmarks.wall_clock
    python -m benchmarks.wall_clock --stream-interval 1 --mode auto
    python -m benchmarks.wall_clock --clients 1 --questions 6 --mode off --mode shadow
    python -m benchmarks.wall_clock --report      writes the recorded results into the README, measures nothing

The easy and hard reference test questions, answers of their natural length at the Reasoner's own temperature. In turn,
never at once, the same requests with the same seeds go to raw vLLM and to DRR in every `--mode`, every pair with seeds
of its own. The answers are graded when the clock has stopped. `--stream-interval` is vLLM's own option: tokens per
chunk of a stream, the same on all servers; the one that the reference pair is served with unless given. A run replaces
what `--out` holds for as many clients and questions and the same interval, and leaves the rest.
"""

import argparse
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import load
from benchmarks.beside_vllm import RAW, WIDTH, Cores, Measured, Place, cell, machine, run, salt, servers, stolen
from benchmarks.load_client import Load, Run, Target, counted_clients
from benchmarks.load_report import Targets, by_target, draw, spread
from drr import reference
from drr.tasks import Question, Split
from drr.tasks.grading import is_correct
from drr.tasks.reference_suite import reference_questions

_BOOTSTRAPS = 10_000
_SEEDS_APART = 10_000
_MODES = ("shadow", "auto")


async def measure(options: argparse.Namespace, cores: Cores | None) -> AsyncIterator[Measured]:
    """Run everything; the figures as plain data, a picture beside them."""
    questions = reference_questions(Split.TEST, levels=("easy", "hard"))[: options.questions]
    reasoner, dm = str(reference.reasoner_folder()), str(reference.dm_folder())
    prompts = [
        {"messages": [{"role": "user", "content": question.text}], "seed": pair * _SEEDS_APART + number}
        for pair in range(options.pairs)
        for number, question in enumerate(questions)
    ]
    interval = options.stream_interval
    arguments = ["--stream-interval", str(interval)]
    async with servers(reasoner, arguments, ["--dm", dm], cores, stepwise=False) as found:
        targets = [Target(RAW, found.raw, reasoner)]
        targets += [
            Target(f"DRR, {mode}", found.drr, reasoner, {"drr": {"mode": mode}, **salt(mode)})
            for mode in options.mode or _MODES
        ]
        loads = [Load(clients=options.clients)]
        (runs,) = await load.measure(targets, prompts, loads, options.pairs, keep_answers=True)
    measured = load.results(Targets(), targets, [runs])
    load.show(Console(width=WIDTH), measured)
    each = by_target(runs)
    title = counted_clients(options.clients) + (f", chunks of {interval}" if interval > 1 else "")
    name = f"{options.clients}-clients-{len(questions)}-questions-chunks-of-{interval}.png"
    draw(each, measured["loads"][0]["ratios"], options.out / name, title)
    yield {
        "questions": len(questions),
        "clients": options.clients,
        "stream_interval": interval,
        "pairs": options.pairs,
        "servers": {name: compared(own, each[RAW], questions) for name, own in each.items()},
        **measured["loads"][0],
    }


def _place(measured: Measured) -> Place:
    return -measured["clients"], measured["stream_interval"], -measured["questions"]


def compared(runs: Sequence[Run], raw: Sequence[Run], questions: Sequence[Question]) -> dict[str, Any]:
    """Seconds, accuracy and tokens of a server's runs against those of raw vLLM, pair by pair.

    The interval of the accuracy is a bootstrap over questions, all pairs of a question together.
    """
    right, raw_right = _right(runs, questions), _right(raw, questions)
    tokens, raw_tokens = (sum(sample.tokens for run in own for sample in run.samples) for own in (runs, raw))
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
    """[pairs, questions] 1.0 where the answer is right."""
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
    """The results as the README shows them."""
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
    for name, own in results["servers"].items():
        low, high = own["gain_interval"]
        ratios = results["ratios"].get(name)
        latencies = [cell(ratios[key]) if ratios else "1" for key in ("ttft_p95", "e2e_p95")]
        lines.append(
            f"| {name} | {cell(own['faster'])} | {100 * own['accuracy']:.1f} %, {own['gain_points']:+.1f} [{low:+.1f}, "
            f"{high:+.1f}] | {own['tokens']:.1f} | {own['raw_tokens_per_token']:.2f} | {' | '.join(latencies)} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument(
        "--stream-interval", type=int, default=reference.STREAM_INTERVAL, metavar="TOKENS", help="of all servers"
    )
    parser.add_argument(
        "--mode", choices=("off", "shadow", "auto"), action="append", help="repeatable (default: shadow and auto)"
    )
    return run(parser, "wall clock", measure, _place, section, split=False)


if __name__ == "__main__":
    sys.exit(main())

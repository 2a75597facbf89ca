"""What stopping early saves and what it costs: accuracy and tokens of several strategies, over HTTP.

The easy and hard reference test questions go through `/v1/chat/completions`, one sample each; a question has the same
seed under every strategy. Every generated token counts, also discarded and injected ones. The fixed thinking budget is
the one that spends as many tokens as `auto` on the validation questions; it is found by bisection. The DM's rules were
chosen and certified on other questions when the DM was made. `off` and `auto` run twice, alternating, to compare their
wall-clock times. Certified risks are included if the server's DM has them.

    python -m benchmarks.savings [--url http://host:port] [--questions 100] [--out benchmarks/results/savings.json]
    python -m benchmarks.savings --page docs/evidence-reference.md    writes what is recorded, measures nothing
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.launch import served
from benchmarks.pages import REFERENCE_PAGE, write_section
from drr.failures import guarded
from drr.files import read_json_object
from drr.loop.stated import stated_answer
from drr.progress import Progress
from drr.reference import MODEL_NAME
from drr.tasks import Question, Split
from drr.tasks.grading import is_correct
from drr.tasks.reference_suite import reference_questions

_BOOTSTRAPS = 10_000
_BUDGET_SEARCH = (1, 512)
_RISKS = (0.01, 0.02, 0.05)


@dataclass(frozen=True, slots=True)
class Answer:
    """One graded response. `tokens` counts all tokens: generated, discarded and injected."""

    right: bool
    tokens: int
    thinking_tokens: int
    stop_cause: str
    reasoning: str
    step_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One strategy on one set of questions."""

    name: str
    answers: list[Answer]
    seconds: float

    @property
    def accuracy(self) -> float:
        return float(np.mean([answer.right for answer in self.answers]))

    @property
    def tokens(self) -> float:
        return float(np.mean([answer.tokens for answer in self.answers]))


class Bench:
    """Sends questions to a server, `concurrency` at a time."""

    def __init__(self, url: str, model: str, concurrency: int) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=600.0)
        self._model, self._slots = model, asyncio.Semaphore(concurrency)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def certified(self, risk: float) -> bool:
        """Whether the server's DM has a rule for this risk."""
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": "What is 1 + 1?"}],
            "max_tokens": 16,
            "drr": {"mode": "stop", "max_lost_correct": risk},
        }
        response = await self._client.post("/v1/chat/completions", json=body)
        return response.status_code == 200

    async def run(
        self,
        name: str,
        questions: Sequence[Question],
        drr: dict[str, Any] | Callable[[int], dict[str, Any]],
        **extra: Any,
    ) -> Run:
        """All questions with this `drr` object, or with the one that `drr` returns for a question's index."""
        started = time.monotonic()
        with Progress(name, len(questions)) as progress:

            async def ask(index: int, question: Question) -> Answer:
                drr_fields = drr(index) if callable(drr) else drr
                answer = await self._ask(question, {"drr": drr_fields, "seed": index, **extra})
                progress.advance()
                return answer

            answers = await asyncio.gather(*(ask(index, question) for index, question in enumerate(questions)))
        return Run(name, list(answers), time.monotonic() - started)

    async def _ask(self, question: Question, fields: dict[str, Any]) -> Answer:
        body = {"model": self._model, "messages": [{"role": "user", "content": question.text}], **fields}
        async with self._slots:
            response = await self._client.post("/v1/chat/completions", json=body)
        if response.status_code != 200:
            raise RuntimeError(f"HTTP {response.status_code}: {response.text}")
        data = response.json()
        message, drr = data["choices"][0]["message"], data["drr"]
        return Answer(
            right=is_correct(message["content"] or "", question.answer),
            tokens=data["usage"]["completion_tokens"] + drr["injected_tokens"],
            thinking_tokens=drr["thinking_tokens"],
            stop_cause=drr["stop_cause"],
            reasoning=message.get("reasoning") or "",
            step_tokens=tuple(step["tokens"] for step in drr.get("steps", ())),
        )


async def equal_budget(bench: Bench, questions: Sequence[Question], tokens: float) -> int:
    """The smallest thinking budget that spends more than `tokens` per question on these questions."""
    low, high = _BUDGET_SEARCH
    while high - low > 1:
        middle = (low + high) // 2
        run = await bench.run(f"budget {middle} (search)", questions, {"mode": "off", "max_thinking_tokens": middle})
        low, high = (middle, high) if run.tokens <= tokens else (low, middle)
    return high


def first_statement(answer: Answer) -> int | None:
    """Thinking tokens up to the end of the step that first states an answer; None if none does."""
    texts = answer.reasoning.split("\n\n")
    for index, tokens in enumerate(answer.step_tokens):
        if index < len(texts) and stated_answer(texts[index] + "\n\n") is not None and tokens:
            return sum(answer.step_tokens[: index + 1])
    return None


def compared(run: Run, base: Run, rng: np.random.Generator) -> dict[str, Any]:
    """Figures of a run compared with the base run, with 95 % intervals from a paired bootstrap over questions."""
    right = np.asarray([answer.right for answer in run.answers], dtype=float)
    base_right = np.asarray([answer.right for answer in base.answers], dtype=float)
    tokens = np.asarray([answer.tokens for answer in run.answers], dtype=float)
    base_tokens = np.asarray([answer.tokens for answer in base.answers], dtype=float)
    picks = rng.integers(0, len(right), (_BOOTSTRAPS, len(right)))
    gain = (right - base_right)[picks].mean(1)
    saved = 1 - tokens[picks].mean(1) / base_tokens[picks].mean(1)
    causes = sorted({answer.stop_cause for answer in run.answers})
    return {
        "name": run.name,
        "accuracy": round(run.accuracy, 4),
        "tokens": round(run.tokens, 1),
        "total_tokens": int(tokens.sum()),
        "thinking_tokens": round(float(np.mean([answer.thinking_tokens for answer in run.answers])), 1),
        "seconds": round(run.seconds, 1),
        "accuracy_gain_points": round(100 * float((right - base_right).mean()), 2),
        "accuracy_gain_interval": [round(100 * float(q), 2) for q in np.quantile(gain, (0.025, 0.975))],
        "tokens_saved": round(1 - float(tokens.sum() / base_tokens.sum()), 4),
        "tokens_saved_interval": [round(float(q), 4) for q in np.quantile(saved, (0.025, 0.975))],
        "lost_correct": int(((base_right == 1) & (right == 0)).sum()),
        "lost_correct_rate": round(
            float(((base_right == 1) & (right == 0)).sum() / max(1, (base_right == 1).sum())), 4
        ),
        "gained_correct": int(((base_right == 0) & (right == 1)).sum()),
        "stop_causes": {cause: sum(answer.stop_cause == cause for answer in run.answers) for cause in causes},
    }


async def measure(url: str, count: int | None, concurrency: int, model: str) -> dict[str, Any]:
    """Run all strategies; returns the results as plain data."""
    bench = Bench(url, model, concurrency)
    async with contextlib.aclosing(bench):
        test, validation = (
            reference_questions(split, levels=("easy", "hard"))[:count] for split in (Split.TEST, Split.VALIDATION)
        )
        await bench.run("warm-up", test[:concurrency], {"mode": "off"})
        auto_validation = await bench.run("auto (validation)", validation, {"mode": "auto"})
        budget = await equal_budget(bench, validation, auto_validation.tokens)
        off = await bench.run("full thinking (off)", test, {"mode": "off"})
        auto = await bench.run("DRR (auto)", test, {"mode": "auto"})
        off_again = await bench.run("full thinking (off), again", test, {"mode": "off"})
        auto_again = await bench.run("DRR (auto), again", test, {"mode": "auto"})
        at_risk = [
            await bench.run(f"DRR, at most {100 * risk:g} % lost", test, {"mode": "auto", "max_lost_correct": risk})
            for risk in _RISKS
            if await bench.certified(risk)
        ]
        fixed = await bench.run(f"fixed budget {budget}", test, {"mode": "off", "max_thinking_tokens": budget})
        shadow = await bench.run("shadow", test, {"mode": "shadow"})
        statements = [first_statement(answer) for answer in shadow.answers]

        def stop_at_statement(index: int) -> dict[str, Any]:
            limit = statements[index]
            return {"mode": "off"} if limit is None else {"mode": "off", "max_thinking_tokens": limit}

        stated = await bench.run("stop at the first stated answer", test, stop_at_statement)
        greedy = await bench.run("greedy, full thinking", test, {"mode": "off"}, temperature=0.0)
        greedy_auto = await bench.run("greedy, DRR (auto)", test, {"mode": "auto"}, temperature=0.0)
    rng = np.random.default_rng(0)
    runs = [off, auto, *at_risk, off_again, auto_again, fixed, shadow, stated, greedy, greedy_auto]
    return {
        "questions": len(test),
        "concurrency": concurrency,
        "budget": budget,
        "validation": {"auto_tokens": round(auto_validation.tokens, 1), "auto_accuracy": auto_validation.accuracy},
        "auto_against_budget": compared(auto, fixed, rng),
        "wall_clock_ratio": round((off.seconds + off_again.seconds) / (auto.seconds + auto_again.seconds), 3),
        "runs": [compared(run, off, rng) for run in runs],
        "answers": {run.name: [_slim(answer) for answer in run.answers] for run in runs},
    }


def _slim(answer: Answer) -> dict[str, Any]:
    return {key: value for key, value in asdict(answer).items() if key not in ("reasoning", "step_tokens")}


def show(results: dict[str, Any]) -> None:
    """Print the table."""
    console = Console(width=130)
    table = Table(title=f"{results['questions']} test questions, {results['concurrency']} at once")
    for column in ("strategy", "accuracy", "against off, points", "tokens", "saved", "seconds", "lost", "gained"):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    for run in results["runs"]:
        low, high = run["accuracy_gain_interval"]
        table.add_row(
            run["name"],
            f"{100 * run['accuracy']:.1f} %",
            f"{run['accuracy_gain_points']:+.1f} [{low:+.1f}, {high:+.1f}]",
            f"{run['tokens']:.1f}",
            f"{100 * run['tokens_saved']:.1f} %",
            f"{run['seconds']:.1f}",
            str(run["lost_correct"]),
            str(run["gained_correct"]),
        )
    console.print(table)
    against = results["auto_against_budget"]
    low, high = against["accuracy_gain_interval"]
    console.print(
        f"DRR against the fixed budget of {results['budget']} tokens: {against['accuracy_gain_points']:+.1f} points "
        f"[{low:+.1f}, {high:+.1f}] at {100 * -against['tokens_saved']:+.1f} % tokens. "
        f"Full thinking took {results['wall_clock_ratio']} times as long as DRR."
    )


def markdown(results: dict[str, Any]) -> str:
    """The section of the page."""
    lines = [
        f"{results['questions']} test questions through the server, {results['concurrency']} at once; every generated "
        "token counts; 95 % intervals from a paired bootstrap over the questions.",
        "",
        "| strategy | accuracy | against full thinking, points | tokens per question | tokens saved | seconds | lost "
        "| gained |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in results["runs"]:
        low, high = run["accuracy_gain_interval"]
        lines.append(
            f"| {run['name']} | {100 * run['accuracy']:.1f} % | {run['accuracy_gain_points']:+.1f} [{low:+.1f}, "
            f"{high:+.1f}] | {run['tokens']:.1f} | {100 * run['tokens_saved']:.1f} % | {run['seconds']:.1f} "
            f"| {run['lost_correct']} | {run['gained_correct']} |"
        )
    against = results["auto_against_budget"]
    low, high = against["accuracy_gain_interval"]
    lines += [
        "",
        "*Lost*: full thinking was right, the strategy wrong; *gained*: the reverse. Against the fixed budget of "
        f"{results['budget']} tokens (chosen on validation questions to spend as much) DRR is "
        f"{against['accuracy_gain_points']:+.1f} points [{low:+.1f}, {high:+.1f}]. Full thinking took "
        f"{results['wall_clock_ratio']} times as long as DRR.",
    ]
    return "\n".join(lines)


async def _main(options: argparse.Namespace) -> None:
    async with contextlib.AsyncExitStack() as stack:
        url = options.url or await stack.enter_async_context(served(["--disable-uvicorn-access-log"]))
        results = await measure(url, options.questions, options.concurrency, options.model)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


def run(options: argparse.Namespace) -> None:
    """Measure, or write what was measured into a file."""
    if options.page:
        results = read_json_object(options.out)
        write_section(
            options.page, "savings", f"python -m benchmarks.savings --page {REFERENCE_PAGE}", markdown(results)
        )
    else:
        asyncio.run(_main(options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running server; without it one is started on the reference models")
    parser.add_argument("--model", default=MODEL_NAME)
    parser.add_argument("--questions", type=int, help="only the first so many questions of each split")
    parser.add_argument("--concurrency", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/savings.json"))
    parser.add_argument("--page", type=Path, help="only write the results recorded in --out into this file")
    sys.exit(guarded("benchmarks.savings", partial(run, parser.parse_args())))

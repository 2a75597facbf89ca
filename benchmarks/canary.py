"""Whether canaries tell the truth: their estimates of lost answers and saved tokens, which see no gold answer, beside
what grading says, over HTTP.

    python -m benchmarks.canary --questions 2000 --seconds 150     asks, and goes on where it stopped the last time
    python -m benchmarks.canary --report                           reads what has been asked

One server, on which every response may be a canary (`--drr-canary-share 1`). Every question is asked twice with the
same seed: by default, so that it is a canary and thinks in full, and in mode `auto`, which is never one and stops. Both
answers are graded. Questions come in groups; what the server's metrics have grown by after a group are its canaries'
sums. Groups are resampled with replacement, and each resample's estimates (`drr.certify.canary`) are held against the
truth over all questions.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.launch import served
from drr.certify.canary import SAVING_REACH, CanarySums, Interval, changed, lost_correct, saving, share_of
from drr.checks import check_range
from drr.cli.live_metrics import LiveMetrics
from drr.errors import InputError
from drr.failures import guarded
from drr.progress import Progress
from drr.reference import MODEL_NAME
from drr.tasks import Question, Split
from drr.tasks.grading import is_correct
from drr.tasks.reference_suite import LEVELS, reference_questions

OUT = Path("benchmarks/results/canary.json")
RESAMPLES = 100
_LEVELS = ("easy", "hard")
_NAMES = ("dm", "default")

_RESIDUAL = 0.31
"""Of the reference questions: the spread of what a question takes beyond the usual saving, against the mean of full
thinking."""


@dataclass(frozen=True, slots=True)
class Group:
    """Questions that were asked together: what the canaries of the group add up to, and what grading says. `lost` are
    the questions that the full answer got right and the stopped one wrong."""

    questions: int
    sums: dict[str, float]
    right: int
    stopped_right: int
    lost: int
    full_tokens: int
    stopped_tokens: int


@dataclass(frozen=True, slots=True)
class Truth:
    """What grading says of many groups."""

    lost_correct: float
    saving: float

    @classmethod
    def of(cls, groups: Sequence[Group]) -> "Truth":
        right = sum(group.right for group in groups)
        tokens = sum(group.stopped_tokens for group in groups) / sum(group.full_tokens for group in groups)
        return cls(sum(group.lost for group in groups) / right, 1 - tokens)


class Asking:
    """Asks one server; canaries are over when its metrics say so."""

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=600.0)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def group(self, questions: Sequence[Question], first: int) -> Group:
        """All questions of a group, both ways; the first has the number `first`."""
        before = await self._sums()
        pairs = await asyncio.gather(*(self._both(question, first + place) for place, question in enumerate(questions)))
        sums = await self._settled(before, len(questions))
        return Group(
            len(questions),
            asdict(sums),
            right=sum(full for (full, _), _ in pairs),
            stopped_right=sum(stopped for _, (stopped, _) in pairs),
            lost=sum(full and not stopped for (full, _), (stopped, _) in pairs),
            full_tokens=sum(tokens for (_, tokens), _ in pairs),
            stopped_tokens=sum(tokens for _, (_, tokens) in pairs),
        )

    async def _both(self, question: Question, seed: int) -> tuple[tuple[bool, int], tuple[bool, int]]:
        full, stopped = await asyncio.gather(self._ask(question, seed), self._ask(question, seed, {"mode": "auto"}))
        assert full[0], "every response is a canary that may be one"
        assert not stopped[0], "whoever names a mode gets it"
        return full[1:], stopped[1:]

    async def _ask(self, question: Question, seed: int, drr: dict[str, Any] | None = None) -> tuple[bool, bool, int]:
        """Whether the response was a canary, whether its answer is right, and all tokens that were generated for it."""
        body = {"model": MODEL_NAME, "messages": [{"role": "user", "content": question.text}], "seed": seed}
        body |= {"temperature": 0.8, "max_tokens": 1024} | ({"drr": drr} if drr else {})
        response = await self._client.post("/v1/chat/completions", json=body)
        response.raise_for_status()
        data = response.json()
        right = is_correct(data["choices"][0]["message"]["content"] or "", question.answer)
        return data["drr"]["canary"], right, data["usage"]["completion_tokens"]

    async def _sums(self) -> CanarySums:
        text = (await self._client.get("/metrics")).text
        return LiveMetrics.parse(text).canaries().get(_NAMES, CanarySums())

    async def _settled(self, before: CanarySums, questions: int) -> CanarySums:
        while True:
            sums = await self._sums() - before
            if sums.compared + sums.dropped >= questions:
                return sums
            await asyncio.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--group", type=int, default=20, help="questions at a time")
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which no other group is begun")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--report", action="store_true", help="ask nothing")
    parser.add_argument("--precision", action="store_true", help="only tell what so many canaries can tell")
    options, flags = parser.parse_known_args()
    check_range("--questions", options.questions, least=1)
    check_range("--group", options.group, least=2)
    if options.precision:
        sys.stdout.write(precision_table())
        return 0
    groups = _read(options.out)
    if not options.report:
        groups = asyncio.run(_ask_all(options, flags, groups))
    if not groups:
        raise InputError("--report", f"{options.out} holds no answers yet")
    _report(groups, Console())
    return 0


async def _ask_all(options: argparse.Namespace, flags: list[str], groups: list[Group]) -> list[Group]:
    each = -(-options.questions // (len(_LEVELS) * len(LEVELS)))
    questions = reference_questions(Split.TEST, each, levels=_LEVELS)[: options.questions]
    done = sum(group.questions for group in groups)
    async with served(["--drr-canary-share", "1", "--max-num-seqs", "128", *flags]) as url:
        asking, begun = Asking(url), time.monotonic()
        with Progress("canaries", len(questions), done) as progress:
            while done < len(questions) and time.monotonic() - begun < options.seconds:
                group = await asking.group(questions[done : done + options.group], done)
                groups.append(group)
                done += group.questions
                progress.advance(units=group.questions)
                _write(options.out, groups)
        await asking.aclose()
    return groups


def _read(path: Path) -> list[Group]:
    return [Group(**group) for group in json.loads(path.read_text())["groups"]] if path.exists() else []


def _write(path: Path, groups: Sequence[Group]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"groups": [asdict(group) for group in groups]}, indent=1) + "\n")


def _sums_of(groups: Sequence[Group]) -> CanarySums:
    return sum((CanarySums.of(group.sums) for group in groups), CanarySums())


def coverage(groups: Sequence[Group], resamples: int = RESAMPLES, seed: int = 0) -> dict[str, int]:
    """In how many resamples of the groups the truth over all of them lies in the interval of each estimate."""
    truth, rng = Truth.of(groups), np.random.default_rng(seed)
    held = dict.fromkeys(("lost_correct", "saving"), 0)
    for _ in range(resamples):
        sums = _sums_of([groups[place] for place in rng.integers(len(groups), size=len(groups))])
        for name, found in (("lost_correct", lost_correct(sums)), ("saving", saving(sums))):
            held[name] += found is not None and found.low <= getattr(truth, name) <= found.high
    return held


def precision_table() -> str:
    """Markdown: how narrow the intervals of so many canaries are. Three quarters of the full answers are right."""
    lines = [
        "| canaries | responses, share 0.02 | 5 % changed | 20 % changed | none lost | 2 to 3 % lost | saving |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for count in (100, 300, 1000, 3000, 10_000):
        right = 0.75 * count
        few, many = share_of(0.05 * count, count), share_of(0.2 * count, count)
        none = lost_correct(CanarySums(right=right))
        some = lost_correct(CanarySums(right=right, lost=0.02 * right, lost_at_most=0.03 * right))
        assert few is not None
        assert many is not None
        assert none is not None
        assert some is not None
        cells = (
            f"{count:,}",
            f"{count / 0.02:,.0f}",
            *(f"{100 * one.low:.1f} to {100 * one.high:.1f} %" for one in (few, many)),
            f"at most {100 * none.high:.2f} %",
            f"{100 * some.low:.1f} to {100 * some.high:.1f} %",
            f"{SAVING_REACH * _RESIDUAL / count**0.5 * 100:.1f} points either way",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _report(groups: Sequence[Group], console: Console) -> None:
    sums, truth, held = _sums_of(groups), Truth.of(groups), coverage(groups)
    questions, right = sum(group.questions for group in groups), sum(group.right for group in groups)
    table = Table(title=f"{questions:,} reference questions, {sums.compared:,.0f} canaries compared")
    for name in ("", "estimate", "95 % interval", "graded", f"of {RESAMPLES} resamples held"):
        table.add_column(name, justify="left" if not name else "right")
    rows: list[tuple[str, Interval | None, float | None, str]] = [
        ("answers changed", changed(sums), None, ""),
        ("right answers lost", lost_correct(sums), truth.lost_correct, str(held["lost_correct"])),
        ("tokens saved", saving(sums), truth.saving, str(held["saving"])),
    ]
    for name, found, known, count in rows:
        if found is not None:
            ends = f"{100 * found.low:.2f} to {100 * found.high:.2f} %"
            graded = "" if known is None else f"{100 * known:.2f} %"
            table.add_row(name, f"{100 * found.estimate:.2f} %", ends, graded, count)
    console.print(table)
    console.print(
        f"Right: {right} of {questions} graded, {sums.right:.0f} expected; lost: {sum(group.lost for group in groups)} "
        f"graded, {sums.lost:.1f} expected, at most {sums.lost_at_most:.1f}; {sums.changed:.0f} answers changed.",
        highlight=False,
    )


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.canary", main))

"""Ask a few seeded requests hundreds of times each, while other traffic runs beside: each has one answer.

python -m tests.fuzz.repeats --url URL [--count N] [--concurrency C] [--beside B] [--record FILE]

Start the server with `--dm-deadline-ms 60000`: a verdict that comes too late is another decision.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.fuzz.asking import Answer, ask
from tests.fuzz.checks import violations
from tests.fuzz.draw import Drawn, draw
from tests.server.running import MODEL, QUESTION

_PUZZLE = "Use 3, 7, 11 and 25, each once, to make 54."
_BESIDE = 77
"""The seed of the traffic beside."""

ASKED: dict[str, dict[str, Any]] = {
    "stop": {"seed": 1, "drr": {"mode": "stop", "threshold": 0.9}},
    "rethink": {
        "seed": 2,
        "temperature": 0.8,
        "drr": {"mode": "rethink", "max_rethinks": 3, "accept": 0.95},
        "question": _PUZZLE,
    },
    "parallel": {"seed": 3, "drr": {"max_rethinks": 3, "parallel": 4, "accept": 0.9}, "question": _PUZZLE},
    "abstain": {"seed": 4, "drr": {"accept": 1.0, "threshold": 1.0, "on_exhausted": "abstain"}, "question": _PUZZLE},
    "three choices": {"seed": 5, "n": 3, "temperature": 1.0},
    "plain": {"seed": 1, "drr": {"mode": "off"}},
    "plain puzzle": {"seed": 2, "temperature": 0.8, "drr": {"mode": "off"}, "question": _PUZZLE},
}
"""By name. The plain ones are what the engine does by itself: where they differ, its arithmetic depends on what else is
in a batch, and nothing that DRR decides does."""


@dataclass
class Repeat:
    """What one repeat of a request said."""

    name: str
    number: int
    text: str
    wrong: list[str] = field(default_factory=list)
    account: dict[str, Any] | None = None


@dataclass
class Told:
    """The different answers to one request, how often each came, and the account of the first of each."""

    counts: Counter[str] = field(default_factory=Counter)
    accounts: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, repeat: Repeat) -> None:
        """One more."""
        self.counts[repeat.text] += 1
        self.accounts.setdefault(repeat.text, repeat.account)
        self.wrong += repeat.wrong


def request(name: str, number: int) -> Drawn:
    """Repeat `number` of this request; every second one is streamed."""
    fields = {key: value for key, value in ASKED[name].items() if key != "question"}
    question = ASKED[name].get("question", QUESTION)
    messages = [{"role": "user", "content": question}]
    return Drawn(number, {"model": MODEL, "messages": messages, "max_tokens": 400, **fields, "stream": number % 2 == 0})


def read(answer: Answer) -> list[Any]:
    """What may not differ: the reasoning of what is accepted, the content or refusal, and the account's counts. Between
    attempts one may see another far or less far when it is ended, and be shown as much of it."""
    accounts = answer.accounts
    told = []
    for (index, choice), account in zip(sorted(answer.choices.items()), accounts, strict=True):
        attempts = [
            (own["fate"], own["p_now"]) for own in account.get("attempt_details") or [] if own["fate"] != "abandoned"
        ]
        kept = (account["stop_cause"], account["thinking_tokens"], account["answer_tokens"])
        told.append([index, *choice.text, *kept, attempts])
    return told


def read_record(record: Path | None) -> list[Repeat]:
    """What an earlier run was told."""
    if record is None or not record.exists():
        return []
    return [Repeat(**json.loads(line)) for line in record.read_text().splitlines()]


async def repeat(url: str, count: int, concurrency: int, beside: int, record: Path | None = None) -> dict[str, Told]:
    """Ask `count` requests, with `beside` clients that ask something else all the time. What `record` holds is not
    asked again."""
    told, names = {name: Told() for name in ASKED}, list(ASKED)
    done = read_record(record)
    for own in done:
        told[own.name].add(own)
    known = {(own.name, own.number) for own in done}
    jobs = iter([job for n in range(count) if (job := (names[n % len(names)], n // len(names))) not in known])
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as client:

        async def work() -> None:
            for name, number in jobs:
                drawn = request(name, number)
                answer = await ask(client, url, drawn)
                own = Repeat(name, number, json.dumps(read(answer)), violations(drawn, answer), answer.drr)
                told[name].add(own)
                if record is not None:
                    with record.open("a") as out:
                        out.write(json.dumps(asdict(own)) + "\n")

        async def disturb(place: int) -> None:
            number = place
            while True:
                await ask(client, url, draw(_BESIDE, number))
                number += beside

        disturbing = [asyncio.create_task(disturb(place)) for place in range(beside)]
        await asyncio.gather(*(work() for _ in range(concurrency)))
        for task in disturbing:
            task.cancel()
        await asyncio.gather(*disturbing, return_exceptions=True)
    return told


def summary(told: dict[str, Told]) -> str:
    """How many answers each request has, and where they first differ."""
    lines = []
    for name, own in told.items():
        if not own.counts:
            continue
        lines.append(f"{name}: {own.counts.total()} repeats, {len(own.counts)} answers {sorted(own.counts.values())}")
        lines += [f"  {text}" for text in dict.fromkeys(own.wrong)]
        (usual, _), *others = own.counts.most_common()
        for other, times in others:
            lines.append(f"  {times} times, from {first_difference(usual, other)}")
            lines += [f"    {json.dumps(own.accounts[key])[:1500]}" for key in (usual, other)]
    return "\n".join(lines)


def first_difference(usual: str, other: str) -> str:
    """Where two texts begin to differ, with what stands before it."""
    at = next((place for place, (a, b) in enumerate(zip(usual, other, strict=False)) if a != b), len(usual))
    return f"character {at}: {usual[max(0, at - 40) : at + 40]!r} against {other[max(0, at - 40) : at + 40]!r}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 where a request has more than one answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--count", type=int, default=1000, help="repeats, of all requests together")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--beside", type=int, default=2, help="clients that ask something else")
    parser.add_argument("--record", type=Path, help="what was said, line by line; a run goes on where it was stopped")
    options = parser.parse_args(argv)
    told = asyncio.run(repeat(options.url, options.count, options.concurrency, options.beside, options.record))
    sys.stdout.write(summary(told) + "\n")
    return int(any(len(own.counts) > 1 or own.wrong for own in told.values()))


if __name__ == "__main__":
    sys.exit(main())

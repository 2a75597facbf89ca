"""Ask a running server thousands of random requests and check every answer.

python -m tests.fuzz.requests --url URL --count N --seed S --concurrency C [--record FILE] [--log FILE] [--pid PID]
"""

import argparse
import asyncio
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from tests.fuzz.asking import Answer, ask
from tests.fuzz.checks import violations
from tests.fuzz.draw import Drawn, draw
from tests.fuzz.watch import Watch, still_answers, wait_until_idle, wrong_log


@dataclass
class Result:
    """What came of one drawn request; `asked` counts how often the server was asked for it."""

    seed: int
    number: int
    kind: str
    asked: int = 1
    seconds: float = 0.0
    causes: list[str] = field(default_factory=list)
    refused: str | None = None
    unsteady: bool = False
    violations: list[str] = field(default_factory=list)


async def check(client: httpx.AsyncClient, url: str, seed: int, number: int) -> Result:
    """Ask one request, as often as it takes, and check what the server says."""
    drawn = draw(seed, number)
    answer = await ask(client, url, drawn)
    result = Result(seed, number, _kind(drawn, answer), seconds=answer.seconds)
    result.violations = violations(drawn, answer)
    result.causes = [account["stop_cause"] for account in answer.accounts]
    if answer.error is not None:
        error = answer.error.get("error") or {}
        result.refused = str(error.get("param") or error.get("message") or answer.error)[:100]
    if drawn.twice and answer.complete:
        await _compare(client, url, drawn, answer, result)
    return result


def _kind(drawn: Drawn, answer: Answer) -> str:
    if answer.cancelled and drawn.cancel_after is not None:
        return "cancelled"
    if answer.error is not None:
        return "refused"
    return "streamed" if answer.streamed else "whole"


async def _compare(client: httpx.AsyncClient, url: str, drawn: Drawn, first: Answer, result: Result) -> None:
    """Whole and streamed answers are the same. Where they are not, further answers tell whether one way differs from
    the other, or whether the engine's own noise does."""
    answers = [(first.streamed, first)]
    for stream in (not first.streamed, True, False, True, False):
        again = drawn.asked(stream=stream)
        answer = await ask(client, url, again)
        result.asked += 1
        result.violations += violations(again, answer)
        answers.append((stream, answer))
        if len(answers) == 2 and answer.text == first.text:
            return
    texts = {way: {json.dumps(answer.text) for own, answer in answers if own is way} for way in (True, False)}
    if texts[True] & texts[False] or len(texts[True]) + len(texts[False]) > 2:
        result.unsteady = True
    else:
        result.violations.append(f"streamed is {texts[True]}, whole is {texts[False]}")


async def run(
    url: str, seed: int, numbers: Iterable[int], concurrency: int, record: Path | None = None
) -> list[Result]:
    """Check these requests, `concurrency` at a time."""
    results: list[Result] = []
    left = iter(numbers)
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as client:

        async def work() -> None:
            for number in left:
                result = await check(client, url, seed, number)
                results.append(result)
                if record is not None:
                    with record.open("a") as out:
                        out.write(json.dumps(asdict(result)) + "\n")
                if result.violations:
                    sys.stdout.write(f"{seed}/{number}: {result.violations[0][:600]}\n")

        await asyncio.gather(*(work() for _ in range(concurrency)))
    return results


def read_record(record: Path, seed: int) -> list[Result]:
    """What an earlier run with this seed has found."""
    if not record.exists():
        return []
    results = [Result(**json.loads(line)) for line in record.read_text().splitlines()]
    return [result for result in results if result.seed == seed]


def summary(results: Sequence[Result]) -> str:
    """The figures of a run."""
    kinds = Counter(result.kind for result in results)
    causes = Counter(itertools.chain.from_iterable(result.causes for result in results))
    faults = [result for result in results if result.violations]
    lines = [
        f"{sum(result.asked for result in results)} requests for {len(results)} drawn: {dict(kinds.most_common())}",
        f"causes: {dict(causes.most_common())}",
        f"the same streamed and whole: {sum(result.asked > 1 for result in results)} compared, "
        f"{sum(result.unsteady for result in results)} unsteady",
        f"longest: {max((result.seconds for result in results), default=0.0):.1f} s",
        f"violations: {sum(len(result.violations) for result in faults)} in {len(faults)} requests",
        *(f"  {result.seed}/{result.number}: {text[:300]}" for result in faults for text in result.violations),
    ]
    return "\n".join(lines)


async def _main(options: argparse.Namespace) -> int:
    done = read_record(options.record, options.seed) if options.record else []
    known = {result.number for result in done}
    numbers = [number for number in range(options.count) if number not in known]
    watch = Watch(options.url, options.pid)
    try:
        await watch.start()
        results = await run(options.url, options.seed, numbers, options.concurrency, options.record)
    finally:
        sizes = await watch.stop()
    wrong = await wait_until_idle(options.url) + await still_answers(options.url)
    wrong += wrong_log(options.log) if options.log else []
    sys.stdout.write(summary([*done, *results]) + "\n")
    sys.stdout.write(f"resident memory in MB: {sizes}\n" if sizes else "")
    sys.stdout.write("".join(f"{text}\n" for text in wrong))
    return int(bool(wrong) or any(result.violations for result in [*done, *results]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--record", type=Path, help="what was found, line by line; a run goes on where it was stopped")
    parser.add_argument("--log", type=Path, help="the server's log, to be looked through")
    parser.add_argument("--pid", type=int, help="the server's process, whose memory is watched")
    sys.exit(asyncio.run(_main(parser.parse_args())))

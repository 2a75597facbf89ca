"""One round of the capacity measurement: constants, then held-out runs beside what is predicted for them."""

import asyncio
import json
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import httpx
import numpy as np
import psutil

from benchmarks.capacity_model import Lengths, carried
from benchmarks.fleet.replica import Limits
from benchmarks.fleet.routing import round_robin
from benchmarks.fleet.service import ServiceTimes
from benchmarks.fleet.simulation import Goal, figures, simulate
from benchmarks.fleet.work import STOPPED, Request, Work
from benchmarks.load_client import Load, Run, Sample, Target, drive, stolen_share
from benchmarks.server_processes import metric
from benchmarks.waiting import between, threads_of, work_seconds

T = TypeVar("T")

MODES = {"full": "off", "judged": "shadow", "DRR": "auto"}
"""What the runs are called, and the mode that they ask the server for."""

CLIENTS = (1, 4, 16)
"""The loads of the constants."""

HELD_OUT_CLIENTS = 8
RATES = (0.4, 0.8, 1.4)
"""The held-out rates, as shares of what the constants say that the server carries."""

_PROMPT_PROBES, _STOPS = 6, 10
_EQUAL = 192
"""Tokens of the answers that steps are measured with, about as many as real ones have: attention costs more where
answers are longer, and where they are short the prompts, whose cost is taken off, are much of what a step takes."""
_RAMP = 0.1
"""Seconds between the clients' beginnings: answers that begin together end together, and none is disturbed by others'
beginnings, as real ones are."""
_LONGEST = 384
"""Tokens that a held-out answer may have: the few longest of all would take as long as the rest of the run."""

_GOOD_QUANTILE, _TTFT_SHARE = 80, 0.25
_DRAWS = 20
_GRACE = 120.0
"""Seconds for the answers that are under way at the end: those that are cut off would be the longest ones."""

_WHOLE = 3600.0
_BETWEEN_PACES = 0.25


@dataclass(frozen=True, slots=True)
class Bench:
    """A running server, its process, the questions that it is asked, its limits, seconds of a run, and CPU seconds of a
    fixed piece of work when the machine was at its fastest."""

    url: str
    model: str
    pid: int
    questions: Sequence[str]
    limits: Limits
    seconds: float
    work: float

    def target(self, mode: str) -> Target:
        """The server in this mode; modes share no prefix cache, so that none profits from the one before."""
        return Target(mode, self.url, self.model, {"drr": {"mode": mode}, "cache_salt": mode})

    def prompts(self, begin: int, count: int, **more: Any) -> list[dict[str, Any]]:
        """`count` bodies from question number `begin` on (they come again from the start), each with its own seed."""
        texts = (self.questions[number % len(self.questions)] for number in range(begin, begin + count))
        return [
            {"messages": [{"role": "user", "content": text}], "seed": begin + number, **more}
            for number, text in enumerate(texts)
        ]


async def timed(bench: Bench, work: Awaitable[T]) -> tuple[T, float]:
    """What the work gives, and how many times as slow as on a machine of its own it was: by how long all the server's
    and the client's threads waited for a CPU, and by how slow the CPUs were."""
    roots = (bench.pid, os.getpid())
    before = threads_of(roots)
    paces: list[float] = []

    async def look() -> None:
        while True:
            paces.append(work_seconds() / bench.work)
            await asyncio.sleep(_BETWEEN_PACES)

    looking = asyncio.create_task(look())
    try:
        found = await work
    finally:
        looking.cancel()
    return found, between(before, threads_of(roots)).slowdown * float(np.median(paces))


async def one_round(bench: Bench, number: int, told: Callable[[str], None]) -> dict[str, Any]:
    """Everything that is measured and predicted in one round, as plain data. `told` hears what is begun."""
    begin = number * 100_000
    watch = Watch(bench.pid)
    async with httpx.AsyncClient(base_url=bench.url, timeout=300) as http:
        told("prompts")
        (prefill, prompt), slow = await timed(bench, _prefill(http, bench, begin))
        prefill /= slow
        told("equal lengths")
        request_runs = {name: await _equal(bench, name, begin) for name in ("full", "judged")}
        told("stops")
        stopped, slow = await timed(bench, _stops(http, bench, begin + 20_000))
        times = {name: _times(runs, prefill, prompt) for name, runs in request_runs.items()}
        restart = _restart(stopped, times["judged"].slower(slow))
        times["judged"] = ServiceTimes(times["judged"].steps, prefill, times["judged"].request, restart)
        share = sum(cause in STOPPED for cause, _ in stopped) / len(stopped)
        told("held out: clients")
        closed = [await _closed(http, bench, name, begin + 30_000, times, prompt, share) for name in ("full", "DRR")]
        pool = [int(tokens) for each in closed if each["name"] == "DRR" for tokens in each.pop("tokens")]
        closed[0].pop("tokens", None)
        told("held out: rates")
        slow, open_runs = closed[-1]["slowdown"], list[dict[str, Any]]()
        for place in range(len(RATES)):
            first = begin + 50_000 + 10_000 * place
            open_runs.append(await _open(bench, place, first, times["judged"], slow, prompt, pool, share))
            slow = open_runs[-1]["slowdown"]
    return {
        "constants": {name: found.plain() for name, found in times.items()},
        "prompt": prompt,
        "stop_share": share,
        "closed": closed,
        "open": open_runs,
        **watch.shares(),
    }


class Watch:
    """What else used the machine meanwhile: its other processes, and other machines of its host."""

    def __init__(self, pid: int) -> None:
        self._own = [psutil.Process(pid), psutil.Process()]
        self._before, self._begun = psutil.cpu_times(), self._used()
        self._started = time.perf_counter()

    def _used(self) -> float:
        processes = [process for root in self._own for process in (root, *root.children(recursive=True))]
        return sum(
            float(times.user + times.system)
            for process in {each.pid: each for each in processes}.values()
            for times in [process.cpu_times()]
        )

    def shares(self) -> dict[str, float]:
        """Shares of the machine's CPU time: of this measurement (`own`), of other processes, and stolen."""
        after, used = psutil.cpu_times(), self._used() - self._begun
        whole = (time.perf_counter() - self._started) * (os.cpu_count() or 1)
        idle = after.idle - self._before.idle + getattr(after, "iowait", 0.0) - getattr(self._before, "iowait", 0.0)
        stolen = stolen_share(self._before, after)
        return {"own": used / whole, "others": max(0.0, 1 - used / whole - idle / whole - stolen), "stolen": stolen}


async def _prefill(http: httpx.AsyncClient, bench: Bench, begin: int) -> tuple[float, float]:
    """Seconds that a prompt's token costs, and tokens of a question's prompt in the mean: prompts of four questions and
    of one, in turn, with one token as an answer."""
    found: list[tuple[float, int, float, int]] = []
    for number in range(_PROMPT_PROBES):
        texts = [bench.questions[(begin + 5 * number + place) % len(bench.questions)] for place in range(5)]
        short = await _timed(http, bench, texts[0], number)
        long = await _timed(http, bench, " ".join(texts[1:]), number)
        found.append((*short, *long))
    each = [(long - short) / max(1, many - few) for short, few, long, many in found]
    return max(0.0, float(np.median(each))), float(np.mean([few for _, few, _, _ in found]))


async def _timed(http: httpx.AsyncClient, bench: Bench, text: str, seed: int) -> tuple[float, int]:
    begun = time.perf_counter()
    body = {
        "model": bench.model, "messages": [{"role": "user", "content": text}], "max_tokens": 1, "seed": seed,
        "drr": {"mode": "off"}, "cache_salt": f"prefill {begun}",
    }  # fmt: skip
    answer = (await http.post("/v1/chat/completions", json=body)).raise_for_status().json()
    return time.perf_counter() - begun, int(answer["usage"]["prompt_tokens"])


Equal = dict[int, tuple[list[Sample], float]]
"""By the number of clients, answers of equal length and how slow the machine was."""


async def _equal(bench: Bench, name: str, begin: int) -> Equal:
    """Answers of equal length, by the number of clients; those that were complete while all clients were there."""
    found: Equal = {}
    for clients in CLIENTS:
        prompts = bench.prompts(begin + 1000 * clients, 2000, max_tokens=_EQUAL, ignore_eos=True)
        load = Load(clients=clients, seconds=bench.seconds / 2, ramp=_RAMP, grace=_GRACE)
        run, slow = await timed(bench, drive(bench.target(MODES[name]), prompts, load))
        inside = [sample for sample in _good(run) if sample.end is not None and sample.end <= load.seconds]
        found[clients] = (inside or _good(run), slow)
    return found


def _good(run: Run) -> list[Sample]:
    return [sample for sample in run.samples if sample.error is None]


def _times(runs: Equal, prefill: float, prompt: float) -> ServiceTimes:
    """The constants on a machine of the server's own."""
    steps = []
    for clients, (samples, slow) in runs.items():
        between = [(sample.end - sample.first) / (sample.tokens - 1) for sample in samples
                   if sample.end is not None and sample.first is not None and sample.tokens > 1]  # fmt: skip
        prompts = prefill * prompt * (clients - 1) / float(np.mean([sample.tokens for sample in samples]))
        steps.append((clients, max(0.0, float(np.mean(between)) / slow - prompts)))
    alone, slow = runs[1]
    first = float(np.mean([sample.first - sample.due for sample in alone if sample.first is not None])) / slow
    return ServiceTimes(tuple(steps), prefill, max(0.0, first - steps[0][1] - prefill * prompt))


_REASONING, _CONTENT = re.compile(r'"reasoning":\s*"(?!")'), re.compile(r'"content":\s*"(?!")')


async def _stops(http: httpx.AsyncClient, bench: Bench, begin: int) -> list[tuple[str, float]]:
    """One question after the other: why each one's thinking ended, and seconds from its last text to the answer's
    first."""
    found = []
    for prompt in bench.prompts(begin, _STOPS):
        body = {"model": bench.model, "stream": True, **prompt, "drr": {"mode": "auto"}}
        thought = answered = 0.0
        cause = ""
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                now = time.perf_counter()
                if _REASONING.search(line):
                    thought = now
                elif _CONTENT.search(line) and not answered:
                    answered = now
                if '"stop_cause"' in line:
                    cause = json.loads(line.removeprefix("data:"))["drr"]["stop_cause"]
        if thought and answered:
            found.append((cause, answered - thought))
    return found


def _restart(stopped: Sequence[tuple[str, float]], times: ServiceTimes) -> float:
    """Decode steps that a stop costs beside the tokens: the answer's first token would have taken one step."""
    gaps = [gap for cause, gap in stopped if cause in STOPPED]
    return max(0.0, float(np.median(gaps)) / times.step(1) - 1) if gaps else 0.0


async def _closed(
    http: httpx.AsyncClient, bench: Bench, name: str, begin: int, times: dict[str, ServiceTimes], prompt: float,
    share: float,
) -> dict[str, Any]:  # fmt: skip
    """The held-out number of clients with questions at their natural length, measured and predicted."""
    load = Load(clients=HELD_OUT_CLIENTS, seconds=bench.seconds, grace=_GRACE)
    driving = drive(bench.target(MODES[name]), bench.prompts(begin, 2000, max_tokens=_LONGEST), load)
    (run, cache), slow = await timed(bench, _with_cache(http, driving, bench.seconds))
    samples = [sample for sample in _good(run) if sample.end is not None]
    rng = random.Random(begin)
    restarts = share if name == "DRR" else 0.0
    work = [Work(sample.tokens, int(rng.random() < restarts)) for sample in samples]
    constants = times["judged" if name == "DRR" else "full"].slower(slow)
    predicted = carried(constants, Lengths.of(work, prompt, constants), HELD_OUT_CLIENTS)
    # The model counts steps; clients see tokens.
    visible = float(np.mean([each.tokens for each in work])) * predicted.requests_per_second
    whole = [sample.end - sample.due for sample in samples if sample.end is not None]
    return {
        "name": name,
        "clients": HELD_OUT_CLIENTS,
        "slowdown": slow,
        "requests": len(samples),
        "tokens": [sample.tokens for sample in samples],
        "measured": {
            "tokens_per_second": _rate(samples, bench.seconds),
            "e2e_mean": float(np.mean(whole)),
            "e2e_p95": float(np.percentile(whole, 95)),
            "kv_tokens": cache,
        },
        "predicted": {**asdict(predicted), "tokens_per_second": visible},
    }


def _rate(samples: Sequence[Sample], seconds: float) -> float:
    """Tokens a second while all clients were there: answers that ended later count by the part before."""
    tokens = 0.0
    for sample in samples:
        assert sample.first is not None
        assert sample.end is not None
        whole = max(sample.end - sample.first, 1e-9)
        tokens += sample.tokens * min(1.0, max(0.0, seconds - sample.first) / whole)
    return tokens / seconds


async def _with_cache(http: httpx.AsyncClient, driving: Awaitable[Run], seconds: float) -> tuple[Run, float]:
    """The run, and the tokens of KV cache that were in use in the mean of its first seconds."""
    used: list[float] = []

    async def look() -> None:
        for _ in range(int(seconds / 0.5)):
            await asyncio.sleep(0.5)
            used.append(metric((await http.get("/metrics")).text, "vllm:kv_cache_usage_perc"))

    looking = asyncio.create_task(look())
    try:
        run = await driving
    finally:
        looking.cancel()
    text = (await http.get("/metrics")).text
    labels = dict(re.findall(r'(\w+)="([^"]*)"', next(iter(re.findall(r"vllm:cache_config_info\{(.*)\}", text)), "")))
    whole = int(labels.get("num_gpu_blocks", 0)) * int(labels.get("block_size", 0))
    return run, float(np.mean(used)) * whole if used else 0.0


async def _open(
    bench: Bench, place: int, begin: int, alone: ServiceTimes, slow: float, prompt: float, pool: Sequence[int],
    share: float,
) -> dict[str, Any]:  # fmt: skip
    """One held-out rate with DRR, measured and simulated. The goal is a time in which, at the server's limit, 80 of 100
    answers would be complete. Rate and goal are those of a machine that is `slow` times as slow as one of its own."""
    times = alone.slower(slow)
    work = [Work(tokens, int(number < share * len(pool))) for number, tokens in enumerate(pool)]
    lengths = Lengths.of(work, prompt, times)
    rate = RATES[place] * carried(times, lengths, bench.limits.running).requests_per_second
    e2e = times.request + float(np.percentile(pool, _GOOD_QUANTILE)) * times.step(bench.limits.running)
    goal = Goal(ttft=_TTFT_SHARE * e2e, e2e=e2e)
    load = Load(rate=rate, seconds=bench.seconds, seed=begin, grace=_GRACE)
    driving = drive(bench.target(MODES["DRR"]), bench.prompts(begin, 5000, max_tokens=_LONGEST), load)
    run, slow = await timed(bench, driving)
    simulated = [
        _replayed(run, bench.limits, alone.slower(slow), prompt, pool, share, goal, seed) for seed in range(_DRAWS)
    ]
    good = _good(run)
    whole = [sample.end - sample.due for sample in good if sample.end is not None]
    kept = sum(
        sample.first is not None and sample.end is not None
        and sample.first - sample.due <= goal.ttft and sample.end - sample.due <= goal.e2e
        for sample in good
    )  # fmt: skip
    return {
        "share": RATES[place],
        "rate": rate,
        "slowdown": slow,
        "goal": asdict(goal),
        "measured": {
            "requests": len(run.samples),
            "refused": sum((sample.error or "").startswith("HTTP 429") for sample in run.samples),
            "failed": len(run.samples) - len(good),
            "goodput": kept / run.seconds,
            "good_share": kept / len(run.samples),
            "e2e_mean": float(np.mean(whole)) if whole else _WHOLE,
            "e2e_p95": float(np.percentile(whole, 95)) if whole else _WHOLE,
        },
        "simulated": {
            name: float(np.mean([each[name] for each in simulated]))
            for name in ("refused", "goodput", "good_share", "e2e_mean", "e2e_p95")
        },
    }


def _replayed(
    run: Run, limits: Limits, times: ServiceTimes, prompt: float, pool: Sequence[int], share: float, goal: Goal,
    seed: int,
) -> dict[str, float]:  # fmt: skip
    """The same arrivals and lengths in the simulation. How long the answers would have been that were refused nobody
    knows: they are drawn from the others'."""
    rng = random.Random(seed)
    made = [
        Request(sample.due, round(prompt), Work(sample.tokens or rng.choice(pool), int(rng.random() < share)), number)
        for number, sample in enumerate(sorted(run.samples, key=lambda sample: sample.due))
    ]
    fleet, seconds = simulate(made, 1, times, limits, round_robin())
    return {name: float(value) for name, value in asdict(figures(made, fleet, seconds, goal)).items()}

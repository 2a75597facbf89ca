"""What one replica carries, in closed form: from measured service times and lengths to throughput, latency, memory and
the number of replicas. The simulation in benchmarks.fleet has queues and bursts beside; this has neither."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.fleet.service import ServiceTimes
from benchmarks.fleet.work import Work

_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long responses are, in decode steps (restarts included), and prompts in tokens. `square` is the mean square
    of the steps."""

    mean: float
    square: float
    p95: float
    prompt: float

    @classmethod
    def of(cls, work: Sequence[Work], prompt: float, times: ServiceTimes) -> "Lengths":
        """Of these responses, with what a restart costs there."""
        steps = np.asarray([each.tokens + times.restart * each.restarts for each in work], dtype=float)
        return cls(float(steps.mean()), float((steps**2).mean()), float(np.percentile(steps, 95)), prompt)


@dataclass(frozen=True, slots=True)
class Carried:
    """What a replica does with so many sequences at once: requests and decode steps times sequences (tokens) a second,
    seconds of a whole answer, and tokens of KV cache in the mean."""

    batch: float
    requests_per_second: float
    tokens_per_second: float
    e2e_mean: float
    e2e_p95: float
    kv_tokens: float


def carried(times: ServiceTimes, lengths: Lengths, batch: float) -> Carried:
    """With `batch` sequences under way all the time (that is also: with so many clients that never pause).

    A sequence that starts adds its prompt to a step of all others. The p95 is that of the lengths: without a queue
    every step takes equally long. The cache holds of a sequence its prompt and, seen at any moment, half of its length
    weighted by how long it is there.
    """
    step = _step(times, lengths, batch)
    outside = times.request
    whole = outside + lengths.mean * step
    rate = batch / whole
    return Carried(
        batch=batch,
        requests_per_second=rate,
        tokens_per_second=rate * lengths.mean,
        e2e_mean=whole,
        e2e_p95=outside + lengths.p95 * step,
        kv_tokens=batch * (lengths.prompt + lengths.square / (2 * lengths.mean)),
    )


def at_rate(times: ServiceTimes, lengths: Lengths, rate: float, running: int) -> Carried | None:
    """At this many requests a second that come at random, at most `running` at once; None where they would queue
    without end.

    A sequence finds those that are there in the mean and is one more itself: its steps have a batch of one more than
    the mean over time. The p95 is still that of the lengths: that batches vary comes on top.
    """
    if carried(times, lengths, running).requests_per_second < rate:
        return None

    def seen(present: float) -> Carried:
        return carried(times, lengths, min(present + 1, running))

    low, high = 0.0, float(running)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if rate * seen(middle).e2e_mean <= middle else (middle, high)
    found, share = seen(high), high / min(high + 1, running)
    return replace(
        found,
        batch=high,
        requests_per_second=rate,
        tokens_per_second=rate * lengths.mean,
        kv_tokens=found.kv_tokens * share,
    )


def largest_batch(times: ServiceTimes, lengths: Lengths, running: int, e2e_p95: float) -> int:
    """The most sequences at once (at most `running`) with which 95 of 100 answers take no longer than this; 0 if even
    one alone takes longer."""
    fits = [batch for batch in range(1, running + 1) if carried(times, lengths, batch).e2e_p95 <= e2e_p95]
    return max(fits, default=0)


def replicas(times: ServiceTimes, lengths: Lengths, rate: float, running: int, e2e_p95: float) -> int | None:
    """How many replicas carry this many requests a second within this latency, evenly dealt out and without bursts;
    None where no number of them does."""
    batch = largest_batch(times, lengths, running, e2e_p95)
    return None if batch == 0 else math.ceil(rate / carried(times, lengths, batch).requests_per_second)


def _step(times: ServiceTimes, lengths: Lengths, batch: float) -> float:
    """Seconds of a decode step, with the prompts of those that start: `batch / mean` of them a step."""
    below = math.floor(max(batch, 1))
    step = times.step(below) + (times.step(below + 1) - times.step(below)) * (max(batch, 1.0) - below)
    return step + times.prefill * lengths.prompt * batch / lengths.mean

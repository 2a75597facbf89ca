"""Run a fleet, and say how many requests were good, how long they waited, how busy the replicas were."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from benchmarks.fleet.replica import Limits, Replica
from benchmarks.fleet.routing import Router
from benchmarks.fleet.service import ServiceTimes
from benchmarks.fleet.work import Request


@dataclass(frozen=True, slots=True)
class Goal:
    """The limits, in seconds, within which a request is good: time to the first token, and to the whole answer."""

    ttft: float = float("inf")
    e2e: float = float("inf")

    def kept_by(self, request: Request) -> bool:
        """Whether this request was answered, and in time."""
        if request.first is None or request.end is None:
            return False
        return request.first - request.due <= self.ttft and request.end - request.due <= self.e2e


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of the requests of one run. Rates are per second, latencies in seconds; those that were refused
    (HTTP 429) have no latency. `utilization` is the share of the time in which replicas computed, `present` the mean
    number of requests in the fleet, `largest_batch` and `kv_tokens` the most that one replica held."""

    requests: int
    refused: int
    seconds: float
    good_share: float
    goodput: float
    tokens_per_second: float
    ttft_p95: float
    wait_p95: float
    e2e_mean: float
    e2e_p50: float
    e2e_p95: float
    utilization: float
    present: float
    largest_batch: int
    kv_tokens: int


def simulate(
    requests: Sequence[Request], replicas: int, times: ServiceTimes, limits: Limits, router: Router
) -> tuple[list[Replica], float]:
    """Send the requests (in the order of `due`) through a fleet until all are answered or refused. Fills them in;
    returns the replicas and the moment of the last answer."""
    world = simpy.Environment()
    fleet = [Replica(world, times, limits) for _ in range(replicas)]

    def arrive() -> Generator[simpy.Event, Any, None]:
        for request in requests:
            yield world.timeout(max(0.0, request.due - world.now))
            request.refused = not fleet[router(request, fleet)].offer(request)

    world.process(arrive())
    world.run()  # ends when no event is left: every answer is complete
    last = max((request.end for request in requests if request.end is not None), default=0.0)
    for request in requests:
        if request.first is not None:
            request.first += times.request
        if request.end is not None:
            request.end += times.request
    return fleet, last


def figures(requests: Sequence[Request], fleet: Sequence[Replica], seconds: float, goal: Goal) -> Figures:
    """The figures of a run. `goodput` is good requests by the seconds from the first arrival to the last answer."""
    done = [request for request in requests if request.end is not None]
    good = sum(goal.kept_by(request) for request in requests)
    ttft = [request.first - request.due for request in done if request.first is not None]
    wait = [request.admitted - request.due for request in done if request.admitted is not None]
    e2e = [request.end - request.due for request in done if request.end is not None]
    return Figures(
        requests=len(requests),
        refused=sum(request.refused for request in requests),
        seconds=seconds,
        good_share=good / max(1, len(requests)),
        goodput=good / seconds if seconds else 0.0,
        tokens_per_second=sum(request.work.tokens for request in done) / seconds if seconds else 0.0,
        ttft_p95=_quantile(ttft, 95),
        wait_p95=_quantile(wait, 95),
        e2e_mean=float(np.mean(e2e)) if e2e else float("nan"),
        e2e_p50=_quantile(e2e, 50),
        e2e_p95=_quantile(e2e, 95),
        utilization=sum(replica.busy for replica in fleet) / (len(fleet) * seconds) if seconds else 0.0,
        present=sum(replica.area for replica in fleet) / seconds if seconds else 0.0,
        largest_batch=max(replica.most for replica in fleet),
        kv_tokens=max(replica.held for replica in fleet),
    )


def _quantile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else float("nan")

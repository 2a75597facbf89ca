"""How good a fleet is at a load, and how many replicas it takes: the same arrivals and questions for every strategy."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.fleet.arrivals import Shape, arrivals
from benchmarks.fleet.replica import Limits
from benchmarks.fleet.routing import ROUTERS
from benchmarks.fleet.service import ServiceTimes
from benchmarks.fleet.simulation import Figures, Goal, figures, simulate
from benchmarks.fleet.work import Work, requests

_MOST_REPLICAS = 4096


@dataclass(frozen=True, slots=True)
class Strategy:
    """How questions are answered: the recorded responses, and the constants of a server that works so."""

    name: str
    work: Sequence[Work]
    times: ServiceTimes


@dataclass(frozen=True, slots=True)
class Traffic:
    """What arrives: requests a second for so many seconds, their shape, tokens of a prompt, turns of a conversation."""

    rate: float
    seconds: float
    shape: Shape
    prompt: int
    turns: float = 1.0
    seed: int = 0


def played(
    strategy: Strategy, traffic: Traffic, replicas: int, limits: Limits, goal: Goal, router: str = "least loaded"
) -> Figures:
    """The figures of a fleet of so many replicas with this traffic."""
    moments = arrivals(traffic.rate, traffic.seconds, traffic.shape, traffic.seed)
    made = requests(moments, strategy.work, traffic.prompt, seed=traffic.seed, turns=traffic.turns)
    fleet, seconds = simulate(made, replicas, strategy.times, limits, ROUTERS[router]())
    return figures(made, fleet, seconds, goal)


def replicas_needed(
    strategy: Strategy, traffic: Traffic, limits: Limits, goal: Goal, share: float
) -> tuple[int, Figures] | None:
    """The fewest replicas with which this share of the requests is good, and their figures; None where even an empty
    fleet is too slow for that."""

    def good(replicas: int) -> Figures:
        return played(strategy, traffic, replicas, limits, goal)

    high, found = 1, good(1)
    while found.good_share < share:
        if high >= _MOST_REPLICAS or found.utilization < 0.01:
            return None
        high *= 2
        found = good(high)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        tried = good(middle)
        if tried.good_share >= share:
            high, found = middle, tried
        else:
            low = middle
    return high, found


def plan(
    strategies: Sequence[Strategy],
    shapes: dict[str, Shape],
    traffic: Traffic,
    limits: Limits,
    goal: Goal,
    share: float,
) -> list[dict[str, Any]]:
    """For every shape and strategy, how many replicas it takes, as plain data."""
    rows = []
    for name, shape in shapes.items():
        for strategy in strategies:
            same = Traffic(traffic.rate, traffic.seconds, shape, traffic.prompt, traffic.turns, traffic.seed)
            needed = replicas_needed(strategy, same, limits, goal, share)
            count, told = (None, None) if needed is None else (needed[0], asdict(needed[1]))
            rows.append({"shape": name, "strategy": strategy.name, "replicas": count, "figures": told})
    return rows

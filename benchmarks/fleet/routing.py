"""Which replica a request goes to."""

from collections.abc import Callable, Sequence

from benchmarks.fleet.replica import Replica
from benchmarks.fleet.work import Request

Router = Callable[[Request, Sequence[Replica]], int]
"""From a request and the replicas to the place of one of them."""


def round_robin() -> Router:
    """Each in turn, whatever it has to do."""
    last = -1

    def route(_: Request, replicas: Sequence[Replica]) -> int:
        nonlocal last
        last = (last + 1) % len(replicas)
        return last

    return route


def least_loaded() -> Router:
    """The one with the fewest requests, the first of several."""
    return lambda _, replicas: min(range(len(replicas)), key=lambda place: replicas[place].load)


def affinity() -> Router:
    """The same conversation always to the same replica, as a load balancer that hashes a session's name does."""
    # Knuth's multiplicative hash: conversations are numbered in order, and a remainder would deal them out in turn.
    return lambda request, replicas: (request.conversation * 2654435761 % 2**32) * len(replicas) >> 32


ROUTERS: dict[str, Callable[[], Router]] = {
    "round robin": round_robin,
    "least loaded": least_loaded,
    "affinity": affinity,
}

"""Which data-parallel rank a response runs on: the one with the fewest responses under way.

vLLM would choose anew for every engine request, and the answer of a response whose thinking was stopped would meet a
prefix cache that has never seen it.
"""

import contextlib
from collections.abc import Iterator


class Ranks:
    """Hands out one of `count` ranks at a time, the least busy one."""

    def __init__(self, count: int) -> None:
        self.count, self._under_way = count, [0] * count
        self._last = -1

    @contextlib.contextmanager
    def one(self) -> Iterator[int]:
        """The rank with the fewest responses under way, for one response that lasts until the block ends. Where several
        have the fewest, they are taken in turn."""
        order = [(self._last + 1 + place) % self.count for place in range(self.count)]
        rank = min(order, key=lambda rank: self._under_way[rank])
        self._last = rank
        self._under_way[rank] += 1
        try:
            yield rank
        finally:
            self._under_way[rank] -= 1

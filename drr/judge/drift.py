"""Drift: whether live scores still look like those of the calibration, by the population stability index of p_later at
first boundaries. Every judged attempt has a score there, whatever rule stops it later."""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Any

DRIFT_LIMIT = 0.25
"""Above this, by the usual reading of the index, the population has changed."""

LEAST_RESPONSES = 200
"""With fewer live scores chance moves the index more than drift does."""

WINDOW = 2000
"""The newest scores that a server goes by."""

_FLOOR = 1e-3


def stability_index(shares: Sequence[float], counts: Sequence[int]) -> float:
    """Sum over the bins of (live - calibrated) * ln(live / calibrated); 0 if both agree.

    `shares` are the calibration's shares per bin, `counts` the live scores per bin. Shares below 0.001 count as 0.001.
    """
    total = sum(counts)
    index = 0.0
    for expected, count in zip(shares, counts, strict=True):
        before, now = max(expected, _FLOOR), max(count / total if total else 0.0, _FLOOR)
        index += (now - before) * math.log(now / before)
    return index


class DriftWatch:
    """Counts live scores into the calibration's bins: all of them, or the newest `window`. In a server that has run for
    months, the questions of today would be lost among all."""

    def __init__(self, histogram: dict[str, Any], window: int | None = None) -> None:
        self.edges: list[float] = histogram["edges"]
        self._shares: list[float] = histogram["shares"]
        self.counts = [0] * len(self._shares)
        self._newest: deque[int] | None = None if window is None else deque(maxlen=window)

    def observe(self, p_later: float) -> int:
        """Count one score; returns its bin."""
        bin_index = bisect_right(self.edges, p_later)
        self.counts[bin_index] += 1
        if self._newest is not None:
            if len(self._newest) == self._newest.maxlen:
                self.counts[self._newest[0]] -= 1
            self._newest.append(bin_index)
        return bin_index

    @property
    def responses(self) -> int:
        """How many scores it goes by."""
        return sum(self.counts)

    @property
    def knows(self) -> bool:
        """Whether those are enough to tell."""
        return self.responses >= LEAST_RESPONSES

    @property
    def index(self) -> float:
        """The stability index of what has been observed."""
        return stability_index(self._shares, self.counts)

    @property
    def drifted(self) -> bool:
        """Whether the index is beyond the limit, on enough responses to say so."""
        return self.knows and self.index > DRIFT_LIMIT

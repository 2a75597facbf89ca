"""How long a replica takes for what it does: measured points, and lines between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """The measured constants of one replica.

    `steps` holds the seconds of one decode step by the number of sequences in it, in ascending order: between two
    points a step takes what the line between them says, beyond the last what the line through the last two says.
    `prefill` is the seconds that each prompt token adds to the step it is computed in, `request` the seconds that a
    request spends outside the engine, and `restart` the decode steps that an abort and resubmission cost.
    """

    steps: tuple[tuple[int, float], ...]
    prefill: float = 0.0
    request: float = 0.0
    restart: float = 0.0

    def __post_init__(self) -> None:
        batches = [batch for batch, _ in self.steps]
        if not batches or batches[0] < 1 or any(left >= right for left, right in pairwise(batches)):
            raise ValueError("steps: at least one point, batches of at least one sequence, each larger than the last")
        if min(self.prefill, self.request, self.restart, *(seconds for _, seconds in self.steps)) < 0:
            raise ValueError("service times cannot be negative")

    def step(self, batch: int) -> float:
        """Seconds of a decode step of `batch` sequences."""
        points = self.steps
        if len(points) == 1 or batch <= points[0][0]:
            return points[0][1]
        after = next((place for place, point in enumerate(points) if point[0] >= batch), len(points) - 1)
        (low, fast), (high, slow) = points[after - 1], points[after]
        return fast + (slow - fast) * (batch - low) / (high - low)

    def slower(self, factor: float) -> "ServiceTimes":
        """The times of the same replica on a machine that is this many times as slow."""
        steps = tuple((batch, factor * seconds) for batch, seconds in self.steps)
        return ServiceTimes(steps, factor * self.prefill, factor * self.request, self.restart)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> "ServiceTimes":
        """From the plain data that `plain` makes."""
        points = tuple((int(batch), float(seconds)) for batch, seconds in data["steps"])
        return cls(points, float(data["prefill"]), float(data["request"]), float(data["restart"]))

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "steps": [list(point) for point in self.steps],
            "prefill": self.prefill,
            "request": self.request,
            "restart": self.restart,
        }

"""What a calibration is asked for."""

from dataclasses import dataclass

from drr.checks import check_range

RISKS = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Shares of the right answers that may be lost, certified unless others are asked for."""

MAX_LOST_POINTS = 1.0
"""Points of accuracy that the default rule may lose unless told otherwise."""


@dataclass(frozen=True, slots=True)
class CalibrateConfig:
    """`risks` are certified one by one; `check` is the number of random splits on which the promise is tested."""

    risks: tuple[float, ...] = RISKS
    max_lost_points: float = MAX_LOST_POINTS
    check: int = 0

    def __post_init__(self) -> None:
        for risk in self.risks:
            check_range("--risk", risk, above=0, below=1)
        check_range("--max-lost-points", self.max_lost_points, least=0, most=100)
        check_range("--check", self.check, least=0)

"""When requests arrive: processes with the shape of public traces.

The shapes' figures were computed by `python -m benchmarks.fleet shape FILE` from Microsoft's Azure LLM inference trace
of 2023 (CC-BY; Patel et al., "Splitwise", ISCA 2024), one hour of two services. The trace itself is not part of this
project: github.com/Azure/AzurePublicDataset.
"""

import csv
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from drr.errors import InputError

_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How arrivals vary. `gap_cv` is the coefficient of variation of the gaps within a minute (1: Poisson), `minute_cv`
    that of the rate from minute to minute, and `persistence` the correlation of a minute's rate with the one before."""

    gap_cv: float = 1.0
    minute_cv: float = 0.0
    persistence: float = 0.0

    def __post_init__(self) -> None:
        if self.gap_cv <= 0 or self.minute_cv < 0 or not 0 <= self.persistence < 1:
            raise ValueError("gap_cv above 0, minute_cv not below 0, persistence from 0 to below 1")


POISSON = Shape()
CONVERSATION = Shape(gap_cv=1.03, minute_cv=0.21, persistence=0.85)
CODING = Shape(gap_cv=7.3, minute_cv=1.04, persistence=0.16)

SHAPES = {"poisson": POISSON, "conversation": CONVERSATION, "coding": CODING}


def arrivals(rate: float, seconds: float, shape: Shape, seed: int) -> list[float]:
    """The moments of arrival, ascending, `rate` a second on average.

    Gaps are drawn from a gamma distribution of mean one and run through a clock whose speed is the minute's rate: a
    log-normal chain (mean one) with the shape's variation and persistence.
    """
    if rate <= 0 or seconds <= 0:
        raise ValueError("rate and seconds must be above 0")
    rng = random.Random(seed)
    rates = _rates(rate, math.ceil(seconds / _MINUTE), shape, rng)
    form = 1 / shape.gap_cv**2
    found: list[float] = []
    minute, now, left = 0, 0.0, rng.gammavariate(form, 1 / form)
    while minute < len(rates):
        until = (minute + 1) * _MINUTE
        if (passed := (until - now) * rates[minute]) <= left:
            left, now, minute = left - passed, until, minute + 1
            continue
        now += left / rates[minute]
        if now > seconds:
            break
        found.append(now)
        left = rng.gammavariate(form, 1 / form)
    return found


def _rates(rate: float, minutes: int, shape: Shape, rng: random.Random) -> list[float]:
    """The rate of each minute."""
    spread = math.sqrt(math.log(1 + shape.minute_cv**2))
    # The correlation of the logarithms that gives the rates themselves the shape's.
    kept = math.log(1 + shape.persistence * shape.minute_cv**2) / spread**2 if spread else 0.0
    found, state = [], rng.gauss(0, 1)
    for _ in range(minutes):
        found.append(rate * math.exp(spread * state - spread**2 / 2))
        state = kept * state + math.sqrt(1 - kept**2) * rng.gauss(0, 1)
    return found


def shape_of(moments: Sequence[float]) -> Shape:
    """The shape of recorded arrivals, in seconds, ascending. ValueError if they span less than three whole minutes."""
    times = np.asarray(moments, dtype=float) - moments[0]
    gaps, minutes = np.diff(times), (times // _MINUTE).astype(int)
    counts = np.bincount(minutes)[:-1]  # the last minute is not whole
    if len(counts) < 3:
        raise ValueError("a shape needs three whole minutes of arrivals")
    means = np.array([gaps[minutes[:-1] == minute].mean() if count else 1.0 for minute, count in enumerate(counts)])
    inside = minutes[:-1] < len(counts)
    relative = gaps[inside] / means[minutes[:-1][inside]]
    # What counts vary by beyond what chance alone gives equal minutes.
    variance = max(0.0, float(counts.var() - counts.mean())) / float(counts.mean()) ** 2
    persistence = float(np.corrcoef(counts[:-1], counts[1:])[0, 1]) if counts.var() else 0.0
    # Gaps that are all equal have no gamma distribution.
    return Shape(max(float(relative.std()), 0.01), math.sqrt(variance), min(max(persistence, 0.0), 0.99))


def read_trace(path: Path) -> list[float]:
    """The moments of arrival in a file of the Azure trace's form (column TIMESTAMP). InputError if it is not one."""
    try:
        with path.open(newline="") as file:
            return [_seconds(row["TIMESTAMP"].strip()) for row in csv.DictReader(file)]
    except (KeyError, ValueError) as error:
        raise InputError(str(path), "is not a trace with a column TIMESTAMP") from error


def _seconds(text: str) -> float:
    whole, _, fraction = text.partition(".")  # seven digits, one more than datetime reads
    return datetime.fromisoformat(whole).timestamp() + float(f"0.{fraction or 0}")

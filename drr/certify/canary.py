"""What canaries tell of a stopping rule while it serves: answers changed, right answers lost, tokens saved, each with
an interval. No answer is graded.

A canary is a response that thought in full where its judge may stop it; the answer that stopping would have given was
asked for beside it. From those:

- the share of answers that change is counted. Its interval is exact (Clopper and Pearson);
- of two different answers at most one is right, so no more right answers are lost than answers change. How many are is
  estimated from the judge's own probabilities. The upper end of its interval takes the judge's word for the full
  answers alone: a full answer that stopping changes is right no more often than the judge thinks (those that change are
  the doubtful ones);
- the saving is a ratio of two sums of tokens, its interval that of a ratio estimator.

All of it is computed from sums, so that canaries of several servers, or of a stretch of time, can be added up.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from scipy.special import betaincinv, ndtri

CONFIDENCE = 0.95

SAVING_REACH = float(ndtri(1 - (1 - 0.98) / 2))
"""Standard errors from a saving to either end of its interval. A normal interval holds less often than it says, because
a few long responses weigh much: one of 98 % holds in 95 of 100."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the ends of its interval; `low` and `high` hold it between them."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CanarySums:
    """Sums over the canaries of one rule and judge. The first five count them by what stopping would have done; `full`,
    `would` and `probe` are tokens, `full_full`, `full_would` and `would_would` sums of products of the first two by
    canary. `right` is how many full answers the judge expects to be right, `lost` and `lost_at_most` how many of those
    stopping would have lost."""

    whole: float = 0.0
    agreed: float = 0.0
    changed: float = 0.0
    unread: float = 0.0
    dropped: float = 0.0
    full: float = 0.0
    would: float = 0.0
    probe: float = 0.0
    full_full: float = 0.0
    full_would: float = 0.0
    would_would: float = 0.0
    right: float = 0.0
    lost: float = 0.0
    lost_at_most: float = 0.0

    def __add__(self, other: "CanarySums") -> "CanarySums":
        return CanarySums(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __sub__(self, other: "CanarySums") -> "CanarySums":
        return CanarySums(*(getattr(self, one.name) - getattr(other, one.name) for one in fields(self)))

    @classmethod
    def of(cls, sums: Mapping[str, float]) -> Self:
        """From names and values; what is missing is 0."""
        return cls(**{one.name: sums.get(one.name, 0.0) for one in fields(cls)})

    @property
    def read(self) -> float:
        """Canaries whose full answer could be read."""
        return self.whole + self.agreed + self.changed

    @property
    def compared(self) -> float:
        """Canaries whose tokens are known both ways."""
        return self.read + self.unread


def share_of(count: float, total: float, confidence: float = CONFIDENCE) -> Interval | None:
    """A share and its exact binomial interval; None of nothing. Counts may be expectations, hence fractions."""
    if total <= 0:
        return None
    return Interval(count / total, _lowest(count, total, confidence), _highest(count, total, confidence))


def _lowest(count: float, total: float, confidence: float) -> float:
    tail = (1 - confidence) / 2
    return float(betaincinv(count, total - count + 1, tail)) if count > 0 else 0.0


def _highest(count: float, total: float, confidence: float) -> float:
    tail = (1 - confidence) / 2
    return float(betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0


def changed(sums: CanarySums) -> Interval | None:
    """Share of the answers that stopping changes, of those that can be read."""
    return share_of(sums.changed, sums.read)


def lost_correct(sums: CanarySums) -> Interval | None:
    """Share of the right full answers that stopping loses, by the judge's probabilities; None where it expects none to
    be right. Answers are lost whole: what is expected is rounded outwards for the ends of the interval."""
    right = sums.right
    if right <= 0:
        return None
    none = math.exp(-sums.lost) > (1 - CONFIDENCE) / 2  # so few are expected that it may well be none
    low = 0.0 if none else _lowest(math.floor(min(sums.lost, right)), right, CONFIDENCE)
    high = _highest(min(math.ceil(sums.lost_at_most), right), right, CONFIDENCE)
    return Interval(min(1.0, sums.lost / right), low, high)


def saving(sums: CanarySums) -> Interval | None:
    """Share of full thinking's tokens that the rule saves, with a normal interval of the ratio estimator; None with
    fewer than two canaries."""
    count = sums.compared
    if count < 2 or sums.full <= 0:
        return None
    ratio = sums.would / sums.full
    residuals = sums.would_would - 2 * ratio * sums.full_would + ratio**2 * sums.full_full
    error = math.sqrt(max(0.0, residuals) / (count * (count - 1))) / (sums.full / count)
    reach = SAVING_REACH * error
    return Interval(1 - ratio, 1 - ratio - reach, 1 - ratio + reach)

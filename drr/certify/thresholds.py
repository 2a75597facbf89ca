"""Thresholds with a stated risk: Learn then Test (Angelopoulos et al., arXiv 2110.01052).

The promise: of the questions that full thinking gets right, at most a share epsilon is lost by stopping early, with
confidence 1 - delta. One set of questions puts the rules in an order, safest first (as in Pareto testing,
arXiv 2210.07913). On another set each rule is tested in that order, with an exact binomial p-value for the hypothesis
"its risk is above epsilon". The first hypothesis that cannot be rejected ends the sequence (fixed-sequence testing,
which needs no correction for the number of rules). Every question counts once, with one rollout, because attempts at
the same question are not independent.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from drr.certify.replay import Replay, Rethought, RuleTable
from drr.judge.calibration import Certificate
from drr.learn.arrays import Reals
from drr.loop.rule import Rule

DELTA = 0.05

_SAVING_LEVELS = (-np.inf, *np.arange(0.0, 0.95, 0.02))
_DRIFT_BINS = 10

_RETHINK_POINTS = 1.0
"""Points of accuracy that thinking again may lose for fewer tokens."""

_ONE_SIDED = 1.645
"""Standard errors below which 95 % of a normal distribution lie."""


def questions_needed(epsilon: float, delta: float = DELTA) -> int:
    """How many questions that full thinking gets right are needed to certify `epsilon` if none of them is lost."""
    return math.ceil(math.log(delta) / math.log1p(-epsilon))


def order_rules(table: RuleTable, harm: NDArray[Any]) -> list[int]:
    """Indices of the rules worth testing, safest first: for every level of saving the rule that does least `harm` [R].

    Of rules that do equally little harm the more cautious one (higher threshold and patience) is taken, because it is
    more likely to be as harmless on other questions. The first rule may save less than nothing: asking a judge costs
    tokens even if it never stops.
    """
    saved = table.saved
    order: list[int] = []
    for level in _SAVING_LEVELS:
        enough = np.flatnonzero(saved >= level)
        if not len(enough):
            break
        least = enough[harm[enough] == harm[enough].min()]
        rule = int(max(least, key=lambda index: table.rules[index].caution))
        if rule not in order:
            order.append(rule)
    return order


def certify(table: RuleTable, order: Sequence[int], epsilon: float, delta: float = DELTA) -> Certificate | None:
    """The certificate of the last rule in `order` before the first one that fails its test; None if the very first one
    fails."""
    tested = table.of(table.first_of_each_question())
    right, lost = int(tested.full_right.sum()), tested.lost
    passed: int | None = None
    for rule in order:
        if binom.cdf(lost[rule], right, epsilon) > delta:
            break
        passed = rule
    if passed is None:
        return None
    return Certificate(
        epsilon,
        table.rules[passed],
        int(lost[passed]),
        right,
        float(binom.cdf(lost[passed], right, epsilon)),
        float(table.saved[passed]),
        float(table.accuracy_change[passed]),
    )


def choose_default(table: RuleTable, order: Sequence[int], max_lost_points: float) -> tuple[int, bool]:
    """The last rule in `order` before the first one that may lose more than `max_lost_points` of accuracy (upper bound
    with 95 % confidence), and whether there is such a rule. If there is none, the first rule in `order`.

    Gains make up for losses. The bound is a normal approximation, so the confidence is approximate.
    """
    bounds, passed = table.accuracy_lost_at_most, order[0]
    for rule in order:
        if bounds[rule] > max_lost_points:
            break
        passed = rule
    return passed, bool(bounds[order[0]] <= max_lost_points)


def choose_rethink(
    replay: Replay, rules: Sequence[Rule], accepts: Sequence[float], give_ups: Sequence[float], most: int = 4
) -> dict[str, Any] | None:
    """The rule and the level of acceptance for thinking again: of all that are not worse than the most accurate one by
    more than a point, with 95 % confidence, those that spend the fewest tokens. So tokens are saved as far as the
    questions are enough to tell that nothing is lost by it. None unless nine questions in ten have two attempts on
    record.

    The number of attempts is the largest, up to `most`, that nine questions in ten have. Every rule is also tried with
    each of `give_ups` as its level of p_later for giving up, because giving up costs little if another attempt is left.
    """
    counts = np.unique(replay.questions, return_counts=True)[1]
    attempts = min(most, int(np.quantile(counts, 0.1)))
    if attempts < 2:
        return None
    tried: list[tuple[Rethought, Rule, float]] = []
    candidates = [
        replace(rule, hopeless=give_up)
        for rule in rules
        for give_up in (rule.hopeless, *give_ups)
        if rule.threshold is None or give_up is None or give_up < rule.threshold
    ]
    for rule in dict.fromkeys(candidates):
        ended = replay.attempts(rule)
        tried += [(ended.think_again(accept, attempts), rule, accept) for accept in accepts]
    best = max(tried, key=lambda choice: (choice[0].right.mean(), -choice[0].tokens.mean()))[0]
    found, rule, accept = min(
        (choice for choice in tried if _surely_as_good(choice[0], best)), key=lambda choice: choice[0].tokens.mean()
    )
    return {
        "rule": rule.to_json(),
        "accept": accept,
        "attempts": attempts,
        "accuracy": round(float(found.right.mean()), 4),
        "tokens": round(float(found.tokens.mean()), 1),
    }


def _surely_as_good(found: Rethought, best: Rethought) -> bool:
    """Whether `found` loses at most `_RETHINK_POINTS` against `best` on questions like these, with 95 % confidence (by
    the normal approximation to the mean of the paired differences)."""
    lost = best.right.astype(float) - found.right
    error = float(lost.std()) / math.sqrt(len(lost))
    return float(lost.mean()) + _ONE_SIDED * error <= _RETHINK_POINTS / 100


def drift_histogram(values: Reals) -> dict[str, list[float]]:
    """A histogram of `values` with bins that each hold about a tenth of them: the inner `edges`, and the `shares`."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _DRIFT_BINS + 1)[1:-1]).round(4))
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return {"edges": edges.tolist(), "shares": (counts / counts.sum()).round(5).tolist()}

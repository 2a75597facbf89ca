"""Thresholds with a stated risk: Learn then Test (Angelopoulos et al., arXiv 2110.01052).

The promise: of the questions that full thinking gets right, at most a share epsilon is lost by stopping early, with
confidence 1 - delta. Rules are put in an order, safest first, on questions of their own (as in Pareto testing,
arXiv 2210.07913); then each is tested on other questions with an exact binomial p-value for "its risk is above
epsilon", and the first that cannot be rejected ends the sequence (fixed-sequence testing, so no correction for the
number of rules is needed). Every question counts once, with one rollout: attempts at one question are not independent.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from drr.certify.replay import Replay, RuleTable
from drr.judge.calibration import Certificate
from drr.learn.arrays import Reals
from drr.loop.rule import Rule

RISKS = (0.005, 0.01, 0.02, 0.05, 0.1)
DELTA = 0.05

_SAVING_LEVELS = (-np.inf, *np.arange(0.0, 0.95, 0.02))
_DRIFT_BINS = 10


def questions_needed(epsilon: float, delta: float = DELTA) -> int:
    """How many questions that full thinking gets right the smallest test takes: one that sees no loss at all."""
    return math.ceil(math.log(delta) / math.log1p(-epsilon))


def order_rules(table: RuleTable, harm: NDArray[Any]) -> list[int]:
    """The rules worth testing, by index, safest first: for every level of saving the one that does least `harm` [R].

    Where several do the same, the one with the higher threshold and patience is likelier to go on doing so. The first
    may save nothing: asking a judge costs tokens, and never stopping is then safe and dear.
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
    """The last rule of `order` that passes its test and all before it do; None where the first fails."""
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
    """The last rule of `order` that loses at most `max_lost_points` of accuracy with 95 % confidence, and so do all
    before it; and whether there is one. The first of the order where there is none.

    Losses and gains weigh against each other. The bound is the normal one, so the confidence is approximate.
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
    """The rule and the acceptance level to think again by: of all within half a point of the most accurate, those that
    spend the fewest tokens. None where not nearly every question has two attempts on record.

    Looked at with as many attempts, `most` at most, as nine questions in ten have. Giving up where p_later is at most
    one of `give_ups` is tried with every rule, whatever it says itself: it costs little where there is another attempt.
    """
    counts = np.unique(replay.questions, return_counts=True)[1]
    attempts = min(most, int(np.quantile(counts, 0.1)))
    if attempts < 2:
        return None
    tried: list[tuple[float, float, Rule, float]] = []
    tries = [
        replace(own, hopeless=give_up)
        for own in rules
        for give_up in (own.hopeless, *give_ups)
        if own.threshold is None or give_up is None or give_up < own.threshold
    ]
    for rule in dict.fromkeys(tries):
        ended = replay.attempts(rule)
        for accept in accepts:
            found = ended.think_again(accept, attempts)
            tried.append((float(found.right.mean()), float(found.tokens.mean()), rule, accept))
    best = max(own[0] for own in tried)
    right, tokens, rule, accept = min((own for own in tried if own[0] >= best - 0.005), key=lambda own: own[1])
    return {
        "rule": rule.to_json(),
        "accept": accept,
        "attempts": attempts,
        "accuracy": round(right, 4),
        "tokens": round(tokens, 1),
    }


def drift_histogram(values: Reals) -> dict[str, list[float]]:
    """Shares of `values` in bins that each hold about a tenth of them: `edges` (inner ones) and `shares`."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _DRIFT_BINS + 1)[1:-1]).round(4))
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return {"edges": edges.tolist(), "shares": (counts / counts.sum()).round(5).tolist()}

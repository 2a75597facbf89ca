"""Estimates from canaries: their intervals hold what they should, on simulated traffic whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from drr.certify.canary import CanarySums, changed, lost_correct, saving, share_of
from drr.judge.disagreement import first_is_right

SIMULATIONS = 300


class Traffic:
    """Canaries of a judge whose probabilities are right. Of those that it would stop, the answers are drawn one by one;
    two wrong ones differ in seven of ten."""

    def __init__(self, seed: int, stopped: float = 0.6, sure: tuple[float, float] = (9, 1)) -> None:
        self._rng, self._stopped, self._sure = np.random.default_rng(seed), stopped, sure

    def draw(self, count: int) -> tuple[CanarySums, float, float, float]:
        """The sums over `count` canaries, and how many right answers were lost, were right, and had changed."""
        rng = self._rng
        stopped = rng.random(count) < self._stopped
        full, there = rng.beta(4, 1, count), rng.beta(*self._sure, count)
        full_right, there_right = rng.random(count) < full, rng.random(count) < there
        same = (full_right & there_right) | (~full_right & ~there_right & (rng.random(count) < 0.3))
        changed_there = stopped & ~same
        tokens = rng.lognormal(5, 0.8, count)
        would = np.where(stopped, tokens * rng.uniform(0.2, 0.9, count) + 10, tokens)
        lost = sum(first_is_right(*pair) for pair in zip(full[changed_there], there[changed_there], strict=True))
        sums = CanarySums(
            whole=float((~stopped).sum()),
            agreed=float((stopped & same).sum()),
            changed=float(changed_there.sum()),
            full=float(tokens.sum()),
            would=float(would.sum()),
            full_full=float((tokens**2).sum()),
            full_would=float((tokens * would).sum()),
            would_would=float((would**2).sum()),
            right=float(full.sum()),
            lost=lost,
            lost_at_most=float(full[changed_there].sum()),
        )
        return sums, float((stopped & full_right & ~there_right).sum()), float(full_right.sum()), changed_there.mean()


@pytest.mark.parametrize(("count", "sure"), [(200, (9, 1)), (2000, (9, 1)), (2000, (40, 1)), (400, (3, 2))])
def test_the_intervals_hold_the_truth(count: int, sure: tuple[float, float]) -> None:
    truth, lost, right, change = Traffic(1, sure=sure).draw(400_000)
    truths = {lost_correct: lost / right, changed: change, saving: 1 - truth.would / truth.full}
    held = dict.fromkeys(truths, 0)
    traffic = Traffic(2, sure=sure)
    for _ in range(SIMULATIONS):
        sums = traffic.draw(count)[0]
        for estimate, known in truths.items():
            found = estimate(sums)
            assert found is not None
            held[estimate] += found.low <= known <= found.high
    for estimate, times in held.items():
        # 95 of 100, less what chance takes of so many simulations; the saving's interval is approximate.
        least = 0.93 if estimate is saving else 0.95
        assert binomtest(times, SIMULATIONS, least, alternative="less").pvalue > 0.01, (estimate.__name__, times)
    assert lost_correct(truth).estimate == pytest.approx(lost / right, rel=0.25)  # type: ignore[union-attr]


def test_more_canaries_make_narrower_intervals() -> None:
    few, many = (Traffic(3).draw(count)[0] for count in (200, 5000))
    for estimate in (changed, saving, lost_correct):
        wide, narrow = estimate(few), estimate(many)
        assert wide is not None
        assert narrow is not None
        assert narrow.high - narrow.low < wide.high - wide.low


def test_nothing_seen_is_not_known() -> None:
    assert (changed(CanarySums()), saving(CanarySums()), lost_correct(CanarySums())) == (None, None, None)
    assert saving(CanarySums(whole=1, full=9, would=9)) is None


def test_no_change_still_leaves_room_for_one() -> None:
    found = changed(CanarySums(whole=300))
    assert found is not None
    assert (found.estimate, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(0.0122, abs=1e-4), "the exact bound of 0 in 300"


@given(total=st.integers(1, 300), data=st.data())
def test_the_interval_of_a_count_is_clopper_and_pearsons(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, total))
    found, known = share_of(count, total), binomtest(count, total).proportion_ci(0.95, "exact")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-9)


@given(st.lists(st.floats(0, 1e6), min_size=14, max_size=14), st.lists(st.floats(0, 1e6), min_size=14, max_size=14))
def test_canaries_add_up(one: list[float], other: list[float]) -> None:
    both = CanarySums(*one) + CanarySums(*other)
    assert both.compared == pytest.approx(CanarySums(*one).compared + CanarySums(*other).compared)
    assert (both - CanarySums(*other)).full == pytest.approx(CanarySums(*one).full, abs=1e-6)


@given(
    right=st.floats(0.01, 500),
    lost=st.floats(0, 1),
    most=st.floats(0, 1),
)
def test_the_estimate_of_lost_answers_lies_in_its_interval(right: float, lost: float, most: float) -> None:
    low, high = sorted((lost * right, most * right))
    found = lost_correct(CanarySums(right=right, lost=low, lost_at_most=high))
    assert found is not None
    assert 0 <= found.low <= found.estimate + 1e-9
    assert found.estimate <= found.high + 1e-9 <= 1 + 1e-8

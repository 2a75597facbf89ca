"""The capacity model: what it says by hand, and that the simulation says the same where there is no queue."""

import pytest

from benchmarks.capacity_model import Lengths, at_rate, carried, largest_batch, replicas
from benchmarks.fleet.arrivals import POISSON, arrivals
from benchmarks.fleet.replica import Limits
from benchmarks.fleet.routing import round_robin
from benchmarks.fleet.service import ServiceTimes
from benchmarks.fleet.simulation import Goal, figures, simulate
from benchmarks.fleet.work import Work, requests

TIMES = ServiceTimes(((1, 0.010), (16, 0.025)), prefill=1e-4, request=0.02, restart=2)
WORK = [Work(80), Work(200, restarts=1), Work(320)]


def test_by_hand() -> None:
    lengths = Lengths.of([Work(98, restarts=1), Work(300)], 50, TIMES)
    assert (lengths.mean, lengths.square) == (200, (100**2 + 300**2) / 2)
    found = carried(TIMES, lengths, 16)
    step = 0.025 + 1e-4 * 50 * 16 / 200
    assert found.e2e_mean == pytest.approx(0.02 + 200 * step)
    assert found.requests_per_second == pytest.approx(16 / (0.02 + 200 * step))
    assert found.e2e_p95 == pytest.approx(0.02 + 290 * step)
    assert found.kv_tokens == pytest.approx(16 * (50 + 50_000 / 400))


def test_more_than_it_can_carry_is_told() -> None:
    lengths = Lengths.of(WORK, 50, TIMES)
    most = carried(TIMES, lengths, 16).requests_per_second
    assert at_rate(TIMES, lengths, 1.01 * most, 16) is None
    found = at_rate(TIMES, lengths, 0.5 * most, 16)
    assert found is not None
    assert found.requests_per_second == pytest.approx(0.5 * most)
    assert found.batch == pytest.approx(found.requests_per_second * found.e2e_mean)  # Little's law


def test_replicas_follow_the_latency_that_is_asked_for() -> None:
    lengths = Lengths.of(WORK, 50, TIMES)
    fastest = carried(TIMES, lengths, 1).e2e_p95
    assert largest_batch(TIMES, lengths, 16, 0.9 * fastest) == 0
    assert replicas(TIMES, lengths, 10, 16, 0.9 * fastest) is None
    counts = [replicas(TIMES, lengths, 100, 16, factor * fastest) for factor in (1.0, 1.5, 10)]
    assert None not in counts
    assert counts == sorted(counts, key=lambda count: -(count or 0))
    assert counts[0] != counts[-1]


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_simulation_agrees_where_nothing_queues(share: float) -> None:
    times = TIMES
    lengths = Lengths.of(WORK, 50, times)
    rate = share * carried(times, lengths, 16).requests_per_second
    predicted = at_rate(times, lengths, rate, 1000)
    assert predicted is not None
    made = requests(arrivals(rate, 3000 / rate, POISSON, 1), WORK, 50, seed=1)
    fleet, seconds = simulate(made, 1, times, Limits(1000), round_robin())
    found = figures(made, fleet, seconds, Goal())
    assert found.present + rate * times.request == pytest.approx(predicted.batch, rel=0.12)
    assert found.e2e_mean == pytest.approx(predicted.e2e_mean, rel=0.12)
    # The model's p95 is that of the lengths alone; that batches vary comes on top.
    assert predicted.e2e_p95 < found.e2e_p95 < 1.3 * predicted.e2e_p95

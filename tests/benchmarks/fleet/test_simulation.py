"""The simulated fleet: laws that hold for every queue, closed forms that it meets in their limits, and its limits."""

import random
from collections.abc import Sequence

import pytest

from benchmarks.fleet.arrivals import POISSON, arrivals
from benchmarks.fleet.replica import Limits, Replica
from benchmarks.fleet.routing import ROUTERS, affinity, least_loaded, round_robin
from benchmarks.fleet.service import ServiceTimes
from benchmarks.fleet.simulation import Figures, Goal, figures, simulate
from benchmarks.fleet.work import Request, Work, requests

ALONE = Limits(running=1)
ANY = Goal()


def run(
    made: Sequence[Request], times: ServiceTimes, limits: Limits, replicas: int = 1, router: str = "round robin"
) -> tuple[Figures, list[Replica]]:
    fleet, seconds = simulate(made, replicas, times, limits, ROUTERS[router]())
    return figures(made, fleet, seconds, ANY), fleet


def poisson(rate: float, count: int, work: Sequence[Work], seed: int = 1) -> list[Request]:
    return requests(arrivals(rate, count / rate, POISSON, seed), work, 0, seed=seed)


def test_one_request_takes_its_prompt_and_its_tokens() -> None:
    times = ServiceTimes(((1, 0.5),), prefill=0.1, request=2.0, restart=3)
    request = Request(1.0, 10, Work(4, restarts=2))
    run([request], times, ALONE)
    assert request.first == pytest.approx(1 + 0.5 + 10 * 0.1 + 2)
    assert request.end == pytest.approx(1 + (4 + 2 * 3) * 0.5 + 10 * 0.1 + 2)


def test_a_newcomer_joins_after_the_step_under_way_and_both_slow_down() -> None:
    times = ServiceTimes(((1, 1.0), (2, 2.0)))
    first, second = Request(0.0, 0, Work(4)), Request(1.5, 0, Work(2))
    run([first, second], times, Limits(running=2))
    assert (second.admitted, second.first, second.end) == (2.0, 4.0, 6.0)
    assert first.end == 6.0  # two steps alone, two together


def test_without_room_the_next_waits_and_the_one_after_is_refused() -> None:
    times = ServiceTimes(((1, 1.0),))
    made = [Request(0.0, 0, Work(3)), Request(0.5, 0, Work(3)), Request(0.6, 0, Work(3))]
    found, _ = run(made, times, Limits(running=1, waiting=1))
    assert [request.refused for request in made] == [False, False, True]
    assert made[1].admitted == 3.0
    assert made[2].end is None
    assert found.refused == 1
    assert found.good_share == pytest.approx(2 / 3)


def test_mm1_in_the_limit_of_one_sequence_and_short_steps() -> None:
    rng = random.Random(0)
    lengths = [Work(max(1, round(rng.expovariate(1 / 500)))) for _ in range(20_000)]
    found, _ = run(poisson(0.7, 40_000, lengths), ServiceTimes(((1, 1 / 500),)), ALONE)
    assert found.utilization == pytest.approx(0.7, rel=0.03)
    assert found.e2e_mean == pytest.approx(1 / (1 - 0.7), rel=0.08)


def test_md1_in_the_limit_of_equal_lengths() -> None:
    found, _ = run(poisson(0.7, 40_000, [Work(100)]), ServiceTimes(((1, 0.01),)), ALONE)
    assert found.e2e_mean == pytest.approx(1 + 0.7 / (2 * (1 - 0.7)), rel=0.06)


def test_processor_sharing_in_the_limit_of_steps_that_grow_with_the_batch() -> None:
    """A step proportional to its batch shares the engine equally: M/G/1-PS, whose mean time depends on the mean length
    alone."""
    times = ServiceTimes(((1, 0.005), (1000, 5.0)))
    for work in ([Work(200)], [Work(20), Work(380)]):
        found, _ = run(poisson(0.6, 30_000, work), times, Limits(running=1000))
        assert found.e2e_mean == pytest.approx(1 / (1 - 0.6), rel=0.08)


def test_without_contention_many_at_once_take_what_one_takes() -> None:
    found, _ = run(poisson(50, 5_000, [Work(100)]), ServiceTimes(((1, 0.01),)), Limits(running=10_000))
    assert found.e2e_mean == pytest.approx(1.0, rel=0.02)  # an M/D/infinity queue; up to a step until it joins
    assert found.present == pytest.approx(50, rel=0.05)


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("limits", [Limits(4), Limits(4, 2), Limits(8, 3, kv_tokens=900)])
def test_laws_of_every_queue(router: str, limits: Limits) -> None:
    rng = random.Random(7)
    work = [Work(rng.randint(1, 300), rng.randint(0, 2)) for _ in range(100)]
    made = requests(arrivals(3.0, 400, POISSON, 3), work, 50, seed=5, turns=2.5)
    times = ServiceTimes(((1, 0.01), (8, 0.02)), prefill=1e-4, restart=2)
    found, fleet = run(made, times, limits, 3, router)
    served = [request for request in made if request.end is not None]
    assert len(served) + found.refused == found.requests == len(made)
    assert all((request.end is None) == request.refused for request in made)
    for request in served:
        assert request.admitted is not None
        assert request.first is not None
        assert request.end is not None
        assert request.due <= request.admitted < request.first <= request.end
    assert found.largest_batch <= limits.running
    assert limits.kv_tokens is None or found.kv_tokens <= limits.kv_tokens
    assert all(replica.busy <= found.seconds + 1e-9 and replica.load == 0 for replica in fleet)
    # Little's law: the mean number in the fleet is the rate of those let in times the mean time in it.
    total = sum(request.end - request.due for request in served if request.end is not None)
    assert found.present * found.seconds == pytest.approx(total)


def test_a_request_that_no_cache_could_hold_is_refused_instead_of_waited_for() -> None:
    made = [Request(0.0, 90, Work(20)), Request(0.1, 10, Work(20))]
    run(made, ServiceTimes(((1, 0.1),)), Limits(4, kv_tokens=100))
    assert made[0].refused
    assert made[1].end is not None


def test_a_full_cache_holds_the_next_back() -> None:
    made = [Request(0.0, 0, Work(60)), Request(0.0, 0, Work(60))]
    found, _ = run(made, ServiceTimes(((1, 1.0),)), Limits(4, kv_tokens=100))
    assert (found.largest_batch, made[1].admitted) == (1, 60.0)


def test_the_least_loaded_replica_beats_taking_turns() -> None:
    work = [Work(10), Work(10), Work(10), Work(970)]
    times = ServiceTimes(((1, 0.004), (16, 0.008)))
    turns, _ = run(poisson(3.0, 3_000, work), times, Limits(4), 4, "round robin")
    least, _ = run(poisson(3.0, 3_000, work), times, Limits(4), 4, "least loaded")
    assert least.wait_p95 <= turns.wait_p95
    assert least.e2e_mean < turns.e2e_mean


def test_affinity_finds_a_conversations_prefix() -> None:
    times = ServiceTimes(((1, 0.001),), prefill=0.001)

    def mean(router: str) -> float:
        made = requests(arrivals(2.0, 500, POISSON, 2), [Work(10)], 100, seed=2, turns=4)
        return run(made, times, Limits(16), 8, router)[0].ttft_p95

    assert mean("affinity") < 0.8 * mean("round robin")


def test_routers() -> None:
    fleet, _ = simulate([], 3, ServiceTimes(((1, 1.0),)), ALONE, round_robin())
    turns, least, same = round_robin(), least_loaded(), affinity()
    asked = [Request(0.0, 0, Work(1), conversation=number) for number in range(300)]
    assert [turns(request, fleet) for request in asked[:4]] == [0, 1, 2, 0]
    fleet[0].offer(asked[0])
    assert least(asked[1], fleet) == 1
    places = [same(request, fleet) for request in asked]
    assert [same(request, fleet) for request in asked] == places
    assert all(80 <= places.count(place) <= 120 for place in range(3))


def test_more_replicas_never_do_less() -> None:
    work = [Work(50), Work(400)]
    shares = []
    for replicas in (1, 2, 4, 8):
        made = poisson(4.0, 2_000, work)
        fleet, seconds = simulate(made, replicas, ServiceTimes(((1, 0.01),)), Limits(4, 2), least_loaded())
        shares.append(figures(made, fleet, seconds, Goal(e2e=6)).good_share)
    assert shares == sorted(shares)
    assert shares[0] < 0.5 < 0.99 < shares[-1]


def test_a_goal_that_is_missed_is_not_goodput() -> None:
    request = Request(0.0, 0, Work(10))
    fleet, seconds = simulate([request], 1, ServiceTimes(((1, 1.0),)), ALONE, round_robin())
    shares = [figures([request], fleet, seconds, goal).good_share for goal in (Goal(1, 10), Goal(0.9, 10), Goal(1, 9))]
    assert shares == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("points", [(), ((0, 1.0),), ((2, 1.0), (1, 2.0)), ((1, 1.0), (1, 2.0)), ((1, -1.0),)], ids=str)
def test_wrong_service_times_are_refused(points: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ValueError, match=r"steps|negative"):
        ServiceTimes(points)


def test_steps_between_the_measured_ones_and_beyond() -> None:
    times = ServiceTimes(((2, 1.0), (4, 2.0), (8, 3.0)), 0.1, 0.2, 0.3)
    assert [times.step(batch) for batch in (1, 2, 3, 4, 6, 8, 12)] == [1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0]
    assert ServiceTimes.read(times.plain()) == times


@pytest.mark.parametrize(("running", "waiting"), [(0, None), (1, -1)])
def test_wrong_limits_are_refused(running: int, waiting: int | None) -> None:
    with pytest.raises(ValueError, match="running"):
        Limits(running, waiting)

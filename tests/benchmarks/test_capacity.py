"""The capacity measurement: constants, rates and ratios of runs whose times are known, and the section of the page."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from benchmarks import capacity
from benchmarks.capacity_report import ratios, section
from benchmarks.capacity_rounds import Bench, _rate, _replayed, _restart, _times, timed
from benchmarks.fleet.replica import Limits
from benchmarks.fleet.service import ServiceTimes
from benchmarks.fleet.simulation import Goal
from benchmarks.load_client import Run, Sample
from benchmarks.waiting import Waited

STEP = 0.02


def sample(due: float, tokens: int, *, step: float = STEP, first: float = 0.05) -> Sample:
    return Sample(due, due + first, due + first + step * (tokens - 1), [], tokens)


def test_steps_and_what_is_outside_the_engine() -> None:
    runs = {1: ([sample(0, 48), sample(2, 48)], 1.0), 4: ([sample(0, 48, step=0.03)] * 3, 1.0)}
    found = _times(runs, 0.0, 20)
    assert [found.step(clients) for clients in (1, 4)] == pytest.approx([STEP, 0.03])
    assert found.request == pytest.approx(0.05 - STEP)
    with_prompts = _times(runs, 1e-4, 20)
    assert with_prompts.step(4) == pytest.approx(0.03 - 1e-4 * 20 * 3 / 48)
    assert with_prompts.request == pytest.approx(0.05 - STEP - 1e-4 * 20)


def test_constants_are_those_of_a_machine_of_ones_own() -> None:
    runs = {1: ([sample(0, 48)], 2.0), 4: ([sample(0, 48, step=0.03)], 3.0)}
    found = _times(runs, 0.0, 20)
    assert [seconds for _, seconds in found.steps] == pytest.approx([STEP / 2, 0.01])
    assert found.request == pytest.approx((0.05 - STEP) / 2)
    assert found.slower(3.0).step(4) == pytest.approx(0.03)
    assert found.slower(3.0).restart == found.restart


async def test_slow_cpus_count_as_much_as_waiting_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench("http://nowhere", "m", os.getpid(), [], Limits(1), 1.0, work=0.001)
    monkeypatch.setattr("benchmarks.capacity_rounds.work_seconds", lambda: 0.003)
    monkeypatch.setattr("benchmarks.capacity_rounds.between", lambda before, after: Waited(2.0, 1.0))
    assert await timed(bench, asyncio.sleep(0.01, "done")) == ("done", pytest.approx(1.5 * 3.0))


def test_a_stop_costs_what_its_gap_is_longer_than_a_step() -> None:
    times = ServiceTimes(((1, 0.02),))
    assert _restart([("sure", 0.06), ("hopeless", 0.10), ("natural", 9.0), ("sure", 0.08)], times) == pytest.approx(3)
    assert _restart([("natural", 9.0)], times) == 0


def test_tokens_after_the_clients_began_to_leave_do_not_count() -> None:
    whole = Sample(0.0, 0.0, 8.0, [], 80)
    half = Sample(5.0, 5.0, 15.0, [], 100)
    assert _rate([whole, half], 10.0) == pytest.approx((80 + 50) / 10)


def test_a_run_is_replayed_with_its_own_arrivals_and_lengths() -> None:
    """One place and none to wait: the second comes while the first is there and is refused; the third is not."""
    refused = Sample(0.5, error="HTTP 429: full")
    run = Run("DRR", "1 requests/s", 4.0, [sample(0.0, 50), refused, sample(2.0, 50)])
    times = ServiceTimes(((1, STEP),))
    found = _replayed(run, Limits(1, 0), times, 10.0, [50], 0.0, Goal(e2e=1.1), 1)
    assert (found["requests"], found["refused"]) == (3, 1)
    assert found["e2e_mean"] == pytest.approx(1.0)
    assert found["goodput"] == pytest.approx(2 / 3.0)


def record() -> dict[str, object]:
    """Two rounds that predict 10 % too much and 20 % too little."""

    def one(factor: float) -> dict[str, object]:
        figures = {"tokens_per_second": 100.0, "e2e_mean": 2.0, "e2e_p95": 4.0, "kv_tokens": 500.0}
        under = {"goodput": 3.0, "e2e_mean": 2.0, "e2e_p95": 4.0}
        plain = ServiceTimes(((1, 0.01), (16, 0.02)), 1e-5, 0.01, 2.0).plain()
        slower = {**plain, "steps": [[1, 0.011], [16, 0.022]]}
        return {
            "constants": {"full": plain, "judged": slower},
            "own": 0.4, "others": 0.5, "stolen": 0.0,
            "closed": [
                {"name": "DRR", "clients": 8, "requests": 30, "slowdown": 1.0, "measured": figures,
                 "predicted": {key: factor * value for key, value in figures.items()}}
            ],
            "open": [
                {"share": 0.4, "slowdown": 2.0, "measured": {**under, "requests": 20, "refused": 1},
                 "simulated": {**{key: factor * value for key, value in under.items()}, "refused": 1.4}}
            ],
        }  # fmt: skip

    return {"machine": "x, 2 cores", "rounds": [one(1.1), one(0.8)]}


def test_the_section_tells_what_was_predicted_and_how_often_it_holds() -> None:
    found = record()
    rounds = found["rounds"]
    assert isinstance(rounds, list)
    assert ratios(rounds, "open", 0, "goodput") == pytest.approx([1.1, 0.8])
    text = section(found)
    assert "2 rounds" in text
    assert "took 1.5 (1 to 2) times as long" in text
    assert "other processes 50 % (50 to 50)" in text
    assert "| decode step of 16, ms | 20 (20 to 20) | 22 (22 to 22) |" in text
    assert "A judged step takes 1.1 (1.1 to 1.1) times" in text
    assert "| 60 | tokens a second | 0.95 (0.8 to 1.1) | 1 of 2 |" in text
    assert "(2 refused, simulated 3) | 40 | goodput | 0.95 (0.8 to 1.1) | 1 of 2 |" in text


def test_the_record_is_written_into_the_page(tmp_path: Path) -> None:
    (tmp_path / "capacity.json").write_text(json.dumps(record()))
    page = tmp_path / "page.md"
    page.write_text("<!-- capacity: written by x -->\n<!-- end of capacity -->\n")
    capacity.report(tmp_path / "capacity.json", page)
    assert page.read_text().startswith(
        "<!-- capacity: written by python -m benchmarks.capacity report -->\nThe reference"
    )
    page.write_text("no section")
    with pytest.raises(ValueError, match="no section capacity"):
        capacity.report(tmp_path / "capacity.json", page)

"""Arrivals with the shape that was asked for, and lengths from recorded evaluations."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.fleet.arrivals import CODING, CONVERSATION, POISSON, Shape, arrivals, read_trace, shape_of
from benchmarks.fleet.work import Work, drawn, recorded, requests
from drr.errors import InputError

HOURS = 40 * 3600


@pytest.mark.parametrize("shape", [POISSON, CONVERSATION, Shape(2.0, 0.5, 0.5)], ids=["poisson", "azure", "bursts"])
def test_arrivals_have_the_rate_and_the_shape_that_was_asked_for(shape: Shape) -> None:
    found = arrivals(2.0, HOURS, shape, 1)
    assert found == sorted(found)
    assert len(found) == pytest.approx(2.0 * HOURS, rel=0.05)
    told = shape_of(found)
    assert told.gap_cv == pytest.approx(shape.gap_cv, rel=0.08)
    assert told.minute_cv == pytest.approx(shape.minute_cv, abs=0.08)
    if shape.persistence > 0.6:  # chance in the counts weakens what is seen of it
        assert told.persistence == pytest.approx(shape.persistence, abs=0.2)


def test_coding_comes_in_bursts() -> None:
    counts = np.bincount(np.asarray(arrivals(1.0, HOURS, CODING, 1)).astype(int) // 60)
    assert counts.std() / counts.mean() > 0.7


def test_arrivals_repeat_for_a_seed_and_differ_between_seeds() -> None:
    assert arrivals(1.0, 600, CONVERSATION, 1) == arrivals(1.0, 600, CONVERSATION, 1)
    assert arrivals(1.0, 600, CONVERSATION, 1) != arrivals(1.0, 600, CONVERSATION, 2)


@pytest.mark.parametrize("wrong", [(0.0, 0.0, 0.0), (1.0, -1.0, 0.0), (1.0, 0.0, 1.0)])
def test_a_wrong_shape_is_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="gap_cv"):
        Shape(*wrong)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rate"):
        arrivals(0.0, 10, POISSON, 1)


def test_a_trace_is_read_with_seven_digits_of_a_second(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens\n2023-11-16 18:15:46.6805900,374\n2023-11-16 18:15:50,396\n")
    first, second = read_trace(path)
    assert second - first == pytest.approx(50 - 46.68059, abs=1e-6)
    path.write_text("when\nnow\n")
    with pytest.raises(InputError, match="TIMESTAMP"):
        read_trace(path)


def test_a_short_trace_has_no_shape() -> None:
    with pytest.raises(ValueError, match="three whole minutes"):
        shape_of([0.0, 1.0, 70.0])


def test_lengths_come_from_a_record(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.parquet"
    rows = [
        {"tokens": 300, "stop_cause": "natural", "attempts": 1, "right": True},
        {"tokens": 90, "stop_cause": "dm_stop", "attempts": 1, "right": False},
        {"tokens": 0, "stop_cause": "sure", "attempts": 3, "right": True},
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert recorded(path) == [Work(300, 0, True), Work(90, 1, False), Work(1, 3, True)]
    pq.write_table(pa.Table.from_pylist(rows).slice(0, 0), path)
    with pytest.raises(InputError, match="holds no responses"):
        recorded(path)


def test_two_strategies_get_the_same_questions() -> None:
    full, short = [Work(100 + number) for number in range(50)], [Work(10 + number) for number in range(50)]
    moments = arrivals(1.0, 100, POISSON, 1)
    pairs = zip(requests(moments, full, 5, seed=3), requests(moments, short, 5, seed=3), strict=True)
    assert all(left.work.tokens - right.work.tokens == 90 for left, right in pairs)
    assert drawn(5, 50, 1) == drawn(5, 50, 1)


def test_turns_of_a_conversation_share_what_came_before() -> None:
    made = requests([float(number) for number in range(2_000)], [Work(100)], 50, seed=1, turns=4)
    talks = {request.conversation for request in made}
    assert len(made) / len(talks) == pytest.approx(4, rel=0.1)
    for request in made:
        assert request.prompt == 50 + request.shared
        assert request.shared % 60 == 0  # 50 of the prompt, a tenth of the response
    assert {request.shared for request in made} >= {0, 60, 120}
    with pytest.raises(ValueError, match="turn"):
        requests([0.0], [Work(1)], 1, seed=1, turns=0.5)

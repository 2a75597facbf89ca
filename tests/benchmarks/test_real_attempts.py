"""Right against wrong attempts: who knows it, and whether the figures of a set are those of its questions."""

import math

import pytest

from benchmarks.real.attempts import attempts_table, judged_attempts
from benchmarks.real.report import _needed
from drr.evaluate.report import ALL
from drr.evaluate.run import Row, StrategyOutcomes
from drr.evaluate.strategies import SAMPLES
from drr.tasks.grading_pool import Grading


def samples(scores: dict[str, tuple[float, float]]) -> StrategyOutcomes:
    """Three right and two wrong attempts at each of 30 questions of every group; the wrong ones differ. By group, what
    the DM says of right and of wrong attempts."""
    rows = [
        Row(number, group, place, answer, answer == "7", 9, 5, 0, 1, says[answer != "7"], 0, "natural")
        for first, (group, says) in enumerate(scores.items())
        for number in range(30 * first, 30 * first + 30)
        for place, answer in enumerate(["7", "3", "7", "5", "7"])
    ]
    return StrategyOutcomes("5 samples", SAMPLES, 1.0, rows)


def test_agreement_and_the_dm_tell_what_they_know() -> None:
    knows, inverts = (0.9, 0.2), (0.2, 0.9)
    with Grading("auto") as grading:
        found = judged_attempts([samples({"sums": knows, "facts": inverts})], grading)
    assert list(found) == [ALL, "facts", "sums"]
    assert [found["sums"][name]["within"]["auroc"] for name in ("DM", "agreement", "both")] == [1, 1, 1]
    assert found["facts"]["DM"]["within"] == {"auroc": 0.0, "interval": [0.0, 0.0]}
    assert found["facts"]["both"]["within"]["auroc"] == 0, "three times 0.2 is less than once 0.9"
    assert found[ALL]["DM"]["within"]["auroc"] == 0.5
    assert 0.25 < found[ALL]["DM"]["within"]["interval"][0] < 0.45
    assert "| facts | 0.000 [0.000, 0.000] | 1.000 [1.000, 1.000] |" in attempts_table(found)


def test_samples_that_were_not_scored_are_not_judged() -> None:
    with Grading("auto") as grading:
        assert judged_attempts([samples({"sums": (math.nan, math.nan)})], grading) == {}
        assert judged_attempts([], grading) == {}


@pytest.mark.parametrize(("risk", "least"), [(0.01, 299), (0.02, 149), (0.05, 59), (0.1, 29)])
def test_what_a_certificate_needs(risk: float, least: int) -> None:
    assert _needed(risk, 0.95, 0.5) == (least, 2 * least)
    assert (1 - risk) ** least <= 0.05 < (1 - risk) ** (least - 1)

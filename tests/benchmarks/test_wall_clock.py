"""The wall-clock comparison, on runs whose times, tokens and answers are known."""

import pytest

from benchmarks.load_client import Run, Sample
from benchmarks.load_report import LatencyGoals, figures, ratios
from benchmarks.wall_clock import _place, compared, section
from drr.tasks import Question

QUESTIONS = [Question("?", str(number), "counting", 1) for number in range(4)]


def run_of(target: str, seconds: float, tokens: int, answers: str) -> Run:
    samples = [Sample(0.0, 0.1, seconds, [0.1], tokens, f"The answer is {answer}.") for answer in answers]
    return Run(target, "2 clients", seconds, samples, 0.25)


RAW = [run_of("raw vLLM", 10.0, 100, "0123"), run_of("raw vLLM", 12.0, 100, "0129")]
OURS = [run_of("DRR, auto", 5.0, 50, "0129"), run_of("DRR, auto", 8.0, 30, "0199")]


def test_servers_are_compared_by_clock_tokens_and_answers() -> None:
    found = compared(OURS, RAW, QUESTIONS)
    assert found["accuracy"] == pytest.approx(5 / 8)
    assert found["gain_points"] == pytest.approx(-25)
    low, high = found["gain_interval"]
    assert -75 <= low < -25 < high <= 0
    assert found["tokens"] == 40
    assert found["raw_tokens_per_token"] == pytest.approx(2.5)
    assert found["faster"] == {"median": pytest.approx(1.75), "least": pytest.approx(1.5), "greatest": 2.0}


def test_a_server_is_exactly_as_good_as_itself() -> None:
    found = compared(RAW, RAW, QUESTIONS)
    assert (found["gain_points"], found["gain_interval"]) == (0.0, [0.0, 0.0])
    assert found["faster"]["median"] == found["raw_tokens_per_token"] == 1.0


def test_the_section_says_what_was_measured() -> None:
    ours, raw = ([figures(run, LatencyGoals()) for run in runs] for runs in (OURS, RAW))
    measured = {
        "machine": "x, 2 cores",
        "cores": None,
        "questions": len(QUESTIONS),
        "clients": 2,
        "stream_interval": 8,
        "pairs": 2,
        "servers": {"raw vLLM": compared(RAW, RAW, QUESTIONS), "DRR, auto": compared(OURS, RAW, QUESTIONS)},
        "ratios": {"DRR, auto": ratios(raw, ours)},
        "runs": {"raw vLLM": raw, "DRR, auto": ours},
    }
    text = section([measured])
    assert "4 reference test questions, 2 clients, all servers with `--stream-interval 8`; x, 2 cores" in text
    assert "CPU time stolen: 25 % (25 % to 25 %)" in text
    assert "| DRR, auto | 1.750 (1.500 to 2.000) | 62.5 %, -25.0 [" in text
    assert "| 40.0 | 2.50 | 1.000 (1.000 to 1.000) |" in text


def test_most_clients_and_questions_come_first_and_every_load_has_its_place() -> None:
    loads = [(48, 500, 1), (48, 72, 1), (48, 500, 8), (16, 24, 1), (1, 4, 1)]
    places = [_place({"clients": load[0], "questions": load[1], "stream_interval": load[2]}) for load in loads]
    assert len(set(places)) == len(loads)
    assert sorted(places) == places

"""What the benchmark computes, and that the README says what was recorded."""

import json
from pathlib import Path

import numpy as np

from benchmarks.savings import Answer, Run, compared, first_statement, markdown

ROOT = Path(__file__).resolve().parent.parent


def answer(right: bool, tokens: int, reasoning: str = "", steps: tuple[int, ...] = ()) -> Answer:
    return Answer(right, tokens, tokens - 10, "natural", reasoning, steps)


def test_runs_are_compared_question_by_question() -> None:
    base = Run("off", [answer(True, 100), answer(True, 100), answer(False, 100), answer(False, 100)], 2.0)
    run = Run("auto", [answer(True, 50), answer(False, 50), answer(True, 50), answer(True, 70)], 1.0)
    figures = compared(run, base, np.random.default_rng(0))
    assert (figures["lost_correct"], figures["gained_correct"]) == (1, 2)
    assert figures["accuracy_gain_points"] == 25.0
    assert figures["tokens_saved"] == 0.45
    low, high = figures["accuracy_gain_interval"]
    assert low < 25.0 < high
    assert compared(base, base, np.random.default_rng(0))["accuracy_gain_interval"] == [0.0, 0.0]


def test_the_first_statement_is_found_in_tokens() -> None:
    reasoning = "gain: 1+2=3.\n\nSo the answer is 3.\n\nLet me check.\n\n"
    assert first_statement(answer(True, 30, reasoning, (7, 6, 4))) == 13
    assert first_statement(answer(True, 30, "gain: 1+2=3.\n\n", (7,))) is None


def test_the_readme_says_what_was_recorded() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "savings.json").read_text())
    assert markdown(results) in (ROOT / "README.md").read_text()

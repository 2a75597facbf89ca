"""Strategies may be typed as they are printed."""

import re
from dataclasses import replace

import pytest

from drr.evaluate.report import strategy_arrays
from drr.evaluate.run import StrategyOutcomes
from drr.evaluate.strategies import FULL, SAMPLES, Strategy, all_strategies
from drr.evaluate.strategy_names import select_strategies
from drr.tasks.grading_pool import Grading
from tests.evaluate.test_evaluate import CALIBRATION, row

EVERYTHING = all_strategies(("dm", "entropy", "self_critique", "random"), {"dm": CALIBRATION}, (2, 4))


def chosen(*parts: str) -> set[str]:
    return {strategy.name for strategy in select_strategies(EVERYTHING, parts)} - {FULL}


@pytest.mark.parametrize("strategy", EVERYTHING, ids=lambda strategy: strategy.name)
def test_a_name_means_its_strategy_however_it_is_typed(strategy: Strategy) -> None:
    name = strategy.name
    for typed in (name, name.upper(), f"  {name} ", name.replace(", ", ","), name.replace(" ", "  "), f"'{name}'"):
        assert chosen(typed) == {name} - {FULL}


@pytest.mark.parametrize("family", sorted({strategy.family for strategy in EVERYTHING} - {"full", "greedy"}))
def test_a_familys_label_means_its_strategies(family: str) -> None:
    expected = {strategy.name for strategy in EVERYTHING if strategy.family == family}
    assert chosen(family) == chosen(family.title()) == chosen(f"{family} (3)") == expected


def test_labels_of_the_readme_are_understood() -> None:
    assert all(name.startswith("dm, ") for name in chosen("stop: dm"))
    assert chosen("STOP:DM") == chosen("stop: dm")
    assert chosen("rethink: dm") == {"rethink: dm, 2", "rethink: dm, 4"}
    assert chosen("oracle (1)") == {"oracle stop"}
    assert chosen("stated (1)") == chosen("stated answer")


def test_what_samples_are_combined_to_is_made_of_samples() -> None:
    rows = [replace(row(q, s, "3", True, 100, 0.5)) for q in range(3) for s in range(4)]
    combined = strategy_arrays([StrategyOutcomes("4 samples", SAMPLES, 1.0, rows)], Grading("text"))
    assert len(combined) > 3
    for printed in combined:
        assert chosen(printed.name) == {"4 samples"}
    assert chosen("self-consistency") == chosen("best of k: dm") == chosen("any of k (oracle)") == {"4 samples"}


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("greddy", "greedy"),
        ("buget 32", "budget 32"),
        ("rethink: entrpy, 2", "rethink: entropy, 2"),
        ("dm, defalt", "dm, "),
    ],
)
def test_what_nobody_knows_is_answered_with_the_nearest_first(typed: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{typed!r} fits none of:\n  {nearest}")) as error:
        chosen("greedy", typed)
    listed = str(error.value).split("\n  ")[1:]
    assert sorted(listed) == sorted(strategy.name for strategy in EVERYTHING), "one a line, each once"


def test_nothing_is_no_name() -> None:
    for typed in ("", "  ", "''"):
        with pytest.raises(ValueError, match="fits none of"):
            chosen(typed)

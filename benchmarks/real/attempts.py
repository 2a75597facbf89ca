"""Which of several attempts at a question are right? By the DM, by agreement and by both, on recorded samples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.real.intervals import draws, interval, resampled_auroc, resampled_within
from drr.evaluate.combined import Samples, read_samples
from drr.evaluate.report import ALL, by_question
from drr.evaluate.run import StrategyOutcomes
from drr.evaluate.strategies import SAMPLES
from drr.evaluate.tables import markdown_table
from drr.learn.arrays import Flags, Reals
from drr.tasks.grading_pool import Grading

_JUDGES: dict[str, Callable[[Samples], Reals]] = {
    "DM": lambda one: one.p_now,
    "agreement": lambda one: one.votes(len(one.rows)),
    "both": lambda one: one.votes(len(one.rows), one.p_now),
}
"""What is said of every sample of a question: the DM's `p_now`, how many samples give its answer, and their `p_now`
together."""


def judged_attempts(outcomes: Sequence[StrategyOutcomes], grading: Grading) -> dict[str, dict[str, Any]]:
    """By group (all questions first) and judge, AUROC of right against wrong samples, over all and within questions,
    each with its 95 % interval. Empty without samples that were scored."""
    found = next((outcome for outcome in outcomes if outcome.family == SAMPLES), None)
    if found is None or all(np.isnan(row.p_now) for row in found.rows):
        return {}
    asked = read_samples(by_question(found.rows), grading)
    groups = {ALL: asked}
    for name in sorted({one.rows[0].group for one in asked}):
        groups[name] = [one for one in asked if one.rows[0].group == name]
    return {name: _judged(members) for name, members in groups.items()}


def attempts_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for every group: the AUROC of every judge, over all attempts and within questions."""
    rows = [
        [group, *(_cell(judges[name][part]) for part in ("all", "within") for name in _JUDGES)]
        for group, judges in found.items()
    ]
    head = [*_JUDGES, *(f"{name}, within a question" for name in _JUDGES)]
    return markdown_table(["", *head], rows)


def _judged(asked: Sequence[Samples]) -> dict[str, Any]:
    right = np.asarray([row.right for one in asked for row in one.rows], dtype=bool)
    question = np.repeat(np.arange(len(asked)), [len(one.rows) for one in asked])
    drawn = draws(len(asked))
    return {
        name: _figures(np.concatenate([says(one) for one in asked]), right, question, drawn)
        for name, says in _JUDGES.items()
    }


def _figures(
    scores: Reals, right: Flags, question: NDArray[np.int64], drawn: NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    made = {
        "all": resampled_auroc(scores, right, question, drawn),
        "within": resampled_within(scores, right, question, drawn),
    }
    return {
        part: {"auroc": round(float(values[0]), 4), "interval": interval(values[1:])} for part, values in made.items()
    }


def _cell(figure: Mapping[str, Any]) -> str:
    if figure["interval"] is None:
        return "-"
    least, most = figure["interval"]
    return f"{figure['auroc']:.3f} [{least:.3f}, {most:.3f}]"

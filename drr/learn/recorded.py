"""Behaviour records from finished solutions, right or wrong, that were recorded elsewhere.

No answers can be forced in them, so `now` is known at the last boundary only, where it is the solution's outcome. Token
probabilities are not known at all.
"""

import re
from collections import defaultdict
from functools import cache
from typing import Any

from drr.learn.records import Rollout
from drr.loop.stated import answer_in
from drr.loop.steps import StepRule, StepSegmenter
from drr.tasks.grading_pool import Grading
from drr.tasks.sources import (
    ANSWER_COLUMNS,
    QUESTION_COLUMNS,
    BadRowError,
    Reject,
    find_column,
    gold_field,
    keep_good,
    read_rows,
    text_field,
)

SOLUTION_COLUMNS = ("solution", "response", "completion", "output", "generation")
CORRECT_COLUMNS = ("is_correct", "correct", "is_right")

_WORDS = re.compile(r"\s+|[^\s]+")


def load_recorded(
    source: str,
    rule: StepRule,
    grading: Grading,
    *,
    question_column: str | None = None,
    answer_column: str | None = None,
    solution_column: str | None = None,
) -> tuple[list[Rollout], list[Reject]]:
    """The solutions in `source` as rollouts, and the rows set aside.

    A column `is_correct` is trusted; without one the solution is graded against the answer column, and a row whose gold
    answer cannot be read is set aside. Token counts are counts of words, because the tokenizer that the text was
    written with is unknown.
    """
    rows = read_rows(source)
    first = next((row for _, row in rows if isinstance(row, dict)), {})
    question_name = find_column(source, first, "question", question_column, QUESTION_COLUMNS)
    solution_name = find_column(source, first, "solution", solution_column, SOLUTION_COLUMNS)
    correct_name = next((name for name in CORRECT_COLUMNS if name in first), None)
    usual = [name for name in ANSWER_COLUMNS if name != solution_name]
    answer_name = find_column(source, first, "answer", answer_column, usual, optional=correct_name is not None)
    samples: dict[str, int] = defaultdict(int)
    rejects: list[Reject] = []

    gold_fault = cache(grading.gold_fault)

    def rollout_of(row: dict[str, Any], number: int) -> Rollout:
        question, solution = text_field(row, question_name), text_field(row, solution_name)
        gold = gold_field(row, answer_name, needed=correct_name is None)
        if correct_name is None and (fault := gold_fault(gold)) is not None:
            raise BadRowError(answer_name, fault)
        named = f"row {number}"
        right = grading.right(solution, gold, named) if correct_name is None else _flag(row, correct_name)
        steps = split_text(solution, rule)
        lengths = [len(_WORDS.findall(step)) for step in steps]
        samples[question] += 1
        unknown: list[Any] = [None] * len(steps)
        return Rollout(
            question=question,
            gold=gold,
            family="",
            difficulty=0,
            sample=samples[question] - 1,
            later=right,
            thinking_tokens=sum(lengths),
            total_tokens=sum(lengths),
            answer=answer_in(solution),
            steps=steps,
            step_tokens=lengths,
            logprobs=list(unknown),
            forced=[*unknown[1:], answer_in(solution)],
            now=[*unknown[1:], right],
        )

    return list(keep_good(source, rows, rollout_of, rejects)), rejects


def split_text(text: str, rule: StepRule) -> list[str]:
    """The steps of a finished text."""
    segmenter = StepSegmenter(rule)
    steps = [step.text for word in _WORDS.findall(text) if (step := segmenter.feed(word)) is not None]
    last = segmenter.finish()
    return [*steps, last.text] if last is not None else steps


def _flag(row: dict[str, Any], name: str) -> bool:
    value = row.get(name)
    if not isinstance(value, bool):
        raise BadRowError(name, f"must be true or false, not {value!r}")
    return value

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
from drr.tasks.fields import (
    ANSWER_COLUMNS,
    CORRECT_COLUMNS,
    QUESTION_COLUMNS,
    SOLUTION_COLUMNS,
    Columns,
    flag_field,
    gold_field,
    text_field,
)
from drr.tasks.grading_pool import Grading
from drr.tasks.questions import folded
from drr.tasks.reading import read_rows
from drr.tasks.rows import BadRowError, Reject, Row, keep_good, nothing_usable

_WORDS = re.compile(r"\s+|[^\s]+")


def load_recorded(
    source: str,
    rule: StepRule,
    grading: Grading,
    *,
    question_column: str | None = None,
    answer_column: str | None = None,
    solution_column: str | None = None,
    notes: list[str] | None = None,
) -> tuple[list[Rollout], list[Reject]]:
    """The solutions in `source` as rollouts, and the rows set aside. Sentences on how the source was read are added to
    `notes`. InputError if it holds no usable solution.

    A column `is_correct` is trusted; without one the solution is graded against the answer column, and a row whose gold
    answer cannot be read is set aside. Token counts are counts of words, because the tokenizer that the text was
    written with is unknown.
    """
    table = read_rows(source)
    rejects: list[Reject] = []
    if not list(keep_good(table.rows, lambda value, _: value, rejects)):
        raise nothing_usable(source, "row", rejects)
    columns = Columns(source, table.rows)
    question_name = columns.find("question", question_column, QUESTION_COLUMNS)
    solution_name = columns.find("solution", solution_column, SOLUTION_COLUMNS)
    correct_name = columns.find("correct", None, CORRECT_COLUMNS, optional=True)
    graded = correct_name is not None
    answer_name = columns.find("answer", answer_column, ANSWER_COLUMNS, optional=graded, but=solution_name)
    samples: dict[str, int] = defaultdict(int)

    gold_fault = cache(grading.gold_fault)

    def rollout_of(row: dict[str, Any], number: Row) -> Rollout:
        question, solution = text_field(row, question_name), text_field(row, solution_name)
        gold = gold_field(row, answer_name, needed=correct_name is None)
        if correct_name is None and (fault := gold_fault(gold)) is not None:
            raise BadRowError(answer_name, fault)
        named = f"row {number.number}"
        right = grading.right(solution, gold, named) if correct_name is None else flag_field(row, correct_name)
        steps = split_text(solution, rule)
        lengths = [len(words_of(step)) for step in steps]
        samples[folded(question)] += 1
        unknown: list[Any] = [None] * len(steps)
        return Rollout(
            question=question,
            gold=gold,
            family="",
            difficulty=0,
            sample=samples[folded(question)] - 1,
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

    rejects = []
    rollouts = list(keep_good(table.rows, rollout_of, rejects))
    if not rollouts:
        raise nothing_usable(source, "solution", rejects)
    if notes is not None:
        notes += table.notes
    return rollouts, rejects


def words_of(text: str) -> list[str]:
    """A text in words and the blanks between them, which stand for tokens where those are not known."""
    return _WORDS.findall(text)


def split_text(text: str, rule: StepRule) -> list[str]:
    """The steps of a finished text."""
    segmenter = StepSegmenter(rule)
    steps = [step.text for word in words_of(text) if (step := segmenter.feed(word)) is not None]
    last = segmenter.finish()
    return [*steps, last.text] if last is not None else steps

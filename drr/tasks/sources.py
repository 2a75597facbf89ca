"""Questions from anywhere: a file of any usual format, a folder, a Hugging Face dataset, a procedural task.

A row that cannot be used is set aside with its reason, and reading goes on. A source that cannot be used at all is an
InputError.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drr.errors import InputError
from drr.tasks.choices import Choices, first_index, read_choices
from drr.tasks.fields import (
    ANSWER_COLUMNS,
    CHOICES_COLUMNS,
    CONTEXT_COLUMNS,
    INPUT_COLUMNS,
    QUESTION_COLUMNS,
    Columns,
    difficulty_field,
    encodable,
    gold_field,
    plain_name,
    same_gold,
    text_field,
)
from drr.tasks.procedural import is_procedural, made_questions
from drr.tasks.questions import Question, folded
from drr.tasks.reading import read_rows
from drr.tasks.rows import BadRowError, Reject, Row, keep_good, nothing_usable

_STEM_KEYS = ("stem", "text", "question")


@dataclass(slots=True)
class Loaded:
    """The questions of a source and its rows set aside. `columns` names the column taken for each role; `notes` are
    sentences on what was read, where that is not plain."""

    questions: list[Question] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    columns: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def told(self) -> list[str]:
        """What a user should know of the reading: the notes, and how many rows were set aside, by kind of reason."""
        kinds = Counter(reject.kind for reject in self.rejects)
        return [*self.notes, *(f"set aside: {count:,} ({kind})" for kind, count in kinds.items())]


def load_questions(
    source: str,
    *,
    question_column: str | None = None,
    answer_column: str | None = None,
    need_answer: bool = True,
    limit: int | None = None,
) -> Loaded:
    """The questions of `source`: a file (JSON lines, JSON, CSV, TSV, Parquet, Arrow; also packed), a folder as
    `FOLDER[:CONFIG[:SPLIT]]`, a Hugging Face dataset id as `OWNER/NAME[:CONFIG[:SPLIT]]`,
    `TASK:COUNT[:SEED[:SPLIT[:SIZES]]]` (arithmetic, countdown or logic; sizes such as 5 or 3-4), or
    `reference:SPLIT[:TASK]`.

    Columns that are not named are found by their usual names. Choices are put into the question. Without `need_answer`
    answers may be missing. Of rows that ask the same question, however it is spelled, the first is kept. InputError if
    the source holds no usable question.
    """
    if limit is not None and limit < 1:
        raise InputError("--limit", f"must be at least 1, not {limit}")
    if is_procedural(source) and not Path(source).exists():
        return Loaded(made_questions(source)[:limit])
    table = read_rows(source)
    loaded = Loaded(notes=table.notes)
    asked = list(keep_good(table.rows, lambda value, row: (value, row), loaded.rejects))
    if not asked:
        raise nothing_usable(source, "row", loaded.rejects)
    reader = _Reader(source, [row for _, row in asked], question_column, answer_column, need_answer)
    loaded.columns = reader.columns
    for role, place in (("context", "before"), ("input", "behind"), ("choices", "behind")):
        if role in loaded.columns:
            loaded.notes.append(f"{source}: {loaded.columns[role]!r} is put {place} {loaded.columns['question']!r}")
    for question in keep_good([row for _, row in asked], reader.question, loaded.rejects):
        if limit is not None and len(loaded.questions) >= limit:
            break
        loaded.questions.append(question)
    loaded.rejects.sort(key=lambda reject: (reject.source, reject.row))
    if not loaded.questions:
        raise nothing_usable(source, "question", loaded.rejects)
    return loaded


class _Reader:
    """Makes a question of every row of one table."""

    def __init__(
        self, source: str, rows: list[Row], question_column: str | None, answer_column: str | None, need_answer: bool
    ) -> None:
        columns = Columns(source, rows)
        self._question = columns.find("question", question_column, QUESTION_COLUMNS)
        self._answer = columns.find("answer", answer_column, ANSWER_COLUMNS, optional=not need_answer)
        self._choices = columns.find("choices", None, CHOICES_COLUMNS, optional=True)
        whole = question_column is not None or plain_name(str(self._question)) == plain_name(QUESTION_COLUMNS[0])
        context = None if whole else columns.find("context", None, CONTEXT_COLUMNS, optional=True)
        self._context = None if context in (self._question, self._answer) else context
        instructs = not whole and plain_name(str(self._question)) == "instruction"
        self._input = columns.find("input", None, INPUT_COLUMNS, optional=True) if instructs else None
        self._need_answer = need_answer
        self._seen: dict[str, tuple[Row, str]] = {}
        self._first_index = self._counted_from(rows) if self._choices is not None else 0

    @property
    def columns(self) -> dict[str, str | None]:
        found = {"question": self._question, "answer": self._answer}
        more = {"context": self._context, "input": self._input, "choices": self._choices}
        return {**found, **{role: name for role, name in more.items() if name is not None}}

    def question(self, value: dict[str, Any], row: Row) -> Question:
        """The question in a row. BadRowError if it has none, or one that was asked before."""
        text, choices = self._text(value)
        gold = gold_field(value, self._answer, self._need_answer)
        if choices is not None:
            text = choices.put_into(text)
            gold = choices.label_of(self._answer, gold, self._first_index) if gold else gold
        identity = folded(text)
        if identity in self._seen:
            raise BadRowError(self._question, _same_as(*self._seen[identity], row, gold))
        family = encodable("family", str(value.get("family") or ""))
        self._seen[identity] = row, gold
        return Question(text, gold, family, difficulty_field(value), row.number, row.source)

    def _text(self, value: dict[str, Any]) -> tuple[str, Choices | None]:
        asked = value.get(self._question or "")
        inner = asked if isinstance(asked, dict) else {}
        stem = next((key for key in _STEM_KEYS if key in inner), None)
        text = text_field(inner, stem) if stem is not None else text_field(value, self._question)
        parts = [self._text_beside(value, self._context), text, self._text_beside(value, self._input)]
        text = "\n".join(part for part in parts if part is not None)
        for name, listed in ((self._choices, value), ("choices", inner)):
            if name is not None and (choices := read_choices(name, listed.get(name))) is not None:
                return text, choices
        return text, None

    @staticmethod
    def _text_beside(value: dict[str, Any], name: str | None) -> str | None:
        """The text that belongs to a question; None where there is none."""
        text = value.get(name) if name is not None else None
        return encodable(name, text) if isinstance(text, str) and text.strip() else None

    def _counted_from(self, rows: list[Row]) -> int:
        def gold_of(value: dict[str, Any], _: Row) -> tuple[str, Choices] | None:
            choices = self._text(value)[1]
            numbered = choices is not None and choices.numbered
            return (gold_field(value, self._answer, self._need_answer), choices) if numbered and choices else None

        return first_index([found for found in keep_good(rows, gold_of, []) if found is not None])


def _same_as(first: Row, gold: str, row: Row, other: str) -> str:
    """Why a question that was asked in the row `first` is set aside in `row`."""
    place = f"row {first.number}" + ("" if first.source == row.source else f" of {first.source}")
    if not gold or not other or same_gold(gold, other):
        return f"is the same question as {place}"
    return f"is the same question as {place}, with another answer: {_short(other)}, not {_short(gold)}"


def _short(gold: str) -> str:
    return repr(gold if len(gold) <= 40 else gold[:37] + "...")

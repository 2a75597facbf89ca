"""Questions from anywhere: JSON lines, Parquet, a folder or id of a Hugging Face dataset, a procedural task.

A row that cannot be used is set aside with its reason, and reading goes on. A source that cannot be used at all is an
InputError.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from drr.errors import InputError
from drr.loop.stated import stated_answer
from drr.tasks import arithmetic, countdown, logic
from drr.tasks.questions import Question, Split
from drr.tasks.reference_suite import LEVELS, MAKERS, reference_questions

Converted = TypeVar("Converted")

QUESTION_COLUMNS = ("question", "problem", "query", "prompt", "input", "instruction")
ANSWER_COLUMNS = ("answer", "gold", "final_answer", "target", "label", "expected", "output", "solution")

_LONGEST_GOLD = 200
"""Characters. A longer gold text is taken for a solution, and the answer that it states for the gold answer."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A question or row set aside. `row` counts from 1."""

    source: str
    row: int
    field: str | None
    reason: str


@dataclass(slots=True)
class Loaded:
    """The questions of a source and its rows set aside. `columns` names the column taken for each role."""

    questions: list[Question] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    columns: dict[str, str | None] = field(default_factory=dict)


class BadRowError(Exception):
    """A row that cannot be used: the field at fault and why."""

    def __init__(self, field: str | None, reason: str) -> None:
        super().__init__(reason)
        self.field, self.reason = field, reason


def load_questions(
    source: str,
    *,
    question_column: str | None = None,
    answer_column: str | None = None,
    need_answer: bool = True,
    limit: int | None = None,
) -> Loaded:
    """The questions of `source`: FILE.jsonl, FILE.parquet, a folder, a Hugging Face dataset id as
    `OWNER/NAME[:CONFIG[:SPLIT]]`, `TASK:COUNT[:SEED[:SPLIT[:SIZES]]]` (arithmetic, countdown or logic; sizes such as 5
    or 3-4), or `reference:SPLIT[:TASK]`.

    Columns that are not named are found by their usual names. Without `need_answer` answers may be missing. A question
    that occurs twice is kept once. InputError if the source holds no usable question.
    """
    if limit is not None and limit < 1:
        raise InputError("--limit", f"must be at least 1, not {limit}")
    if source.partition(":")[0] in _TASKS and not Path(source).exists():
        return Loaded(_procedural(source)[:limit])
    if source.startswith("reference:") and not Path(source).exists():
        return Loaded(_reference(source)[:limit])
    rows = read_rows(source)
    first = next((row for _, row in rows if isinstance(row, dict)), None)
    if first is None:
        raise InputError(source, "holds no row that can be read")
    question_name = find_column(source, first, "question", question_column, QUESTION_COLUMNS)
    answer_name = find_column(source, first, "answer", answer_column, ANSWER_COLUMNS, optional=not need_answer)
    loaded = Loaded(columns={"question": question_name, "answer": answer_name})
    seen: dict[str, int] = {}

    def question_of(row: dict[str, Any], number: int) -> Question:
        text = text_field(row, question_name)
        if text in seen:
            raise BadRowError(question_name, f"is the same question as row {seen[text]}")
        gold = gold_field(row, answer_name, need_answer)
        seen[text] = number
        return Question(text, gold, _encodable("family", str(row.get("family") or "")), _difficulty(row), number)

    for question in keep_good(source, rows, question_of, loaded.rejects):
        if limit is not None and len(loaded.questions) >= limit:
            break
        loaded.questions.append(question)
    if not loaded.questions:
        raise InputError(
            source,
            f"holds no question that can be used; the first of {len(loaded.rejects)} bad rows: "
            f"row {loaded.rejects[0].row}, field {loaded.rejects[0].field}: {loaded.rejects[0].reason}",
        )
    return loaded


Rows = list[tuple[int, Any]]
"""Pairs of a row number, counted from 1, and the row, or a BadRowError for a row that cannot be read."""


def keep_good(
    source: str, rows: Rows, convert: Callable[[dict[str, Any], int], Converted], rejects: list[Reject]
) -> Iterator[Converted]:
    """Yields `convert(row, number)` for every row that `convert` accepts; the others are appended to `rejects`."""
    for number, row in rows:
        try:
            if isinstance(row, BadRowError):
                raise row
            if not isinstance(row, dict):
                raise BadRowError(None, f"must be an object, not {type(row).__name__}")
            yield convert(row, number)
        except BadRowError as error:
            rejects.append(Reject(source, number, error.field, error.reason))


def read_rows(source: str) -> Rows:
    """All rows of a file, folder or dataset id. InputError if there is no such source."""
    path = Path(source)
    if path.is_file():
        if path.suffix in (".parquet", ".pq"):
            return list(_parquet_rows(path))
        return list(_json_rows(path))
    if path.exists() or not source.startswith((".", "/")):
        return _dataset_rows(source)
    raise InputError(source, "there is no such file")


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield number, BadRowError(None, "is not UTF-8 text")
        except (ValueError, RecursionError) as error:
            yield number, BadRowError(None, f"is not JSON: {error}")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise InputError(str(path), f"is not a readable Parquet file: {reason}") from error
    yield from enumerate(rows, start=1)


def _dataset_rows(source: str) -> Rows:
    try:
        import datasets
    except ImportError as error:
        raise InputError(source, "no such file; for a Hugging Face dataset install the extra `train`") from error
    name, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    datasets.disable_progress_bars()
    try:
        dataset: Iterable[Any] = datasets.load_dataset(name, config or None, split=split or "train")
        return list(enumerate(map(dict, dataset), start=1))
    except Exception as error:  # whatever a hub, a network or a loading script may raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(source, f"is neither a file nor a dataset that can be loaded: {reason}") from error


def find_column(
    source: str, row: dict[str, Any], role: str, named: str | None, usual: Iterable[str], *, optional: bool = False
) -> str | None:
    """The column for `role`: `named`, or the first of the `usual` names that there is; None if it is `optional` and
    absent. InputError lists the columns if one is missing."""
    columns = ", ".join(map(repr, row)) or "none"
    if named is not None:
        if named not in row:
            raise InputError(source, f"there is no such column; the columns are {columns}", field=named)
        return named
    found = next((name for name in usual if name in row), None)
    if found is None and not optional:
        raise InputError(
            source,
            f"no column is called {' or '.join(usual)}; the columns are {columns}. Name it with --{role}-column",
            field=role,
        )
    return found


def text_field(row: dict[str, Any], name: str | None) -> str:
    """The text in column `name`. BadRowError if it is missing, blank or not a text."""
    value = row.get(name) if name is not None else None
    if value is None:
        raise BadRowError(name, "is missing")
    if not isinstance(value, str):
        raise BadRowError(name, f"must be text, not {type(value).__name__}")
    if not value.strip():
        raise BadRowError(name, "is empty")
    return _encodable(name, value)


def gold_field(row: dict[str, Any], name: str | None, needed: bool = True) -> str:
    """The gold answer in column `name` as text; empty if it is missing and not needed. BadRowError if it cannot be
    used."""
    value = row.get(name) if name is not None else None
    if value is None or (isinstance(value, str) and not value.strip()):
        if needed:
            raise BadRowError(name, "is missing" if value is None else "is empty")
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRowError(name, f"must be a finite number, not {value}")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str | int | float):
        raise BadRowError(name, f"must be text or a number, not {type(value).__name__}")
    try:
        text = _encodable(name, str(value).strip())
    except ValueError as error:  # an integer of thousands of digits
        raise BadRowError(name, str(error)) from error
    if len(text) <= _LONGEST_GOLD and "\n" not in text:
        return text
    stated = stated_answer(text)
    if stated is None:
        raise BadRowError(name, "is a long text that states no answer (`#### X`, `\\boxed{X}`, `the answer is X`)")
    return stated


def _encodable(name: str | None, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(name, "holds half of a surrogate pair: not valid text") from error
    return text


def _difficulty(row: dict[str, Any]) -> int:
    value = row.get("difficulty")
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31 else 0


_TASKS: dict[str, tuple[Sequence[int], int, int]] = {
    "arithmetic": (arithmetic.USUAL_SIZES, arithmetic.MIN_OPERATIONS, arithmetic.MAX_OPERATIONS),
    "countdown": (countdown.USUAL_SIZES, countdown.MIN_NUMBERS, countdown.MAX_NUMBERS),
    "logic": (logic.USUAL_SIZES, logic.MIN_SIZE, logic.MAX_SIZE),
}
"""By task: the usual sizes of its questions, the smallest size and the largest."""


def _procedural(source: str) -> list[Question]:
    task, *parts = source.split(":")
    usual, fewest, most = _TASKS[task]
    numbers, sizes = parts[:2], parts[3:]
    if not numbers or not all(part.isdecimal() for part in numbers) or int(numbers[0]) < 1 or len(sizes) > 1:
        raise InputError(source, f"must be {task}:COUNT[:SEED[:SPLIT[:SIZES]]]")
    split = _split(source, parts[2]) if len(parts) > 2 else Split.TRAIN
    wanted = _sizes(source, sizes[0], fewest, most) if sizes else usual
    seed = int(numbers[1]) if len(numbers) == 2 else 1
    return MAKERS[task](seed, split, int(numbers[0]), wanted)


def _split(source: str, text: str) -> Split:
    if text not in set(Split):
        raise InputError(source, f"{text!r} is no split; there are {', '.join(Split)}")
    return Split(text)


def _sizes(source: str, text: str, fewest: int, most: int) -> Sequence[int]:
    first, _, last = text.partition("-")
    ends = [first, last or first]
    if not all(end.isdecimal() for end in ends) or not fewest <= int(ends[0]) <= int(ends[1]) <= most:
        raise InputError(source, f"{text!r} are no sizes: a number or a range within {fewest}-{most} is needed")
    return range(int(ends[0]), int(ends[1]) + 1)


def _reference(source: str) -> list[Question]:
    """The reference questions of a split, or of one task in it."""
    _, text, *tasks = source.split(":")
    split = _split(source, text)
    if len(tasks) > 1 or any(task not in LEVELS for task in tasks):
        raise InputError(source, f"must be reference:SPLIT or reference:SPLIT:TASK; tasks are {', '.join(LEVELS)}")
    return reference_questions(split, tasks=tasks or tuple(LEVELS))

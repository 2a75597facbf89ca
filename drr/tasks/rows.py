"""Rows of any source, and the rows that are set aside: each with its place and the reason."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from drr.errors import InputError

Converted = TypeVar("Converted")

_PARTICULARS = re.compile(r"'[^']*'|\d[\d.,]*")


class Number(str):
    """A number as its file spells it: no digit is lost, whatever its size and precision."""

    __slots__ = ()

    @property
    def is_finite(self) -> bool:
        return not self.lower().lstrip("+-").startswith(("nan", "inf"))


class BadRowError(Exception):
    """A row that cannot be used: the field at fault and why."""

    def __init__(self, field: str | None, reason: str) -> None:
        super().__init__(reason)
        self.field, self.reason = field, reason


@dataclass(frozen=True, slots=True)
class Reject:
    """A question or row set aside. `row` counts from 1."""

    source: str
    row: int
    field: str | None
    reason: str

    @property
    def kind(self) -> str:
        """The field and the reason without what differs from row to row, for counting."""
        return f"{self.field or 'row'} {_PARTICULARS.sub('…', self.reason.split(': ')[0])}"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file or dataset: its `number` there, counted from 1, and its value. The value should be an object with
    text keys; it is a BadRowError if the row cannot be read. Numbers in it are `Number` or int."""

    source: str
    number: int
    value: Any


@dataclass(slots=True)
class Table:
    """All rows of a source. `notes` are sentences on how it was read, where that is not plain."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def keep_good(
    rows: Iterable[Row], convert: Callable[[dict[str, Any], Row], Converted], rejects: list[Reject]
) -> Iterator[Converted]:
    """Yields `convert(value, row)` for every row that `convert` accepts; the others are appended to `rejects`."""
    for row in rows:
        try:
            if isinstance(row.value, BadRowError):
                raise row.value
            if not isinstance(row.value, dict):
                raise BadRowError(None, f"must be an object, not {kind_of(row.value)}")
            yield convert(row.value, row)
        except BadRowError as error:
            rejects.append(Reject(row.source, row.number, error.field, error.reason))


def nothing_usable(source: str, what: str, rejects: Sequence[Reject]) -> InputError:
    """The error of a source that holds no `what` (such as "question") that can be used. It repeats the reason of the
    first row that was set aside."""
    if not rejects:
        return InputError(source, f"holds no {what}")
    first = rejects[0]
    count = "its only row" if len(rejects) == 1 else f"the first of {len(rejects):,} rows set aside"
    place = "" if first.source == source else f"{first.source}, "
    place += f"row {first.row}" + ("" if first.field is None else f", field {first.field}")
    return InputError(source, f"holds no {what} that can be used; {count}: {place}: {first.reason}")


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, Number | int | float):
        return "a number"
    names = {str: "text", list: "a list", dict: "an object", type(None): "null", bytes: "bytes that are not UTF-8 text"}
    return names.get(type(value), type(value).__name__)

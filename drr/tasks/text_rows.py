"""Rows of text files: JSON lines, a JSON array, an object with a list of rows, CSV with any usual separator.

The content tells which it is. Values stay what is written: numbers in their spelling, everything in a CSV file text.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from drr.errors import InputError
from drr.tasks.file_bytes import decoded
from drr.tasks.rows import BadRowError, Number, Row, Table

_SPACE = "\ufeff \t\r\n"
_LINE_END = re.compile(r"\r\n|\r|\n")
_NO_TEXT = re.compile("[\ud800-\udfff]")
_SEPARATORS = ("\t", ",", ";", "|")
_LONGEST_CELL = 2**31 - 1


def text_rows(path: Path, data: bytes, is_known: Callable[[str], bool]) -> Table:
    """The rows of a text file. `is_known` tells the usual names of columns, by which rows and headers are recognised.
    InputError if it is no format that is known."""
    text, encoding = decoded(path, data)
    whole: Exception | None = None
    if text.lstrip(_SPACE)[:1] in ("[", "{"):
        try:
            value = parsed_json(text.strip(_SPACE))
        except (ValueError, RecursionError) as error:
            whole = error
        else:
            table = _json_rows(str(path), value, is_known)
            return table if _NO_TEXT.search(text) is None else Table([_told(row) for row in table.rows], table.notes)
    lines = _json_lines(str(path), text, encoding)
    if whole is not None:
        if any(isinstance(row.value, dict | list) for row in lines):
            return Table(lines)
        raise InputError(str(path), f"is neither JSON nor JSON lines: {whole}")
    text = text.lstrip("\ufeff")
    separator, is_header = _separator(text, is_known)
    objects = sum(isinstance(row.value, dict) for row in lines)
    if 2 * objects >= len(lines) or (objects and not is_header):  # a cell of a CSV file may hold lines of JSON
        return Table(lines)
    if separator is None:
        raise InputError(str(path), "is neither JSON, JSON lines, CSV, TSV nor Parquet")
    return Table(list(_csv_rows(path, text, encoding, separator)))


def parsed_json(text: str) -> Any:
    """The value of a JSON text, numbers as they are spelled. ValueError or RecursionError if it is none."""
    return json.loads(
        text, parse_float=Number, parse_int=Number, parse_constant=Number, object_pairs_hook=_object_without_twins
    )


def _object_without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any] | BadRowError:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    return BadRowError(_first_twin(name for name, _ in pairs), "occurs twice in the row")


def _first_twin(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _json_lines(source: str, text: str, encoding: str) -> list[Row]:
    return [
        Row(source, number, _json_line(line.strip(_SPACE), encoding))
        for number, line in enumerate(_LINE_END.split(text), start=1)
        if line.strip(_SPACE)
    ]


def _json_line(line: str, encoding: str) -> Any:
    if _NO_TEXT.search(line):
        return BadRowError(None, f"is not {encoding} text")
    try:
        return parsed_json(line)
    except (ValueError, RecursionError) as error:
        return BadRowError(None, f"is not JSON: {error}")


def _json_rows(source: str, value: Any, is_known: Callable[[str], bool]) -> Table:
    if isinstance(value, list):
        return _numbered(source, value)
    if not isinstance(value, dict):  # keys that occur twice
        return _numbered(source, [value])
    lists = [
        name
        for name, part in value.items()
        if isinstance(part, list) and any(isinstance(row, dict) for row in part) and not is_known(name)
    ]
    is_row = any(is_known(name) and not isinstance(part, list) for name, part in value.items())
    if is_row or not lists:
        return _numbered(source, [value])
    if len(lists) > 1:
        names = ", ".join(map(repr, lists))
        raise InputError(source, f"holds several lists of rows ({names}): put the one to read into a file of its own")
    return _numbered(source, value[lists[0]], [f"{source}: the rows are those of the list {lists[0]!r}"])


def _numbered(source: str, values: list[Any], notes: list[str] | None = None) -> Table:
    if not values:
        raise InputError(source, "is an empty list")
    return Table([Row(source, number, value) for number, value in enumerate(values, start=1)], notes or [])


def _told(row: Row) -> Row:
    """The row, or that it holds bytes that are no text."""
    if _NO_TEXT.search(json.dumps(row.value, ensure_ascii=False, default=str)) is None:
        return row
    return Row(row.source, row.number, BadRowError(None, "is not valid text"))


def _separator(text: str, is_known: Callable[[str], bool]) -> tuple[str | None, bool]:
    """The separator of a CSV file: the one that splits its first record into the most known names, then into the most
    cells. None if the first record is one cell whose name is not known. Also whether any name is known."""
    best, most = None, (0, 1)
    for separator in _SEPARATORS:
        try:
            header = next(_records(text, separator), [])
        except csv.Error:
            continue
        found = (sum(is_known(name) for name in header), len(header))
        if found > most:
            best, most = separator, found
    return best, most[0] > 0


def _records(text: str, separator: str) -> Iterator[list[str]]:
    return (record for record in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True) if record)


def _csv_rows(path: Path, text: str, encoding: str, separator: str) -> Iterator[Row]:
    """The records behind the header. Row 1 is the first of them."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        header = _header(path, next(record for record in reader if record))
        number, line = 0, reader.line_num
        while True:
            value: Any
            try:
                value = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                value = BadRowError(None, _csv_reason(error, line + 1))
            line = reader.line_num
            if value == []:
                continue
            number += 1
            yield Row(str(path), number, value if isinstance(value, BadRowError) else _cells(header, value, encoding))
    finally:
        csv.field_size_limit(before)


def _csv_reason(error: csv.Error, line: int) -> str:
    if "unexpected end" in str(error):
        return f"has a quote in line {line} that is never closed: everything from there on is set aside"
    return f"is not CSV: {error} (line {line})"


def _header(path: Path, cells: list[str]) -> list[str]:
    if any("\0" in cell or _NO_TEXT.search(cell) for cell in cells):
        raise InputError(str(path), "is no text, nor of another format that is known")
    names = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, start=1)]
    twice = _first_twin(names)
    if twice is not None:
        raise InputError(str(path), "there are two columns of this name", field=twice)
    return names


def _cells(header: list[str], cells: list[str], encoding: str) -> Any:
    if len(cells) != len(header):
        return BadRowError(None, f"has {len(cells)} cells, the header has {len(header)}")
    if any(map(_NO_TEXT.search, cells)):
        return BadRowError(None, f"is not {encoding} text")
    return dict(zip(header, cells, strict=True))

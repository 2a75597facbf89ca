"""Rows of Parquet and Arrow tables, every value as exact as it is stored."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drr.errors import InputError, first_line
from drr.tasks.file_bytes import ARROW_FILE, ARROW_STREAM, PARQUET
from drr.tasks.rows import Number, Row, Table

Exact = Callable[[Any], Any]

_NO_FRACTION = re.compile(r"\.0+(?=Z?$)")


def is_arrow(data: bytes) -> bool:
    """Whether these are the bytes of a Parquet or Arrow file."""
    return data.startswith((PARQUET, ARROW_FILE, ARROW_STREAM))


def arrow_rows(path: Path, data: bytes) -> Table:
    """The rows of a Parquet or Arrow file. InputError if it is damaged."""
    kind = "Parquet" if data.startswith(PARQUET) else "Arrow"
    buffer = pa.BufferReader(data)
    try:
        if kind == "Parquet":
            table = pq.ParquetFile(buffer).read()
        elif data.startswith(ARROW_FILE):
            table = pa.ipc.open_file(buffer).read_all()
        else:
            table = pa.ipc.open_stream(buffer).read_all()
        if kind == "Arrow":  # its buffers are taken as they are: damaged offsets would read foreign memory
            table.validate(full=True)
        return table_rows(str(path), table)
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(str(path), f"is not a readable {kind} file: {first_line(error)}") from error


def table_rows(source: str, table: pa.Table) -> Table:
    """The rows of a table. Row 1 is the first. InputError if two columns have one name."""
    names: list[str] = table.column_names
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InputError(source, "there are two columns of this name", field=twice)
    columns = [_values(column) for column in table.columns]
    if not columns or not table.num_rows:
        raise InputError(source, "holds no rows")
    rows = (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
    return Table([Row(source, number, row) for number, row in enumerate(rows, start=1)])


def spelled(value: Any) -> Number:
    """The shortest decimal number that is `value` (a float or a NumPy float) in its own precision."""
    if not np.isfinite(value):
        return Number(value)
    if value == 0:
        return Number("0")
    if 1e-20 <= abs(float(value)) < 1e21:
        return Number(np.format_float_positional(value, unique=True, trim="-"))
    return Number(value)


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type) or pa.types.is_time(column.type):  # Python's own types end at microseconds
        return [None if text is None else _NO_FRACTION.sub("", text) for text in column.cast(pa.string()).to_pylist()]
    values: list[Any]
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise
        return [None if value is None else _text_of(value) for value in column.cast(pa.large_binary()).to_pylist()]
    exact = _exact(column.type)
    return values if exact is None else [None if value is None else exact(value) for value in values]


def _exact(kind: pa.DataType) -> Exact | None:
    """What makes Python's value of an Arrow type exact; None if it is so already."""
    if pa.types.is_dictionary(kind):
        return _exact(kind.value_type)
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        narrow = np.float16 if pa.types.is_float16(kind) else np.float32
        return lambda value: spelled(narrow(value))
    if pa.types.is_float64(kind):
        return spelled
    if pa.types.is_decimal(kind):
        return lambda value: Number(format(value, "f"))
    if pa.types.is_temporal(kind):
        return lambda value: value.isoformat() if hasattr(value, "isoformat") else value
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _text_of
    if pa.types.is_struct(kind):
        return _exact_struct(kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _exact(kind.value_type)
        return None if inner is None else lambda values: [None if v is None else inner(v) for v in values]
    return None


def _exact_struct(kind: pa.DataType) -> Exact | None:
    inner = {field.name: exact for field in kind if (exact := _exact(field.type)) is not None}
    if not inner:
        return None
    return lambda value: {
        name: inner[name](part) if name in inner and part is not None else part for name, part in value.items()
    }


def _text_of(value: bytes) -> str | bytes:
    """Some programs write texts as plain bytes."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value

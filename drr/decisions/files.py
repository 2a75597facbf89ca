"""The files of a decision log: written whole or not at all, the oldest deleted first, read in order.

A file gets its name when it is complete, so whoever reads a folder while a server writes to it sees whole files only.
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from drr.decisions.schema import FILE_PREFIX, FILE_SUFFIX, SCHEMA, Row
from drr.errors import InputError, first_line

_PARTIAL = ".partial"
_STALE_SECONDS = 3600
"""A partial file that has not changed for so long is of a server that was killed."""

_ROWS_AT_A_TIME = 256


def write_file(folder: Path, name: str, rows: Sequence[pa.RecordBatch]) -> int:
    """Write the rows as `name` into `folder` and return the file's size in bytes. OSError where that fails, and then
    there is no such file. Files are for the owner alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path, partial = folder / name, folder / f".{name}{_PARTIAL}"
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        pq.write_table(pa.Table.from_batches(rows, SCHEMA).combine_chunks(), partial, compression="zstd")
        _to_disk(partial)
        size = partial.stat().st_size
        partial.replace(path)
    except (OSError, pa.ArrowException) as error:
        partial.unlink(missing_ok=True)
        raise error if isinstance(error, OSError) else OSError(first_line(error)) from error
    return size


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def log_files(folder: Path) -> list[Path]:
    """The complete files of a log, oldest first."""
    return sorted(folder.glob(f"{FILE_PREFIX}*{FILE_SUFFIX}"))


def keep_within(folder: Path, most_bytes: int) -> int:
    """Delete the oldest files until all together have at most `most_bytes`, but never the newest; returns how many."""
    sizes = {path: path.stat().st_size for path in log_files(folder) if path.exists()}
    deleted, total = 0, sum(sizes.values())
    for path in list(sizes)[:-1]:
        if total <= most_bytes:
            break
        path.unlink(missing_ok=True)
        total -= sizes[path]
        deleted += 1
    return deleted


def sweep(folder: Path) -> None:
    """Delete what killed servers left unfinished."""
    for path in folder.glob(f".{FILE_PREFIX}*{_PARTIAL}"):
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            path.unlink(missing_ok=True)


def read_file(path: Path) -> Iterator[Row]:
    """The rows of one file, in order. InputError if it is no file of a decision log."""
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
            if missing:
                raise InputError(str(path), f"is no decision log of this version: it has no column {missing[0]}")
            for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=list(SCHEMA.names)):
                yield from batch.to_pylist()
    except InputError:
        raise
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(str(path), f"is not a readable Parquet file: {first_line(error)}") from error

"""Writes the rows of a decision log from a thread of its own, so that nobody who hands one over ever waits.

Rows are gathered in memory and become a file when they are many or old enough. What a kill can cost is the rows of the
newest file; all others are whole. Where files cannot be written (a full disk), rows are kept as far as memory is set
aside for them, later ones are dropped and counted, and writing is tried again until it works.
"""

import contextlib
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from drr.decisions.files import keep_within, sweep, write_file
from drr.decisions.schema import FILE_PREFIX, FILE_SUFFIX, Row, one_row

logger = logging.getLogger("drr")

_QUEUED, _QUEUED_BYTES = 2048, 64 << 20
"""Rows that may wait for the thread, and what they may take."""

_FILES_IN_MEMORY = 2
"""So many files' rows are kept while none can be written."""

_SECONDS_TO_RETRY = 5.0

_ROWS_TOGETHER = 64


class Watcher(Protocol):
    """Who counts what becomes of rows. Called from any thread."""

    def written(self, rows: int, size: int) -> None:
        """A file of so many rows and bytes has been finished."""
        ...

    def dropped(self, rows: int) -> None:
        """So many rows are lost."""
        ...

    def failed(self) -> None:
        """A file could not be written."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """When a file is finished: at `file_bytes` of rows (in memory; a file is compressed), or `seconds` after its first
    row. All files together have at most `total_bytes`."""

    file_bytes: int = 16 << 20
    total_bytes: int = 1 << 30
    seconds: float = 60.0


class LogWriter:
    """Writes rows into files in `folder`, until it is closed."""

    def __init__(
        self, folder: Path, limits: Limits, watcher: Watcher, *, queued: int = _QUEUED, retry: float = _SECONDS_TO_RETRY
    ) -> None:
        self._folder, self._limits, self._watcher, self._retry = folder, limits, watcher, retry
        self._queue: queue.Queue[tuple[Callable[[], Row], int] | None] = queue.Queue(queued)
        self._waiting, self._lock = 0, threading.Lock()
        """Bytes that wait for the thread."""
        self._rows: list[pa.RecordBatch] = []
        self._count = self._bytes = self._files = 0
        self._due: float | None = None
        """When the rows are to be written (time.monotonic()); None without any."""
        self._failing = self._complained = False
        self._closing = threading.Event()
        self._name = secrets.token_hex(4)
        self._thread = threading.Thread(target=self._run, name="drr-decision-log", daemon=True)
        self._thread.start()

    def submit(self, make: Callable[[], Row], size: int = 0) -> bool:
        """Hand a row over: `make` is called in the writer's thread; it keeps about `size` bytes until then. Never
        waits; False where it was dropped, because too many wait already or the writer is closed."""
        if not self._closing.is_set() and self._waiting + size <= _QUEUED_BYTES:
            try:
                self._queue.put_nowait((make, size))
            except queue.Full:
                pass
            else:
                self._wait(size)
                return True
        self._watcher.dropped(1)
        return False

    def _wait(self, size: int) -> None:
        with self._lock:
            self._waiting += size

    def close(self, seconds: float = 10.0) -> None:
        """Write what there is and end the thread. Waits for that, but no longer than so many seconds."""
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)  # only to wake the thread
        self._thread.join(seconds)
        if self._thread.is_alive():
            logger.error("The decision log in %s could not be finished within %g s", self._folder, seconds)

    def _run(self) -> None:
        try:
            sweep(self._folder)
        except OSError as error:
            logger.warning("The decision log's folder %s cannot be swept: %s", self._folder, error)
        while not (self._closing.is_set() and self._queue.empty()):
            make = self._next()
            if make is not None:
                self._take(make)
            if self._is_due() or (self._bytes >= self._limits.file_bytes and not self._failing):
                self._write()
        if self._count:
            self._write()
        if self._count:
            self._watcher.dropped(self._count)
            logger.error("%d rows of the decision log in %s are lost", self._count, self._folder)

    def _next(self) -> Callable[[], Row] | None:
        wait = None if self._due is None else max(0.0, self._due - time.monotonic())
        try:
            found = self._queue.get(timeout=wait)
        except queue.Empty:
            return None
        if found is None:
            return None
        self._wait(-found[1])
        return found[0]

    def _is_due(self) -> bool:
        return self._due is not None and time.monotonic() >= self._due

    def _take(self, make: Callable[[], Row]) -> None:
        if self._bytes >= _FILES_IN_MEMORY * self._limits.file_bytes:
            self._watcher.dropped(1)
            return
        try:
            row = one_row(make())
        except Exception as error:  # a row is never worth the log
            self._watcher.dropped(1)
            if not self._complained:  # what the error says may hold what somebody has said
                logger.error("A row of the decision log cannot be made (%s); others are counted", type(error).__name__)
            self._complained = True
            return
        if self._due is None:
            self._due = time.monotonic() + self._limits.seconds
        self._rows.append(row)
        self._count += 1
        self._bytes += row.nbytes
        if self._count % _ROWS_TOGETHER == 0:  # a batch takes much more memory than its numbers
            self._rows[-_ROWS_TOGETHER:] = [pa.concat_batches(self._rows[-_ROWS_TOGETHER:])]

    def _write(self) -> None:
        """Make a file of the rows; where that fails they are kept."""
        self._make_room()  # a full disk may be full of older ones
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        name = f"{FILE_PREFIX}{stamp}-{self._name}-{self._files:06d}{FILE_SUFFIX}"
        try:
            size = write_file(self._folder, name, self._rows)
        except OSError as error:
            self._watcher.failed()
            if not self._failing:
                logger.error(
                    "The decision log in %s cannot be written (%s): responses go on; tried again every %g s",
                    self._folder,
                    error.strerror or error,
                    self._retry,
                )
            self._failing, self._due = True, time.monotonic() + self._retry
            return
        if self._failing:
            logger.warning("The decision log in %s is written again", self._folder)
        self._watcher.written(self._count, size)
        self._rows, self._count, self._bytes, self._due, self._failing = [], 0, 0, None, False
        self._files += 1
        self._make_room()

    def _make_room(self) -> None:
        with contextlib.suppress(OSError):  # what matters is whether files can be written, which writing tells
            keep_within(self._folder, self._limits.total_bytes)

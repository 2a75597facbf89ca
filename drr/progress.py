"""Progress of a long job: a live bar on a terminal, or a line every 15 seconds where the output is a log file."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts units of work towards `total`, `done` of which an earlier run did.

    Use it as a context manager and call `advance` once per unit.
    """

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        self._name, self._total, self._done, self._first = name, total, done, done
        self._started = self._last_line = time.monotonic()
        self._console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(name, total=total, completed=done, note="")

    @property
    def seconds(self) -> float:
        """Seconds since the job started."""
        return time.monotonic() - self._started

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, note: str = "", units: int = 1) -> None:
        """One more unit (or `units`) is done; `note` is shown beside the bar."""
        self._done += units
        self._bar.update(self._task, advance=units, note=note)
        now = time.monotonic()
        finished = self._done >= self._total
        if self._bar.disable and (finished or now - self._last_line >= _SECONDS_BETWEEN_LINES):
            self._last_line = now
            rate = (self._done - self._first) / max(1e-9, now - self._started)
            left = (self._total - self._done) / rate if rate else 0.0
            self._console.print(
                f"{self._name}: {self._done}/{self._total}, {rate:.2f}/s, {left:.0f} s left  {note}", highlight=False
            )

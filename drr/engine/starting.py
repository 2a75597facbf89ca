"""The start of vLLM engines: what they print is passed on, but a failure is one sentence, not three tracebacks.

An engine fails in a process of its own, which prints a traceback and ends; here only "see above" arrives. So the
output of the starting processes goes through a pipe, the cause is read from it, and all of it is kept in a log file.
"""

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from drr.engine.children import own_engines
from drr.errors import InputError, without_headline
from drr.failures import TRACEBACK_VARIABLE, exceptions_in, in_one_sentence

_TROUBLE = re.compile(rb"^.*(?:Traceback \(most recent call last\)|\bERROR \d\d-\d\d|^Process \w+-?\d*:)", re.MULTILINE)
_PREFIX = re.compile(r"^(?:\([^)]*pid=\d+\)\s*)?(?:(?:ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d (?:\[[^\]]*\] ?)?)?")
_RAISED = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Z]\w*): (.+)$")
_CHAINED = ("During handling of the above", "The above exception was the direct cause")
_ELSEWHERE = re.compile(r"root cause|initialization failed|failed to start|background process", re.IGNORECASE)
_LONGEST = 600
_DRAIN_SECONDS = 3.0
_CLOSED = -1


class StartLog:
    """While it is open, what this process and those that it starts print goes to a log file and on to where it would
    have gone. From the first sign of trouble on it is kept back; where the start succeeds after all, it follows then.
    """

    def __init__(self) -> None:
        number, name = tempfile.mkstemp(prefix="drr-start-", suffix=".log")
        self.path = Path(name)
        self._log = number
        self._holds = not os.environ.get(TRACEBACK_VARIABLE)
        self._held: list[tuple[int, bytes]] | None = None
        self._lock = threading.Lock()
        self._saved: dict[int, int] = {}
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        _flush()
        for descriptor in (1, 2):
            self._saved[descriptor] = os.dup(descriptor)
            reading, writing = os.pipe()
            os.dup2(writing, descriptor)
            os.close(writing)
            thread = threading.Thread(target=self._pump, args=(reading, self._saved[descriptor]), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _flush()
        for descriptor, saved in self._saved.items():
            os.dup2(saved, descriptor)
        if error is not None:
            for thread in self._threads:  # they end when the last process that failed has ended
                thread.join(_DRAIN_SECONDS)
        with self._lock:
            os.close(self._log)
            self._log = _CLOSED
            if error is not None:
                return
            self._holds = False
            for target, chunk in self._held or ():
                _write(target, chunk)
            self._held = None
        self.path.unlink(missing_ok=True)

    def _pump(self, reading: int, target: int) -> None:
        while chunk := os.read(reading, 1 << 16):
            with self._lock:
                if not self._holds:
                    _write(target, chunk)
                    continue
                _write(self._log, chunk)
                trouble = None if self._held is not None else _TROUBLE.search(chunk)
                if trouble is not None:
                    self._held = []
                if self._held is None:
                    _write(target, chunk)
                    continue
                before = trouble.start() if trouble is not None else 0
                _write(target, chunk[:before])
                self._held.append((target, chunk[before:]))
        os.close(reading)

    def explain(self, error: BaseException) -> str:
        """One sentence about a start that failed, which says where the whole log is."""
        raised = cause_of(next(exceptions_in(error)))
        if _ELSEWHERE.search(raised):
            raised = cause_in(self.path.read_text(encoding="utf-8", errors="replace")) or raised
        return f"{raised.rstrip('. ')} (the whole log is in {self.path})"


@contextlib.contextmanager
def starting(option: str, model: str) -> Iterator[None]:
    """InputError, which names the `option` that asked for `model`, where the engine that is started inside fails. The
    engine ends with this process, however that ends."""
    own_engines()
    log = StartLog()
    try:
        with log:
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(option, f"{model} cannot be started: {log.explain(error)}") from error


def cause_of(error: BaseException) -> str:
    """What an exception says, in one line and without what only programmers read."""
    if isinstance(error, KeyError) and error.args:
        return _plain(str(error.args[0]), "")
    known = None if isinstance(error, ValueError) else in_one_sentence(error)
    return known or _plain(str(error), type(error).__name__)


def cause_in(text: str) -> str:
    """What went wrong first, according to the tracebacks that `text` holds; empty where it holds none."""
    lines = [_PREFIX.sub("", line) for line in text.splitlines()]
    found = []
    for number, line in enumerate(lines):
        raised = _RAISED.match(line)
        if raised is None or number == 0 or not lines[number - 1].startswith(" "):
            continue
        behind = next((later for later in lines[number + 1 : number + 4] if later.strip()), "")
        rest = "" if _is_new(behind) else f" {behind.strip()}"
        if not behind.startswith(_CHAINED):
            found.append(_plain(raised[2] + rest, raised[1]))
    return next((cause for cause in found if not _ELSEWHERE.search(cause)), "")


def _is_new(line: str) -> bool:
    """Whether a line is no continuation of an exception's message."""
    return not line.startswith("  Value error")


def _plain(message: str, kind: str) -> str:
    message = message.strip()
    message = without_headline(message)
    line = " ".join(next((line for line in message.splitlines() if line.strip()), "").split())
    if "out of memory" in line.lower() or "OutOfMemory" in kind:
        line = f"memory is used up (lower --gpu-memory-utilization or --max-model-len): {line}"
    if len(line) > _LONGEST:
        line = line[:_LONGEST].rsplit(" ", 1)[0] + " ..."
    return line or kind


def _write(descriptor: int, data: bytes) -> None:
    """Writes all of it; where nobody reads any more, nothing."""
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()

"""What runs in a grading worker: one comparison after the other, within limits on memory and processor time.

A worker loads what grading needs and nothing else. It takes its limits from `drr.tasks.grading_pool`, which also ends
it when a comparison takes too long.
"""

import os
import resource
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from drr.errors import InputError
from drr.tasks.grading import load_grader

MEMORY_EXIT = 77
"""Exit status of a worker that has taken too much memory."""
_HARD_FACTOR = 4
"""A library may go on after an allocation has failed. So allocations fail at this multiple of the limit only, and what
a comparison has taken at most is compared with the limit itself."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`seconds` that one comparison may take, and bytes of `memory` beyond what a worker has when it is ready."""

    seconds: float = 10.0
    memory: int = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Work:
    """`compare` two expressions, `read` one, `load` a function of the user's by its name, or call it (`own`)."""

    kind: Literal["compare", "read", "load", "own"]
    first: str
    second: str = ""
    third: str = ""


_own_grader = cache(load_grader)


def run(work: Work, limits: Limits, folder: Path) -> bool | InputError:
    """The outcome of `work`, or what is wrong with the function of the user's, whose module may lie in `folder`. The
    process ends where a limit on memory is exceeded."""
    _make_stoppable(limits)
    try:
        result, before = _outcome(work, limits, folder)
    except MemoryError:
        os._exit(MEMORY_EXIT)
    except InputError as error:
        return error
    except SystemExit as error:
        return InputError("--grader", f"{work.first!r} ended its process on the answer {work.second!r}: {error!r}")
    if _memory_taken() > before + limits.memory:
        os._exit(MEMORY_EXIT)
    return result


def _outcome(work: Work, limits: Limits, folder: Path) -> tuple[bool, int]:
    """The outcome, and the bytes of memory that the process had taken when it was ready."""
    if work.kind in ("own", "load"):
        grade = _own_grader(work.first, folder)
        before = _limit_memory(limits)
        return work.kind == "load" or grade(work.second, work.third), before
    from drr.tasks.algebra import is_readable, same_expression  # here, so that the parent does not load it

    before = _limit_memory(limits)
    return is_readable(work.first) if work.kind == "read" else same_expression(work.first, work.second), before


def _make_stoppable(limits: Limits) -> None:
    """End at once when told to, and in any case soon after the time is over: who would tell may be gone."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + 2 * limits.seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


@cache
def _limit_memory(limits: Limits) -> int:
    """Limit this process's address space, once. Returns the bytes that it had taken before."""
    before = _memory_taken()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (before + _HARD_FACTOR * limits.memory, hard))
    return before


def _memory_taken() -> int:
    """Bytes of address space that this process has taken at most."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmPeak:"):
            return int(line.split()[1]) * 1024
    return 0

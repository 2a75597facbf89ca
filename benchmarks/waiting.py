"""How much slower than alone processes are on a machine that others use, too.

Linux counts for every thread how long it ran and how long it waited, ready to run, for a CPU (/proc/PID/schedstat). No
account shows that a CPU itself is slower for a while, because it shares a core or its clock with other machines' work:
a fixed piece of work then takes more CPU time."""

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

_WORK = {f"name {number}": [number, str(number), {"share": number / 7}] for number in range(300)}

Threads = Mapping[tuple[int, int], tuple[int, int]]
"""By process and thread, nanoseconds that it ran and that it waited."""


@dataclass(frozen=True, slots=True)
class Waited:
    """Seconds that all threads together ran, and that they waited for a CPU."""

    ran: float
    waited: float

    @property
    def slowdown(self) -> float:
        """How many times as long as on a machine of their own the threads took for what they ran; 1 if unknown."""
        return (self.ran + self.waited) / self.ran if self.ran else 1.0


def threads_of(roots: Iterable[int]) -> Threads:
    """The counts of these processes and of all below them. Nothing of a system that does not count."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for pid in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                found.update(_threads(process.pid))
    return found


def _threads(pid: int) -> dict[tuple[int, int], tuple[int, int]]:
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            ran, waited, _ = map(int, path.read_text().split())
            found[pid, int(path.parent.name)] = (ran, waited)
    return found


def between(before: Threads, after: Threads) -> Waited:
    """What came on top between two readings, of the threads that are in both or new."""
    ran = sum(count[0] - before.get(thread, (0, 0))[0] for thread, count in after.items())
    waited = sum(count[1] - before.get(thread, (0, 0))[1] for thread, count in after.items())
    return Waited(ran / 1e9, waited / 1e9)


def work_seconds() -> float:
    """CPU seconds that a fixed piece of work takes now, about a thousandth."""
    begun = time.thread_time()
    json.loads(json.dumps(_WORK))
    return time.thread_time() - begun

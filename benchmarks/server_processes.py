"""A server's processes, looked at from outside: memory, open files, threads; and its engines, to be killed or stopped.

Needs Linux: the proportional share of memory (PSS), which counts pages that processes share once, is in /proc."""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Size:
    """One process: memory in MiB (`rss` resident, `pss` its proportional share), open files, threads."""

    rss: float
    pss: float
    files: int
    threads: int

    def __add__(self, other: "Size") -> "Size":
        return Size(self.rss + other.rss, self.pss + other.pss, self.files + other.files, self.threads + other.threads)


_NOTHING = Size(0.0, 0.0, 0, 0)


class ServerProcesses:
    """The processes of a server with a DM of its own. The Reasoner's engine is known from the beginning, because the
    DM's, which is started first, is replaced when it dies."""

    def __init__(self, pid: int) -> None:
        self._api = psutil.Process(pid)
        found = self.engines()
        self._reasoner = found[-1].pid if found else None

    def engines(self) -> list[psutil.Process]:
        """All engines, the oldest first."""
        found = []
        for child in self._api.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if "EngineCore" in " ".join(child.cmdline()):
                    found.append((child.create_time(), child))
        return [child for _, child in sorted(found, key=lambda each: each[0])]

    def dm_engine(self) -> psutil.Process | None:
        """The DM's engine, the youngest where an old one is still going; None while there is none."""
        return next((engine for engine in self.engines()[::-1] if engine.pid != self._reasoner), None)

    def sizes(self) -> dict[str, Size]:
        """By part: `api`, `reasoner`, `dm`, and `other` (trackers of shared memory and the like)."""
        found = dict.fromkeys(("api", "reasoner", "dm", "other"), _NOTHING)
        engines = {engine.pid for engine in self.engines()}
        for process in (self._api, *self._api.children(recursive=True)):
            is_engine = process.pid in engines
            part = "api" if process == self._api else "reasoner" if process.pid == self._reasoner else "other"
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                found["dm" if part == "other" and is_engine else part] += _size(process)
        return found


def _size(process: psutil.Process) -> Size:
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    pss = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return Size(
        process.memory_info().rss / _MIB,
        int(pss[1]) / 1024 if pss is not None else 0.0,
        process.num_fds(),
        process.num_threads(),
    )


def metric(text: str, name: str) -> float:
    """The sum of a metric's values in the text of /metrics, over all labels."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


async def left_behind(http: httpx.AsyncClient, url: str) -> dict[str, float]:
    """What a server that nobody asks should have none of: requests that run or wait, at the door and in the engine."""
    text = (await http.get(f"{url}/metrics")).text
    names = ("drr_requests_running", "drr_requests_waiting", "vllm:num_requests_running", "vllm:num_requests_waiting")
    return {name: metric(text, name) for name in names}


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Growth per second, by least squares; 0 of fewer than two points."""
    if len(times) < 2:
        return 0.0
    mean_time, mean_value = sum(times) / len(times), sum(values) / len(values)
    spread = sum((time - mean_time) ** 2 for time in times)
    if not spread:
        return 0.0
    pairs = zip(times, values, strict=True)
    return sum((time - mean_time) * (value - mean_value) for time, value in pairs) / spread

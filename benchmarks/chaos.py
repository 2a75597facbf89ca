"""A server whose DM is killed, whose disk gets full, and whose clients leave, read slowly and send too much.

    python -m benchmarks.chaos --minutes 30 [--clients 16] [--kill-every 120] [--out benchmarks/results/chaos.json]

Serves the reference Reasoner and its text DM, whose engine is killed every `--kill-every` seconds and once stopped
(SIGSTOP) instead. In the middle half of the run the disk that the server writes its log to is full; `--full-disk-flag
FLAG` names a flag of the server's that takes a folder, which then lies on that disk, too. Other flags are the server's.
Tells, for every line of what is asked of such a server, whether it holds; exit status 1 where one does not. Afterwards
the log lies beside the result.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from benchmarks.answers import ask, quantile, tally
from benchmarks.chaos_clients import Clients, Told
from benchmarks.launch import running
from benchmarks.server_processes import ServerProcesses, Size, left_behind, slope
from benchmarks.small_disk import SmallDisk, small_disk
from drr import reference
from drr.checks import check_range
from drr.failures import guarded
from drr.files import write_whole

_BACK_WITHIN = 60.0
"""Seconds within which the DM has to be back."""

_BETWEEN_SAMPLES = 10.0
_WARM_UP = 15.0
"""Seconds of load before the first reading at rest: caches and allocators have then grown to their usual size."""

_REST = 3.0
"""Seconds in which the connections of clients that have ended are closed."""

_GROWTH = 0.05
"""The share by which memory may grow between the beginning and the end."""

_MORE_FILES = 4
"""Open files that a server at rest may have more at the end: a metrics connection, a log."""

_DISK = 16
"""Mebibytes."""


@dataclass
class Blow:
    """One time that the DM was hit: `what` is `killed` or `stopped`; `back` are the seconds until it judged again, None
    where it did not."""

    at: float
    what: str
    back: float | None = None

    def __str__(self) -> str:
        return f"{self.what}: {'never' if self.back is None else f'{self.back:.1f} s'}"


@dataclass
class Record:
    """All that a run found. `rest` are the sizes without load, before and after; `samples` those under load."""

    blows: list[Blow] = field(default_factory=list)
    samples: list[tuple[float, dict[str, Size]]] = field(default_factory=list)
    rest: list[dict[str, Size]] = field(default_factory=list)
    full: tuple[float, float] = (0.0, 0.0)
    left: dict[str, float] = field(default_factory=dict)
    log_grew: bool = False
    judged_at_end: bool = False
    status: int | None = None
    start: float = 0.0
    """Seconds that the server took to start, without anything beside it: a measure of how busy the machine is."""


@dataclass(frozen=True)
class Verdict:
    """One thing that is asked, whether it holds, and the figures."""

    asked: str
    holds: bool
    figures: str


class Chaos:
    """One run on one server."""

    def __init__(
        self, url: str, process: asyncio.subprocess.Process, disk: SmallDisk, options: argparse.Namespace
    ) -> None:
        self._url, self._process, self._disk, self._options = url, process, disk, options
        self._processes = ServerProcesses(process.pid)
        self._clients = Clients(url, options.seed)
        self._seconds = 60.0 * options.minutes
        self._begun = time.monotonic()
        self.record = Record()

    @property
    def told(self) -> Told:
        return self._clients.told

    async def run(self) -> None:
        """Warm up, let things happen for the time that was asked for, and look at what is left."""
        async with httpx.AsyncClient(timeout=60) as http:
            await self._warm_up()
            self.record.rest.append(self._processes.sizes())
            self._clients = Clients(self._url, self._options.seed)
            self._begun = time.monotonic()
            asking = asyncio.create_task(self._clients.run(self._options.clients))
            happening = [asyncio.create_task(each) for each in (self._sample(), self._hit(http), self._fill())]
            await asyncio.wait({asking, *happening}, timeout=self._seconds, return_when=asyncio.FIRST_EXCEPTION)
            self._clients.stop.set()
            await asyncio.gather(asking, *happening)
            await self._look_at_the_end(http)

    def _now(self) -> float:
        return time.monotonic() - self._begun

    async def _until(self, second: float) -> None:
        """That second of the run, or its end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._clients.stop.wait(), max(0.0, second - self._now()))

    async def _warm_up(self) -> None:
        end = time.monotonic() + _WARM_UP
        number = 0
        async with httpx.AsyncClient(timeout=60) as http:
            while time.monotonic() < end:
                asked = [ask(http, self._url, number + each, stream=each % 2 == 0) for each in range(8)]
                await asyncio.gather(*asked)
                number += 8
        await asyncio.sleep(_REST)

    async def _sample(self) -> None:
        while not self._clients.stop.is_set():
            await self._until(self._now() + _BETWEEN_SAMPLES)
            self.record.samples.append((self._now(), await asyncio.to_thread(self._processes.sizes)))

    async def _fill(self) -> None:
        await self._until(self._seconds / 4)
        self._disk.fill()
        begin = self._now()
        await self._until(3 * self._seconds / 4)
        size = self._log_size()
        self._disk.free()
        self.record.full = (begin, self._now())
        await self._until(self._seconds)
        self.record.log_grew = self._log_size() > size

    def _log_size(self) -> int:
        return 0 if self._disk.folder is None else self._disk.log.stat().st_size

    async def _hit(self, http: httpx.AsyncClient) -> None:
        """Kill the DM's engine again and again; the one in the middle is only stopped. A blow whose time passes while
        the DM is still away from the last one is left out."""
        every = self._options.kill_every
        count = int((self._seconds - 1.0) // every)
        stopped = False
        for number in range(1, count + 1):
            if self._now() > number * every:
                continue
            await self._until(number * every)
            if self._clients.stop.is_set():
                return
            stop = not stopped and number >= max(1, (count + 1) // 2)
            stopped = stopped or stop
            await self._hit_once(http, "stopped" if stop else "killed")

    async def _hit_once(self, http: httpx.AsyncClient, what: str) -> None:
        engine = self._processes.dm_engine()
        if engine is None or not await self._dm_is_ok(http):
            return  # the last blow tells already that it did not come back in time
        blow = Blow(self._now(), what)
        self.record.blows.append(blow)
        if what == "stopped":
            engine.suspend()
        else:
            engine.kill()
        begun = time.monotonic()
        while time.monotonic() - begun < 2 * _BACK_WITHIN:
            await asyncio.sleep(0.25)
            other = self._processes.dm_engine()
            if other is not None and other.pid != engine.pid and await self._dm_is_ok(http):
                blow.back = time.monotonic() - begun
                return

    async def _dm_is_ok(self, http: httpx.AsyncClient) -> bool:
        try:
            return bool((await http.get(f"{self._url}/health")).json()["dm"] == "ok")
        except (httpx.HTTPError, ValueError, KeyError):
            return False

    async def _look_at_the_end(self, http: httpx.AsyncClient) -> None:
        for _ in range(40):
            self.record.left = await left_behind(http, self._url)
            if not any(self.record.left.values()):
                break
            await asyncio.sleep(0.5)
        for _ in range(int(2 * _BACK_WITHIN)):  # both readings at rest are to be of a server with a DM
            if await self._dm_is_ok(http):
                break
            await asyncio.sleep(1)
        answer = await ask(http, self._url, 1, stream=False)
        self.record.judged_at_end = answer.fate == "complete" and not answer.account.get("judge", {}).get("failed")
        await asyncio.sleep(_REST)
        self.record.rest.append(self._processes.sizes())
        self._process.terminate()
        with contextlib.suppress(TimeoutError):
            self.record.status = await asyncio.wait_for(self._process.wait(), 60)


def verdicts(record: Record, told: Told, disk: str) -> list[Verdict]:
    """What is asked of a server to which all this happens."""
    admitted = told.admitted()
    complete = sum(answer.fate == "complete" for _, answer in admitted)
    begin, end = record.full
    meanwhile = [answer for when, answer in admitted if begin <= when <= end]
    answered = sum(answer.fate == "complete" for answer in meanwhile)
    waits = [blow.back for blow in record.blows]
    return [
        Verdict(
            "every admitted request of a client that stayed gets a complete answer",
            complete == len(admitted) > 0,
            f"{complete} of {len(admitted)}; {told.cut} clients left; all: {tally([each for _, each in told.answers])}",
        ),
        Verdict(
            f"the DM is back within {_BACK_WITHIN:.0f} s each time",
            bool(waits) and all(wait is not None and wait <= _BACK_WITHIN for wait in waits) and record.judged_at_end,
            f"{', '.join(map(str, record.blows))}; the server itself took {record.start:.1f} s to start",
        ),
        _memory(record),
        _files(record),
        Verdict(
            "the queue is empty at the end, and no engine request is left",
            bool(record.left) and not any(record.left.values()),
            ", ".join(f"{name} {value:.0f}" for name, value in record.left.items()),
        ),
        Verdict(
            "bodies of 100 MB are refused",
            bool(told.huge) and set(told.huge) <= {"413", "closed"},
            ", ".join(f"{count} {what}" for what, count in sorted(told.huge.items())),
        ),
        Verdict(
            "with a full disk for the log, requests are answered, and the log goes on afterwards",
            answered == len(meanwhile) > 0 and (record.log_grew or disk != "tmpfs"),
            f"{answered} of {len(meanwhile)} in {end - begin:.0f} s of a full disk ({disk}); "
            f"the log {'went on' if record.log_grew else 'did not go on'}",
        ),
        Verdict("SIGTERM ends it with status 0", record.status == 0, f"status {record.status}"),
    ]


def _memory(record: Record) -> Verdict:
    """Of the API server and the Reasoner's engine, which live as long as the run; the DM's engine begins anew."""
    parts = ("api", "reasoner")
    before, after = (sum(sizes[part].pss for part in parts) for sizes in (record.rest[0], record.rest[-1]))
    times = [when for when, _ in record.samples]
    values = [sum(sizes[part].pss for part in parts) for _, sizes in record.samples]
    settled = len(times) // 4
    per_hour = 3600 * slope(times[settled:], values[settled:])
    dm = [round(sizes["dm"].pss) for _, sizes in record.samples if sizes["dm"].pss]
    return Verdict(
        f"memory is flat (PSS of API server and Reasoner, at rest, within {_GROWTH:.0%})",
        after <= before * (1 + _GROWTH),
        f"{before:.0f} MiB before, {after:.0f} after; under load {min(values, default=0):.0f} to "
        f"{max(values, default=0):.0f}, {per_hour:+.0f} MiB an hour after the first quarter; the DM's engines "
        f"{min(dm, default=0)} to {max(dm, default=0)}",
    )


def _files(record: Record) -> Verdict:
    before, after = (sizes["api"] for sizes in (record.rest[0], record.rest[-1]))
    under_load = [sizes["api"].files for _, sizes in record.samples]
    return Verdict(
        f"open files are flat (API server at rest, at most {_MORE_FILES} more)",
        after.files <= before.files + _MORE_FILES,
        f"{before.files} before, {after.files} after; threads {before.threads} and {after.threads}; "
        f"under load {min(under_load, default=0)} to {max(under_load, default=0)}",
    )


def as_data(record: Record, told: Told, found: list[Verdict], options: argparse.Namespace, disk: str) -> dict[str, Any]:
    """The whole run as plain data."""
    seconds = [answer.seconds for _, answer in told.admitted() if answer.fate == "complete"]
    return {
        "minutes": options.minutes,
        "clients": options.clients,
        "kill_every": options.kill_every,
        "seed": options.seed,
        "disk": disk,
        "verdicts": [asdict(verdict) for verdict in found],
        "fates": dict(Counter(f"{answer.fate} ({answer.code})" for _, answer in told.answers)),
        "seconds": {"p50": quantile(seconds, 0.5), "p95": quantile(seconds, 0.95)},
        "start": record.start,
        "blows": [asdict(blow) for blow in record.blows],
        "rest": [{part: asdict(size) for part, size in sizes.items()} for sizes in record.rest],
        "samples": [
            {"second": when, **{part: asdict(size) for part, size in sizes.items()}} for when, sizes in record.samples
        ],
    }


def markdown(found: list[Verdict]) -> str:
    """The verdicts as a table."""
    rows = [f"| {verdict.asked} | {'yes' if verdict.holds else '**no**'} | {verdict.figures} |" for verdict in found]
    return "\n".join(["| asked | holds | figures |", "| --- | --- | --- |", *rows])


async def _run(options: argparse.Namespace, flags: list[str]) -> int:
    arguments = [
        *("--model", str(reference.reasoner_folder()), "--dm", str(reference.dm_folder("text"))),
        *("--served-model-name", reference.MODEL_NAME, "--stream-interval", str(reference.STREAM_INTERVAL)),
        *flags,
    ]
    with small_disk(_DISK) as disk:
        if options.full_disk_flag:
            if disk.folder is None:
                raise PermissionError("--full-disk-flag needs the right to mount a tmpfs")
            arguments += [options.full_disk_flag, str(disk.folder / "data")]
        try:
            begun = time.monotonic()
            async with running(arguments, log=disk.log) as (url, process):
                chaos = Chaos(url, process, disk, options)
                chaos.record.start = time.monotonic() - begun
                await chaos.run()
        finally:
            if disk.folder is not None and disk.log.exists():
                shutil.copyfile(disk.log, options.out.with_suffix(".log"))
        found = verdicts(chaos.record, chaos.told, disk.kind)
        told = as_data(chaos.record, chaos.told, found, options, disk.kind)
    write_whole(options.out, json.dumps(told, indent=1) + "\n")
    Console(soft_wrap=True, markup=False).print(markdown(found))
    return 0 if all(verdict.holds for verdict in found) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--kill-every", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full-disk-flag", metavar="FLAG")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/chaos.json"))
    options, flags = parser.parse_known_args()
    check_range("--minutes", options.minutes, above=0)
    check_range("--clients", options.clients, least=1)
    check_range("--kill-every", options.kill_every, least=10)
    return asyncio.run(_run(options, flags))


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.chaos", main))

"""Malformed requests, and requests made from the OpenAPI document, to a real server: no 5xx, no hang, nothing left.

    python -m tests.fuzz [--malformed 10000] [--seeds 0 1 2] [--examples 2000] [--record FOLDER] [--url URL --pid PID]

Without --url it starts the server of the reference models itself. With --record a run goes on where it was stopped:
malformed requests by hundreds, the document's by operations. --only SEED/NUMBER sends and shows one malformed request.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil

from tests.fuzz import document
from tests.fuzz.malformed import Malformed, draw_malformed
from tests.fuzz.raw import Reply, send
from tests.fuzz.watch import resident_mb, still_answers, wait_until_idle, wrong_log
from tests.server.running import start, stop

_CHUNK = 100
"""Malformed requests between two looks at what they left behind."""


class Findings:
    """What was found so far; with a folder it is also written there, so that a later run goes on from it."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.chunks: dict[str, list[Reply]] = {}
        self.documents: dict[str, dict[str, list[str]]] = {}
        """By run, and by operation."""
        self.left: list[str] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob("malformed-*.json")):
                self.chunks[path.stem] = [Reply(**each) for each in json.loads(path.read_text())]
            for path in sorted(folder.glob("document-*.json")):
                self.documents[path.stem] = json.loads(path.read_text())

    def add_chunk(self, name: str, replies: list[Reply]) -> None:
        self.chunks[name] = replies
        self._write(name, [asdict(reply) for reply in replies])

    def add_document(self, name: str, label: str, faults: list[str]) -> None:
        self.documents.setdefault(name, {})[label] = faults
        self._write(name, self.documents[name])

    def _write(self, name: str, what: object) -> None:
        if self._folder is not None:
            (self._folder / f"{name}.json").write_text(json.dumps(what))

    def summary(self) -> str:
        """The figures of the run."""
        replies = [reply for chunk in self.chunks.values() for reply in chunk]
        statuses = Counter(reply.status for reply in replies)
        wrong = [reply for reply in replies if reply.wrong]
        faults = [text for run in self.documents.values() for own in run.values() for text in own]
        lines = [
            f"{len(replies)} malformed requests: {dict(Counter(reply.kind for reply in replies).most_common())}",
            f"statuses (0: none): {dict(sorted(statuses.items()))}",
            f"longest: {max((reply.seconds for reply in replies), default=0.0):.1f} s",
            f"malformed requests answered wrongly: {len(wrong)}",
            f"seeds of the document: {len(self.documents)}; its requests answered wrongly: {len(faults)}",
            *(f"left behind: {text}" for text in self.left),
        ]
        return "\n".join(lines)

    @property
    def failed(self) -> bool:
        faults = any(own for run in self.documents.values() for own in run.values())
        faults = faults or any(reply.wrong for own in self.chunks.values() for reply in own)
        return faults or bool(self.left)


async def ask_malformed(url: str, seed: int, numbers: range, concurrency: int, limit: float) -> list[Reply]:
    """Send these requests, `concurrency` at a time; what is answered wrongly is printed with a command that repeats
    it."""
    replies: list[Reply] = []
    left = iter(numbers)

    async def work() -> None:
        for number in left:
            malformed = draw_malformed(seed, number)
            reply = await send(url, malformed, limit)
            replies.append(reply)
            if reply.wrong:
                _tell(seed, malformed, reply, url)

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return replies


def _tell(seed: int, malformed: Malformed, reply: Reply, url: str) -> None:
    sys.stdout.write(f"{seed}/{malformed.number} ({malformed.kind}): {reply.wrong[0][:500]}\n")
    sys.stdout.write(f"    {malformed.as_command(url)[:3_000]}\n")
    sys.stdout.flush()


def _run_malformed(url: str, options: argparse.Namespace, findings: Findings) -> None:
    seed = options.seeds[0]
    for start_at in range(0, options.malformed, _CHUNK):
        name = f"malformed-{seed}-{start_at:06}"
        if name in findings.chunks:
            continue
        numbers = range(start_at, min(start_at + _CHUNK, options.malformed))
        begun = time.perf_counter()
        replies = asyncio.run(ask_malformed(url, seed, numbers, options.concurrency, options.limit))
        left = asyncio.run(_left(url))
        findings.add_chunk(name, replies)
        findings.left += [f"after {numbers.stop}: {text}" for text in left]
        wrong = sum(bool(reply.wrong) for reply in replies)
        sys.stdout.write(f"{numbers.stop}: {wrong} wrong, {time.perf_counter() - begun:.1f} s\n")
        sys.stdout.flush()
        if left:
            return


async def _left(url: str) -> list[str]:
    try:
        return await wait_until_idle(url) + await still_answers(url)
    except Exception as error:  # whatever keeps a server from telling how it is
        return [f"the server does not say how it is: {error!r}"]


def _run_documents(url: str, options: argparse.Namespace, findings: Findings) -> None:
    for seed in options.seeds if options.examples else ():
        name = f"document-{seed}-{options.examples}"
        known = set(findings.documents.get(name, ()))
        for label, faults in document.run(url, seed, options.examples, known):
            findings.add_document(name, label, faults)
            sys.stdout.write("".join(f"{fault}\n" for fault in faults))
        findings.left += [f"after seed {seed}: {text}" for text in asyncio.run(_left(url))]


@contextlib.contextmanager
def _server(options: argparse.Namespace) -> Iterator[tuple[str, int | None, Path | None]]:
    """The address of a server, its process and its log, as far as they are known."""
    if options.url:
        yield options.url, options.pid, options.log
        return
    with tempfile.TemporaryDirectory() as folder:
        log = (options.record or Path(folder)) / "server.log"
        server = start(log, "--dm-deadline-ms", "60000", *options.flags)
        try:
            yield server.url, server.process.pid, log
        finally:
            stop(server)


def _show(options: argparse.Namespace) -> int:
    seed, _, number = options.only.partition("/")
    with _server(options) as (url, _, log):
        malformed = draw_malformed(int(seed), int(number))
        reply = asyncio.run(send(url, malformed, options.limit))
        sys.stdout.write(f"{malformed}\n{malformed.as_command(url)}\n{reply}\n")
        sys.stdout.write(log.read_text(errors="replace")[-6000:] if log is not None and reply.wrong else "")
    return int(bool(reply.wrong))


def main(options: argparse.Namespace) -> int:
    if options.only:
        return _show(options)
    findings = Findings(options.record)
    with _server(options) as (url, pid, log):
        process = None if pid is None else psutil.Process(pid)
        before = None if process is None else (resident_mb(process), process.num_fds())
        _run_malformed(url, options, findings)
        _run_documents(url, options, findings)
        if process is not None and before is not None:
            now = (resident_mb(process), process.num_fds())
            sys.stdout.write(f"MB and descriptors: {before} before, {now} after\n")
        findings.left += [] if log is None else wrong_log(log)
    sys.stdout.write(findings.summary() + "\n")
    return int(findings.failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--malformed", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="the first is also the malformed ones'")
    parser.add_argument("--examples", type=int, default=2_000, help="of the document, for each seed; 0 for none")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds after which a request counts as hanging")
    parser.add_argument("--record", type=Path, help="a folder for what was found; a run goes on where it was stopped")
    parser.add_argument("--only", metavar="SEED/NUMBER", help="send one malformed request, and show it")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--pid", type=int, help="its process, whose memory is watched")
    parser.add_argument("--log", type=Path, help="its log, to be looked through")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="of the server that is started")
    sys.exit(main(parser.parse_args()))

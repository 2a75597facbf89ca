"""What a decision log costs: bytes on disk and microseconds, by the responses of a log that holds text.

    python -m benchmarks.decision_log FOLDER [--out FILE]

Writes the log's rows again, with and without text, as one file each, and takes the time of every part of it: what the
server's event loop does when a response ends, and what the writer's thread does.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any

from drr.decisions.files import log_files, read_file, write_file
from drr.decisions.schema import Row, one_row
from drr.errors import InputError
from drr.failures import guarded
from drr.files import write_whole
from drr.loop.reasoner import Token
from drr.loop.response import AttemptOutput, Outcome
from server.decisions.log import DecisionLog, LoggedResponse
from server.decisions.rows import LogIdentity, Request


def measure(rows: Sequence[Row]) -> dict[str, Any]:
    """Sizes in bytes and times in microseconds, each a mean per response."""
    bare = [{**row, "text": None} for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        sizes = {
            name: write_file(Path(folder), f"{name}.parquet", [one_row(row) for row in written]) / len(rows)
            for name, written in (("with_text", rows), ("without_text", bare))
        }
    return {
        "responses": len(rows),
        "output_tokens": fmean(len(output["ids"]) for row in rows for output in row["text"]["attempts"]),
        "boundaries": fmean(len(row["boundaries"]) for row in rows),
        "bytes": {name: round(size) for name, size in sizes.items()},
        "thread_us": {
            "with_text": _microseconds(rows, lambda row: one_row(row)),
            "without_text": _microseconds(bare, lambda row: one_row(row)),
        },
        "event_loop_us": _microseconds([_response(row) for row in rows], lambda made: made.end(0, (), "stop")),
    }


def _microseconds(items: Sequence[Any], work: Callable[[Any], Any]) -> float:
    """The median time of the work on one of them."""
    times = []
    for item in items:
        begun = time.perf_counter()
        work(item)
        times.append((time.perf_counter() - begun) * 1e6)
    return round(median(times), 1)


def _response(row: Row) -> LoggedResponse:
    """A response with the row's tokens, whose log goes nowhere."""
    tokens = [
        [Token(token, "", logprob) for token, logprob in zip(output["ids"], output["logprobs"], strict=True)]
        for output in row["text"]["attempts"]
    ]

    class Loop:
        """As a loop that has ended."""

        outcome = Outcome()

        @property
        def outputs(self) -> list[AttemptOutput]:
            return [AttemptOutput(tuple(own), 0, len(own), closed=True) for own in tokens]

    nowhere: Any = SimpleNamespace(submit=lambda make, size: True)
    log = DecisionLog(nowhere, LogIdentity("", "", "", b""), text=True)
    choice: Any = SimpleNamespace(loop=Loop())
    unused: Any = None
    request = Request("", unused, {"prompt_token_ids": row["text"]["prompt_ids"]}, unused, {})
    return LoggedResponse(log, request, [choice])


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = [row for path in log_files(options.folder) for row in read_file(path)]
    rows = [row for row in rows if row["text"] is not None]
    if not rows:
        raise InputError(str(options.folder), "holds no response with text")
    told = json.dumps(measure(rows), indent=2)
    sys.stdout.write(f"{told}\n")
    if options.out is not None:
        write_whole(options.out, told + "\n")


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.decision_log", main))

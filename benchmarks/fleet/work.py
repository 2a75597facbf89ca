"""What requests ask of a replica: lengths taken from recorded evaluations, never from a formula."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from drr.errors import InputError

STOPPED = frozenset(("sure", "hopeless", "no_gain", "dm_stop"))
"""Causes that are a stop by the judge; older records say `dm_stop` for each of them."""


@dataclass(frozen=True, slots=True)
class Work:
    """One response: `tokens` generated in all (those that were thrown away included), `restarts` of its engine request
    (a stop, and each further attempt), and whether the answer was right."""

    tokens: int
    restarts: int = 0
    right: bool = True


@dataclass(slots=True)
class Request:
    """One request. `due` is when it arrives, in seconds; `prompt` its tokens, of which `shared` are those of the same
    conversation's turn before. The simulation fills the rest in; None is what has not happened."""

    due: float
    prompt: int
    work: Work
    conversation: int = 0
    shared: int = 0
    admitted: float | None = None
    first: float | None = None
    end: float | None = None
    refused: bool = False


def recorded(path: Path) -> list[Work]:
    """The responses of a recorded evaluation, in its own order. InputError if the file holds none."""
    columns = ["tokens", "stop_cause", "attempts", "right"]
    rows = pq.read_table(path, columns=columns).to_pylist()
    if not rows:
        raise InputError(str(path), "holds no responses")
    return [
        Work(
            max(1, int(row["tokens"])),
            int(row["attempts"]) - 1 + (row["stop_cause"] in STOPPED),
            bool(row["right"]),
        )
        for row in rows
    ]


def drawn(count: int, size: int, seed: int) -> list[int]:
    """Which of `size` recorded responses each of `count` requests is. Two strategies that were recorded on the same
    questions get the same questions from the same seed."""
    rng = random.Random(seed)
    return [rng.randrange(size) for _ in range(count)]


def requests(
    arrivals: Sequence[float], work: Sequence[Work], prompt: int, *, seed: int, turns: float = 1.0
) -> list[Request]:
    """A request at each of `arrivals`. Conversations have `turns` turns on average (geometric); each turn's prompt
    repeats all before it, answers included (thinking is not sent back, so an answer counts a tenth of its response)."""
    if turns < 1:
        raise ValueError("a conversation has at least one turn")
    rng = random.Random(seed + 1)
    picked = drawn(len(arrivals), len(work), seed)
    open_ones: list[tuple[int, int]] = []
    made: list[Request] = []
    for number, (due, pick) in enumerate(zip(arrivals, picked, strict=True)):
        goes_on = bool(open_ones) and rng.random() < 1 - 1 / turns
        conversation, shared = open_ones.pop(rng.randrange(len(open_ones))) if goes_on else (number, 0)
        made.append(Request(due, prompt + shared, work[pick], conversation, shared))
        if turns > 1:
            open_ones.append((conversation, prompt + shared + work[pick].tokens // 10))
    return made

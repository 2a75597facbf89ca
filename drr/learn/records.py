"""Behaviour records on disk: rollouts with every boundary graded, as Parquet shards with a manifest."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from drr.errors import InputError
from drr.files import read_json_as, write_whole
from drr.loop.features import BehaviourFeatures
from drr.tasks.sources import Reject

Parsed = TypeVar("Parsed")

MANIFEST_NAME = "manifest.json"
REJECTED_NAME = "rejected.jsonl"
SCHEMA_VERSION = 2


_SET_ASIDE = "set_aside"


@dataclass(slots=True)
class Rollout:
    """One graded attempt. `steps`, `step_tokens`, `logprobs`, `forced` and `now` have one entry per boundary.

    `gold` is the answer that grading used (the dataset's, or the rollouts' majority). `logprobs[i]` are step i's
    sampled tokens' natural-log probabilities, None where they are not known. `forced[i]` is the answer forced at
    boundary i and `now[i]` whether it is right, both None where none was forced. `later` is the rollout's own outcome.
    """

    question: str
    gold: str
    family: str
    difficulty: int
    sample: int
    later: bool
    thinking_tokens: int
    total_tokens: int
    answer: str
    steps: list[str]
    step_tokens: list[int]
    logprobs: list[list[float] | None]
    forced: list[str | None]
    now: list[bool | None]


_SCHEMA = pa.schema(
    [
        ("question", pa.string()),
        ("gold", pa.string()),
        ("family", pa.string()),
        ("difficulty", pa.int32()),
        ("sample", pa.int32()),
        ("later", pa.bool_()),
        ("thinking_tokens", pa.int32()),
        ("total_tokens", pa.int32()),
        ("answer", pa.string()),
        ("steps", pa.list_(pa.string())),
        ("step_tokens", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.list_(pa.float32()))),
        ("forced", pa.list_(pa.string())),
        ("now", pa.list_(pa.bool_())),
    ]
)


def behaviour_features(rollout: Rollout) -> list[list[float] | None]:
    """The features at each boundary, by the code that serving runs."""
    attempt = BehaviourFeatures()
    return [
        attempt.close_step(text, [None] if own is None else own)
        for text, own in zip(rollout.steps, rollout.logprobs, strict=True)
    ]


def question_key(question: str) -> str:
    """12 hex digits that stand for a question, whatever its case and white space."""
    return hashlib.sha256(" ".join(question.casefold().split()).encode()).hexdigest()[:12]


def share_of(question: str, salt: str) -> float:
    """A number in [0, 1) that the question's text decides: splits made of it agree everywhere and always."""
    digest = hashlib.sha256(f"{salt}/{question_key(question)}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


@dataclass(slots=True)
class Manifest:
    """What a folder of records holds and how it was made.

    `settings` are what every record depends on: a folder is only continued with the same ones. `counts` are filled
    in when the folder is complete.
    """

    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION
    complete: bool = False

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The manifest of `folder`; InputError says what is wrong with it."""
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise InputError(str(folder), f"holds no behaviour records: it has no {MANIFEST_NAME}")
        manifest = read_json_as(cls, path)
        if manifest.schema != SCHEMA_VERSION:
            raise InputError(str(path), f"is {manifest.schema}, this version reads {SCHEMA_VERSION}", field="schema")
        for name in ("reasoner", "step_rule"):
            if name not in manifest.settings:
                raise InputError(str(path), "is missing", field=f"settings.{name}")
        return manifest

    def save(self, folder: Path) -> None:
        write_whole(folder / MANIFEST_NAME, json.dumps(asdict(self), indent=2) + "\n")


def write_shard(path: Path, rollouts: Sequence[Rollout], set_aside: Sequence[Reject] = ()) -> None:
    """Write rollouts, and which questions of the batch gave none, as one Parquet file, whole or not at all."""
    table = pa.table({name: [getattr(own, name) for own in rollouts] for name in _SCHEMA.names}, schema=_SCHEMA)
    if set_aside:
        table = table.replace_schema_metadata({_SET_ASIDE: json.dumps([asdict(reject) for reject in set_aside])})
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


def set_aside_in(path: Path) -> list[Reject]:
    """The questions of a shard's batch that gave no rollouts."""
    metadata = pq.read_schema(path).metadata or {}
    return [Reject(**own) for own in json.loads(metadata.get(_SET_ASIDE.encode(), b"[]"))]


def shards(folder: Path) -> list[Path]:
    """The shards of a folder, in order."""
    return sorted(folder.glob("*.parquet"))


def read_rollouts(folder: Path) -> list[Rollout]:
    """All rollouts of a folder; InputError names the shard, row and field that cannot be used."""
    return [rollout for path in shards(folder) for rollout in _read_shard(path)]


def _read_shard(path: Path) -> Iterator[Rollout]:
    try:
        table = pq.read_table(path)
        columns = table.column_names  # not text where the file is damaged
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(str(path), f"is not a readable Parquet file: {_first_line(error)}") from error
    for name in _SCHEMA.names:
        if name not in columns:
            raise InputError(str(path), "is missing", field=name)
    try:
        rows = table.select(_SCHEMA.names).cast(_SCHEMA).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise InputError(str(path), f"is not a shard of behaviour records: {_first_line(error)}") from error
    for number, row in enumerate(rows, start=1):
        for name in _SCHEMA.names:
            if row[name] is None:
                raise InputError(str(path), "is empty", number, name)
        for name in ("step_tokens", "logprobs", "forced", "now"):
            if len(row[name]) != len(row["steps"]):
                raise InputError(str(path), "has not one entry per step", number, name)
        for name in ("steps", "step_tokens"):
            if None in row[name]:
                raise InputError(str(path), "has an empty entry", number, name)
        if any(own is not None and None in own for own in row["logprobs"]):
            raise InputError(str(path), "has an empty entry", number, "logprobs")
        yield Rollout(**row)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Behaviour records on disk: rollouts with every boundary graded, as Parquet shards with a manifest."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from drr.errors import InputError, first_line
from drr.files import read_json_as, write_whole
from drr.loop.features import BehaviourFeatures
from drr.tasks.questions import folded
from drr.tasks.rows import Reject

Parsed = TypeVar("Parsed")

MANIFEST_NAME = "manifest.json"
REJECTED_NAME = "rejected.jsonl"
SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, 3)
"""Records of version 2 hold no token ids."""


_SET_ASIDE, _OVER_LIMITS = "set_aside", "over_limits"


@dataclass(slots=True)
class Rollout:
    """One graded attempt. `steps`, `step_tokens`, `logprobs`, `forced` and `now` have one entry per boundary.

    `gold` is the answer that grading used (the dataset's, or the rollouts' majority). `logprobs[i]` are the natural-log
    probabilities of the sampled tokens of step i, None if unknown. `forced[i]` is the answer forced at boundary i and
    `now[i]` whether it is right, both None if none was forced. `later` says whether the rollout's own answer is right.
    `prompt_ids` are the token ids before the first step and `thought_ids` those of all steps, None if unknown.
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
    prompt_ids: list[int] | None = None
    thought_ids: list[int] | None = None

    @property
    def identity(self) -> str:
        """Equal for rollouts of the same question, however it was spelled. Questions are counted by it."""
        return folded(self.question)


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
        ("prompt_ids", pa.list_(pa.int32())),
        ("thought_ids", pa.list_(pa.int32())),
    ]
)
_MAY_BE_NULL = ("prompt_ids", "thought_ids")


def behaviour_features(rollout: Rollout) -> list[list[float] | None]:
    """The behaviour features at each boundary, computed by the code that serving uses; None where unknown."""
    attempt = BehaviourFeatures()
    return [
        attempt.close_step(text, [None] if logprobs is None else logprobs)
        for text, logprobs in zip(rollout.steps, rollout.logprobs, strict=True)
    ]


def question_key(question: str) -> str:
    """12 hex digits that identify a question, however it is spelled (drr.tasks.questions.folded)."""
    return hashlib.sha256(folded(question).encode()).hexdigest()[:12]


def share_of(question: str, salt: str) -> float:
    """A number in [0, 1) that depends on the question's text and `salt` only; splits by it are the same everywhere."""
    digest = hashlib.sha256(f"{salt}/{question_key(question)}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


@dataclass(slots=True)
class Manifest:
    """What a folder of records holds and how it was made.

    Every record depends on `settings`, so a folder is continued with the same settings only. `counts` are filled in
    when the folder is complete.
    """

    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION
    complete: bool = False

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The manifest of `folder`. InputError says what is wrong with it."""
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise InputError(str(folder), f"holds no behaviour records: it has no {MANIFEST_NAME}")
        manifest = read_json_as(cls, path)
        if manifest.schema not in READABLE_VERSIONS:
            readable = " and ".join(map(str, READABLE_VERSIONS))
            raise InputError(str(path), f"is {manifest.schema}, this version reads {readable}", field="schema")
        for name in ("reasoner", "step_rule"):
            if name not in manifest.settings:
                raise InputError(str(path), "is missing", field=f"settings.{name}")
        return manifest

    def save(self, folder: Path) -> None:
        write_whole(folder / MANIFEST_NAME, json.dumps(asdict(self), indent=2) + "\n")


def write_shard(
    path: Path, rollouts: Sequence[Rollout], set_aside: Sequence[Reject] = (), over_limits: Sequence[str] = ()
) -> None:
    """Write one Parquet file, whole or not at all: rollouts, the questions of the batch that were set aside, and the
    answers whose grading exceeded a limit."""
    table = pa.table({name: [getattr(rollout, name) for rollout in rollouts] for name in _SCHEMA.names}, schema=_SCHEMA)
    about = {_SET_ASIDE: [asdict(reject) for reject in set_aside], _OVER_LIMITS: list(over_limits)}
    table = table.replace_schema_metadata({name: json.dumps(value) for name, value in about.items() if value})
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


def set_aside_in(path: Path) -> list[Reject]:
    """The questions of a shard's batch that were set aside. InputError if the shard is damaged."""
    return [Reject(**reject) for reject in _about(path, _SET_ASIDE)]


def over_limits_in(path: Path) -> list[str]:
    """The answers of a shard whose grading exceeded a limit, and which; they count as wrong. InputError if the shard is
    damaged."""
    return [str(case) for case in _about(path, _OVER_LIMITS)]


def _about(path: Path, name: str) -> list[Any]:
    try:
        found: list[Any] = json.loads((pq.read_schema(path).metadata or {}).get(name.encode(), b"[]"))
    except (OSError, pa.ArrowException, ValueError, TypeError) as error:
        raise InputError(str(path), f"is not a readable Parquet file: {first_line(error)}") from error
    return found


def shards(folder: Path) -> list[Path]:
    """The shards of a folder, in order."""
    return sorted(folder.glob("*.parquet"))


def read_rollouts(folder: Path) -> list[Rollout]:
    """All rollouts of a folder. InputError names the shard, row and field that cannot be used."""
    return [rollout for path in shards(folder) for rollout in read_shard(path)]


def read_shard(path: Path) -> Iterator[Rollout]:
    """The rollouts of one shard, in order. InputError names the row and field that cannot be used."""
    try:
        table = pq.read_table(path)
        columns = table.column_names  # not text where the file is damaged
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(str(path), f"is not a readable Parquet file: {first_line(error)}") from error
    names = [name for name in _SCHEMA.names if name in columns or name not in _MAY_BE_NULL]
    for name in names:
        if name not in columns:
            raise InputError(str(path), "is missing", field=name)
    try:
        rows = table.select(names).cast(pa.schema([_SCHEMA.field(name) for name in names])).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise InputError(str(path), f"is not a shard of behaviour records: {first_line(error)}") from error
    for number, row in enumerate(rows, start=1):
        for name in names:
            if row[name] is None and name not in _MAY_BE_NULL:
                raise InputError(str(path), "is empty", number, name)
        for name in ("step_tokens", "logprobs", "forced", "now"):
            if len(row[name]) != len(row["steps"]):
                raise InputError(str(path), "has not one entry per step", number, name)
        for name in ("steps", "step_tokens"):
            if None in row[name]:
                raise InputError(str(path), "has an empty entry", number, name)
        if any(logprobs is not None and None in logprobs for logprobs in row["logprobs"]):
            raise InputError(str(path), "has an empty entry", number, "logprobs")
        for name in _MAY_BE_NULL:
            if None in (row.get(name) or ()):
                raise InputError(str(path), "has an empty entry", number, name)
        thought = row.get("thought_ids")
        if thought is not None and len(thought) != sum(row["step_tokens"]):
            raise InputError(str(path), "has not one entry per token of the steps", number, "thought_ids")
        yield Rollout(**row)

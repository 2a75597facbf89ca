"""What a row of the decision log holds: one response (a choice of a request), its attempts and its boundaries.

A log without text holds no text, no token ids and no number that the text could be had back from: `text` is null.
"""

from typing import Any, NamedTuple

import pyarrow as pa

VERSION = 1

FILE_PREFIX, FILE_SUFFIX = "decisions-", ".parquet"

Row = dict[str, Any]
"""A row as plain Python values, in the shape of SCHEMA."""

_SAMPLING = pa.struct(
    [
        ("temperature", pa.float32()),
        ("top_p", pa.float32()),
        ("top_k", pa.int32()),
        ("min_p", pa.float32()),
        ("repetition_penalty", pa.float32()),
        ("seed", pa.int64()),
        ("max_tokens", pa.int32()),
    ]
)
_TOKENS = pa.struct(
    [
        (name, pa.int32())
        for name in ("prompt", "thinking", "answer", "discarded", "probe", "injected", "late", "earlier")
    ]
)
_ATTEMPT = pa.struct(
    [
        ("fate", pa.string()),
        ("thinking_tokens", pa.int32()),
        ("generated_tokens", pa.int32()),
        ("discarded_tokens", pa.int32()),
        ("p_now", pa.float32()),
    ]
)
_BOUNDARY = pa.struct(
    [
        ("attempt", pa.int16()),
        ("index", pa.int32()),
        ("offset", pa.int32()),
        ("tokens", pa.int32()),
        ("p_now", pa.float32()),
        ("p_later", pa.float32()),
        ("verdict", pa.string()),
        ("ms", pa.float32()),
        ("late", pa.bool_()),
        ("features", pa.list_(pa.float32())),
    ]
)
_OUTPUT = pa.struct(
    [
        ("ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("injected", pa.list_(pa.int32())),
        ("thinking_from", pa.int32()),
        ("thinking_to", pa.int32()),
        ("closed", pa.bool_()),
    ]
)
_TEXT = pa.struct(
    [
        ("question", pa.string()),
        ("answer", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("attempts", pa.list_(_OUTPUT)),
    ]
)


class Column(NamedTuple):
    """A column of the log: its type, and what it means."""

    name: str
    type: Any
    meaning: str


COLUMNS = (
    Column("id", pa.string(), "the request's id, as in the server's own log lines"),
    Column("choice", pa.int16(), "which of the request's choices (`n`), from 0"),
    Column("time", pa.timestamp("ms", "UTC"), "when the response ended"),
    Column("model", pa.string(), "the name that the Reasoner is served by"),
    Column("reasoner", pa.string(), "the fingerprint of its weights"),
    Column("adapter", pa.string(), "the LoRA adapter that answered, null for none"),
    Column("step_rule", pa.string(), "where boundaries are"),
    Column("mode", pa.string(), "the effective `drr.mode`"),
    Column("acts", pa.bool_(), "whether a judge or a limit of the client's might have ended the thinking"),
    Column("scorer", pa.string(), "who judged, null for nobody"),
    Column("judge", pa.string(), "the judge's id"),
    Column("settings", pa.string(), "every effective setting, as JSON, but texts that the client chose"),
    Column("sampling", _SAMPLING, "how tokens were drawn"),
    Column("shaped_by", pa.list_(pa.string()), "what else shaped the output: grammar, stop, tools, penalties, ..."),
    Column("finish", pa.string(), "complete, or aborted: the client left, a limit of time, a dead engine"),
    Column("finish_reason", pa.string(), "as the client was told; null where aborted"),
    Column("stop_cause", pa.string(), "why the thinking ended; null where aborted"),
    Column("tokens", _TOKENS, "how many, by fate; every generated one is thinking, answer or discarded"),
    Column("nudges", pa.int32(), "closes of the thinking that were refused"),
    Column("late", pa.int32(), "scores that missed their deadline"),
    Column("failed", pa.int32(), "scores that failed"),
    Column("question", pa.string(), "a keyed hash of the question: equal for equal questions in this folder"),
    Column(
        "attempts",
        pa.list_(_ATTEMPT),
        "one for every attempt, with its fate; abandoned where the client left",
    ),
    Column("boundaries", pa.list_(_BOUNDARY), "one for every judged boundary, attempt by attempt"),
    Column("canary", pa.string(), "of a response that thought in full as a canary: the rule it stands for, as JSON"),
    Column("text", _TEXT, "question, prompt, and output with its log-probabilities; null unless asked for"),
)

SCHEMA = pa.schema([(column.name, column.type) for column in COLUMNS], metadata={"drr_decision_log": str(VERSION)})


def one_row(row: Row) -> pa.RecordBatch:
    """The row as a batch of one. ArrowInvalid or a TypeError where a value does not fit its column."""
    return pa.RecordBatch.from_pylist([row], schema=SCHEMA)

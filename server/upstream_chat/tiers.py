"""What each tier of a chat upstream takes of the `drr` object, as data: a key is honoured, or refused with the reason.

The refusals, the page's table and the tests are made from this.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from drr.engine.upstream.judging import SCORERS
from drr.loop.chat.said import Tier
from server.keys import KEYS
from server.schema import DrrError, DrrRequest

_WHOLE = "this upstream gives whole answers only (tier opaque): nothing can be decided in the middle of a thought"
_UNCERTIFIED = "no rule is certified for a Reasoner whose tokens and sampling are the upstream's; use drr.threshold"
_OVER = "a thought that is handed back to this upstream is taken as over: its close cannot be refused"
_ONE_DM = "one DM judges in front of a chat upstream: that of --dm"
_SHOWN = "the upstream's own split into reasoning and content is handed on"

REFUSED: Mapping[Tier, Mapping[str, str]] = {
    "opaque": {
        **dict.fromkeys(
            (
                *("threshold", "hopeless", "min_gain", "patience", "min_steps", "max_steps", "min_step_tokens"),
                *("max_thinking_tokens", "answer_tokens", "nudge", "nudge_below"),
            ),
            _WHOLE,
        ),
        "max_lost_correct": _WHOLE,
        "thinking_in": _SHOWN,
        "dm": _ONE_DM,
    },
    "prefix": {
        "max_lost_correct": _UNCERTIFIED,
        "nudge": _OVER,
        "nudge_below": _OVER,
        "thinking_in": _SHOWN,
        "dm": _ONE_DM,
    },
}
"""Keys that a tier does not take, and why."""


def check_tier(asked: DrrRequest | None, tier: Tier) -> None:
    """DrrError for the first key that this tier does not take."""
    if asked is None:
        return
    given = asked.given()
    for key in KEYS:
        if key.name in given and key.name in REFUSED[tier]:
            raise DrrError(f"drr.{key.name}", REFUSED[tier][key.name])
    if asked.mode == "stop" and tier == "opaque":
        raise DrrError("drr.mode", f"stop: {_WHOLE}")
    if asked.rethink == "in_context":
        raise DrrError(
            "drr.rethink", "in_context: no attempt at this upstream can go on behind a rejected one; use fresh"
        )
    if asked.scorer is not None and asked.scorer not in SCORERS[tier]:
        known = ", ".join(SCORERS[tier])
        raise DrrError(
            "drr.scorer", f"{asked.scorer} needs what this upstream does not give (tier {tier}); use {known}"
        )


@dataclass(frozen=True, slots=True)
class _Note:
    """What a key does in a tier, where that differs from an engine of one's own."""

    key: str
    opaque: str = ""
    prefix: str = ""


_NOTES = (
    _Note("mode", "all but `stop`; `auto` judges the whole answer", "all"),
    _Note("accept", "on question, visible thinking and answer", "on question and thinking"),
    _Note("rethink", "`fresh` only", "`fresh` only"),
    _Note("parallel", "the first that is accepted answers, the others are closed", "likewise"),
    _Note(
        "scorer",
        ", ".join(f"`{name}`" for name in SCORERS["opaque"]),
        ", ".join(f"`{name}`" for name in SCORERS["prefix"]),
    ),
    _Note("max_thinking_tokens", "", "in pieces of the stream, each about one token; then abort and resend"),
    _Note("max_steps", "", "abort and resend"),
    _Note("threshold", "", "abort and resend"),
)


def markdown_table() -> str:
    """Which key each tier takes."""
    notes = {note.key: note for note in _NOTES}
    tiers: tuple[Tier, ...] = ("opaque", "prefix")
    rows = ["| key | `opaque` | `prefix` |", "| --- | --- | --- |"]
    for key in KEYS:
        cells = []
        for tier in tiers:
            told = getattr(notes[key.name], tier) if key.name in notes else ""
            refused = key.name in REFUSED[tier]
            cells.append("refused" if refused else f"yes: {told}" if told else "yes")
        rows.append(f"| `{key.name}` | {cells[0]} | {cells[1]} |")
    return "\n".join(rows)

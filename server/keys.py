"""The keys of a request's `drr` object, as data: what each means, and where it has an effect.

The schema, its validation, a page's table and the tests are made from this table. A key is honoured, or refused with an
error that names it; none is ever accepted without effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, get_args

Mode = Literal["auto", "off", "shadow", "stop", "rethink"]
MODES: tuple[Mode, ...] = get_args(Mode)


class Need(Enum):
    """What a key needs for an effect beside a mode; the value says what is missing without it."""

    JUDGE = "needs a judge, and this server was started without a DM (--dm); name one with drr.scorer"
    JUDGED = "has no effect: nobody judges, because no rule of this judge is certified for the risk asked for"
    CLOSABLE = "this server does not know how the model closes thinking"
    UNCERTIFIED_RULE = "is part of the certified rule that max_lost_correct chooses"
    ENDS_EARLY = "has no effect: nothing here ends thinking before its end"
    NUDGES = "has no effect without nudge"
    REJECTS = "has no effect without max_rethinks"
    AGAIN = "has no effect without max_rethinks above 0"
    ABSTAINS = 'has no effect without "on_exhausted": "abstain"'
    SHOWS_SEPARATOR = "has no effect: only fresh attempts that are made one after the other are shown apart"
    GREEDY = "has no effect: it is for the attempts after a greedy one, and this request is sampled"
    THINKS = "has no effect: max_thinking_tokens 0 leaves nothing to judge"


_OFF = "has no effect in mode off"
_SHADOW = "has no effect in mode shadow, which never acts on a judgement"
_STOP = "has no effect in mode stop, which rejects nothing; use auto or rethink"
_RETHINK = "belongs to stopping early, which mode rethink does not do; mode auto does both"

_JUDGING: Mapping[Mode, str] = {"off": _OFF}
_STOPPING: Mapping[Mode, str] = {"off": _OFF, "rethink": _RETHINK}
_REJECTING: Mapping[Mode, str] = {"off": _OFF, "shadow": _SHADOW, "stop": _STOP}


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `refused` gives, for every mode that does not take it, the reason; `needs` what else it takes. `meaning`
    and `default` are for people."""

    name: str
    meaning: str
    default: str
    refused: Mapping[Mode, str] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()

    def modes(self) -> list[Mode]:
        """Where it is taken."""
        return [mode for mode in MODES if mode not in self.refused]


_RULE = (Need.JUDGE, Need.UNCERTIFIED_RULE, Need.THINKS)
_JUDGED = (Need.JUDGE, Need.JUDGED, Need.THINKS)
_AGAIN = (Need.JUDGE, Need.CLOSABLE, Need.AGAIN, Need.THINKS)

KEYS: tuple[Key, ...] = (
    Key(
        "mode",
        "`stop`: stop early; `rethink`: reject attempts; `auto`: stop early, and reject where `max_rethinks` allows "
        "it; `shadow`: judge and report, never act on it; `off`: do not judge. Limits on the thinking hold in every "
        "mode",
        "`auto` with a judge, else `off`; `--drr-mode`",
    ),
    Key(
        "threshold",
        "the `p_now` (probability that an answer now would be right) that stops thinking",
        "the judge's own",
        _STOPPING,
        _RULE,
    ),
    Key(
        "hopeless",
        "thinking also ends where `p_later` (probability that the answer after full thinking will be right) is at most "
        "this; 0 for practically never",
        "the judge's own",
        _JUDGING,
        _RULE,
    ),
    Key(
        "min_gain",
        "thinking also ends where `p_later` exceeds `p_now` by no more than this; -1 for practically never",
        "the judge's own",
        _STOPPING,
        _RULE,
    ),
    Key(
        "patience",
        "boundaries in a row that must say the same before thinking ends",
        "the judge's own",
        _JUDGING,
        (*_RULE, Need.ENDS_EARLY),
    ),
    Key(
        "max_lost_correct",
        "a risk instead of a rule: of the questions that full thinking gets right, at most this share may be lost by "
        "stopping early. The judge's certified rule for it (or for the next smaller risk) is used. Where it has none, "
        "`auto` and `shadow` think in full and say `uncertified`, `stop` is refused",
        "none",
        _STOPPING,
        (Need.JUDGE, Need.THINKS),
    ),
    Key(
        "min_steps",
        "steps that must have closed before the judge may end thinking",
        "1",
        _JUDGING,
        (*_JUDGED, Need.ENDS_EARLY),
    ),
    Key("max_steps", "stop after this many steps in any case", "none", {}, (Need.CLOSABLE,)),
    Key(
        "min_step_tokens",
        "judge a boundary only this many tokens behind the last judged one (or where thinking ends); others are passed "
        "over",
        "0",
        _JUDGING,
        _JUDGED,
    ),
    Key("max_thinking_tokens", "hard budget for thinking; an answer always follows", "none", {}, (Need.CLOSABLE,)),
    Key(
        "answer_tokens",
        "tokens kept free inside `max_tokens` for the answer (half of `max_tokens` where that is less)",
        "256 where anything may end thinking, else 0; `--drr-answer-tokens`",
        {},
        (Need.CLOSABLE,),
    ),
    Key(
        "nudge",
        "how many times in each attempt a close may be refused that the judge does not believe",
        "the DM's own",
        {"off": _OFF, "shadow": _SHADOW},
        (Need.JUDGE, Need.CLOSABLE, Need.THINKS),
    ),
    Key(
        "nudge_below",
        "the `p_now` below which a close is not believed",
        "the judge's own, else 0.5",
        {"off": _OFF, "shadow": _SHADOW},
        (Need.JUDGE, Need.CLOSABLE, Need.NUDGES, Need.THINKS),
    ),
    Key(
        "max_rethinks",
        "attempts that may be made after rejected ones",
        "3 in mode `rethink`, else 0",
        _REJECTING,
        (Need.JUDGE, Need.CLOSABLE, Need.THINKS),
    ),
    Key(
        "accept",
        "the `p_now` below which an attempt is rejected when it ends, or when going on will not help",
        "the judge's own, else 0.5",
        _REJECTING,
        (Need.JUDGE, Need.CLOSABLE, Need.REJECTS, Need.THINKS),
    ),
    Key(
        "rethink",
        "`fresh`: from the question again; `in_context`: behind the rejected attempt",
        "`fresh`",
        _REJECTING,
        _AGAIN,
    ),
    Key(
        "parallel",
        "attempts at a time; of those that are accepted, the one that took the fewest tokens answers",
        "1",
        _REJECTING,
        _AGAIN,
    ),
    Key(
        "rethink_temperature",
        "of the attempts after a greedy one, which would otherwise repeat it",
        "the model's own",
        _REJECTING,
        (*_AGAIN, Need.GREEDY),
    ),
    Key(
        "on_exhausted",
        "where all were rejected: the `best` one answers, or the `last`, or `abstain`: an honest refusal "
        "(`message.refusal`). `abstain` needs no `max_rethinks`. With `vote`, attempts that state the same answer back "
        "each other: one is accepted once they together are as sure as `accept`, and where none is, the answer with "
        "the most `p_now` behind it is given",
        "`best`",
        _REJECTING,
        (Need.JUDGE, Need.CLOSABLE, Need.REJECTS, Need.THINKS),
    ),
    Key(
        "refusal",
        "what an abstention says, in any language",
        "`--drr-refusal`",
        _REJECTING,
        (Need.JUDGE, Need.CLOSABLE, Need.ABSTAINS, Need.THINKS),
    ),
    Key(
        "separator",
        "what is shown between a rejected attempt and the next",
        "`--drr-separator`",
        _REJECTING,
        (*_AGAIN, Need.SHOWS_SEPARATOR),
    ),
    Key(
        "scorer",
        "who judges: `dm`, `prm` (with `--prm`), or without any training `confidence`, `entropy`, `answer_probe` (each "
        "forces an answer at every step), `self_critique`, `critique` (the Reasoner is asked, the second time with "
        "thinking), `logprob`; `random`, `step_index` and `stated` (the first stated answer) as controls",
        "`dm`; `--drr-scorer`",
        _JUDGING,
        (Need.THINKS,),
    ),
    Key(
        "dm",
        "which of the server's DMs judges, by the name that `--dm-beside` gave it",
        "that of `--dm`",
        _JUDGING,
        (Need.THINKS,),
    ),
    Key(
        "thinking_in",
        "`reasoning` or `content`: where the thinking is shown",
        "`reasoning`; `content` for a chain of thought without markers",
        {},
        (Need.CLOSABLE,),
    ),
    Key("report", "`steps`, `summary` or `none`", "`steps`; `summary` in mode `off`"),
)
"""All keys, in the order in which the page tells of them."""

BY_NAME: Mapping[str, Key] = {key.name: key for key in KEYS}


def markdown_table() -> str:
    """The table of the keys."""
    rows = ["| key | meaning | default | modes |", "| --- | --- | --- | --- |"]
    for key in KEYS:
        modes = "all" if not key.refused else ", ".join(f"`{mode}`" for mode in key.modes())
        rows.append(f"| `{key.name}` | {key.meaning} | {key.default} | {modes} |")
    return "\n".join(rows)


EFFORTS: Mapping[str, Mapping[str, Any]] = {
    "none": {"mode": "off", "max_thinking_tokens": 0},
    "minimal": {"max_lost_correct": 0.1},
    "low": {"max_lost_correct": 0.05},
    "medium": {},
    "high": {"max_lost_correct": 0.01},
    "xhigh": {"max_lost_correct": 0.005},
    "max": {"mode": "rethink", "max_rethinks": 1},
}
"""The `drr` object that a `reasoning_effort` stands for: `none` thinks not at all, up to `xhigh` the risk of stopping
early falls, and `max` thinks in full and once more where the judge does not believe the first attempt."""

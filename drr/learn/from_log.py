"""Responses of a server's decision log as attempts to learn from: which of them are fit for that, and as what.

What full thinking leads to (`later`) is known only of thinking that ran in full. Where a judge acts, the responses that
ran in full are those that the judge did not end: they are no fair sample of what the Reasoner does. So by default only
responses are taken that nothing could have ended (mode off or shadow, canaries), whatever they came to. With
`continue_cut` all others are taken as well: the first attempt of each, which is a fair draw up to where it ended, is
thought on by the Reasoner from there.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from drr.decisions.files import log_files, read_file
from drr.decisions.schema import Row
from drr.errors import InputError
from drr.tasks import Question
from drr.tasks.questions import folded

_RAN_IN_FULL = ("natural", "off", "uncertified", "judge_unavailable")
"""Causes that tell of thinking which the Reasoner itself ended."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """How tokens were drawn, in vLLM's terms."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __str__(self) -> str:
        said = [f"temperature={self.temperature:g}", f"top_p={self.top_p:g}", f"top_k={self.top_k}"]
        said += [f"min_p={self.min_p:g}"] if self.min_p else []
        said += [f"repetition_penalty={self.repetition_penalty:g}"] if self.repetition_penalty != 1 else []
        return " ".join(said)


class End(StrEnum):
    """What an attempt's tokens end with."""

    ANSWER = "answer"
    """All is there: the thinking and the answer behind it."""
    CLOSE = "close"
    """The Reasoner ended its thinking behind them."""
    CUT = "cut"
    """Somebody else did, or nobody has yet."""


@dataclass(frozen=True, slots=True)
class LoggedAttempt:
    """What the Reasoner made behind `prompt_ids`: `ids`, of which the thinking ends before `thinking_to`, with the
    natural-log probabilities of the thinking's tokens where they are known, and how it was drawn."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    thinking_to: int
    end: End
    drawn: Drawn


@dataclass(slots=True)
class Logged:
    """What a log holds to learn from: questions, and the attempts at each by its folded text. `about` says how that was
    chosen; records depend on all of it."""

    questions: list[Question] = field(default_factory=list)
    attempts: dict[str, list[LoggedAttempt]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def usual(self) -> Drawn | None:
        """How most of it was drawn, but for greedy decoding; None where all of it was greedy."""
        drawn = Counter(one.drawn for attempts in self.attempts.values() for one in attempts if one.drawn.temperature)
        return drawn.most_common(1)[0][0] if drawn else None


@dataclass(frozen=True, slots=True)
class Choosing:
    """Which responses are taken: those of the Reasoner with this fingerprint, at most `per_question` of each
    question."""

    reasoner: str
    per_question: int = 8
    continue_cut: bool = False


def read_logged(
    folder: Path, choosing: Choosing, golds: Sequence[Question] | None, names: Sequence[str] | None = None
) -> Logged:
    """What the log in `folder` holds to learn from, or its files of these `names`. With `golds` only of questions that
    are among them, whose answers they get. InputError where there is nothing, or a file is damaged or gone."""
    paths = _paths(folder, names)
    left_out: Counter[str] = Counter()
    found: dict[str, dict[bytes, tuple[Question, LoggedAttempt]]] = {}
    answers = None if golds is None else {folded(question.text): question for question in golds}
    responses = 0
    for row in itertools.chain.from_iterable(map(read_file, paths)):
        responses += 1
        chosen = _attempt(row, choosing)
        question = None if isinstance(chosen, str) else _question(row["text"]["question"], answers)
        if isinstance(chosen, str) or question is None:
            left_out[chosen if isinstance(chosen, str) else "no answer is known to its question"] += 1
            continue
        same = found.setdefault(folded(question.text), {})
        key = _key(chosen)
        left_out["the same as another"] += key in same
        same[key] = question, chosen
    logged = Logged()
    for identity, same in found.items():
        # What decides is a hash of the tokens, not what came of them.
        kept = sorted(same)[: choosing.per_question]
        left_out["more than enough of its question"] += len(same) - len(kept)
        logged.questions.append(same[kept[0]][0])
        logged.attempts[identity] = [same[key][1] for key in kept]
    logged.about = _about(logged, choosing, paths, responses, left_out)
    if not logged.questions:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in (+left_out).most_common())
        raise InputError(str(folder), f"holds no response to learn from{': ' + reasons if reasons else ''}")
    return logged


def _paths(folder: Path, names: Sequence[str] | None) -> list[Path]:
    if names is None:
        paths = log_files(folder)
        if not paths:
            raise InputError(str(folder), "holds no file of a decision log (drr serve --drr-decision-log)")
        return paths
    for name in names:
        if not (folder / name).exists():
            raise InputError(str(folder), f"no longer holds {name}, which the records were begun with")
    return [folder / name for name in names]


def _about(
    logged: Logged, choosing: Choosing, paths: Sequence[Path], responses: int, left_out: Counter[str]
) -> dict[str, Any]:
    used = [attempt for attempts in logged.attempts.values() for attempt in attempts]
    ends, drawn = Counter(attempt.end.value for attempt in used), Counter(str(attempt.drawn) for attempt in used)
    digest = hashlib.sha256(b"".join(map(_key, used))).hexdigest()[:12]
    return {
        "files": [path.name for path in paths],
        "responses": responses,
        "used": len(used),
        "left_out": dict((+left_out).most_common()),
        "ends": dict(sorted(ends.items())),
        "drawn": dict(drawn.most_common()),
        "continue_cut": choosing.continue_cut,
        "per_question": choosing.per_question,
        "key": digest,
    }


def _attempt(row: Row, choosing: Choosing) -> LoggedAttempt | str:
    """The attempt that a response is good for, or why it is good for none."""
    if row["text"] is None:
        return "logged without text"
    if row["reasoner"] != choosing.reasoner:
        return "of another Reasoner"
    if row["adapter"] is not None:
        return "of a LoRA adapter"
    if row["shaped_by"]:
        return f"shaped by {row['shaped_by'][0]}"
    attempts = row["text"]["attempts"]
    if not attempts or attempts[0]["thinking_to"] <= attempts[0]["thinking_from"]:
        return "without thinking"
    first, end = _end(row)
    if not choosing.continue_cut:
        if row["acts"]:
            return "of a mode that may end thinking"
        if end is not End.ANSWER:
            return "without full thinking and its answer"
    return _played(row, first, end)


def _end(row: Row) -> tuple[int, End]:
    """How many tokens of the first attempt are the Reasoner's own, and what they end with."""
    attempts = row["text"]["attempts"]
    first = attempts[0]
    refused = next((place for place in first["injected"] if place < first["thinking_to"]), None)
    if refused is not None:  # a cue: the Reasoner had closed its thinking there
        return refused, End.CLOSE
    answered = len(attempts) == 1 and row["finish_reason"] == "stop" and row["stop_cause"] in _RAN_IN_FULL
    if first["closed"] and answered:
        return len(first["ids"]), End.ANSWER
    return first["thinking_to"], End.CLOSE if first["closed"] else End.CUT


def _played(row: Row, length: int, end: End) -> LoggedAttempt:
    first, sampling = row["text"]["attempts"][0], row["sampling"]
    return LoggedAttempt(
        tuple(row["text"]["prompt_ids"]),
        tuple(first["ids"][:length]),
        tuple(first["logprobs"][:length]),
        min(length, first["thinking_to"]),
        end,
        Drawn(
            round(sampling["temperature"], 6),
            round(sampling["top_p"], 6),
            max(0, sampling["top_k"]),
            round(sampling["min_p"], 6),
            round(sampling["repetition_penalty"], 6),
        ),
    )


def _question(text: str, answers: Mapping[str, Question] | None) -> Question | None:
    """The question as the log spells it, with its answer where answers are given; None where there is none to it."""
    if answers is None:
        return Question(text, "", "", 0)
    known = next((answers[key] for key in map(folded, _spellings(text)) if key in answers), None)
    if known is None:
        return None
    return Question(text, known.answer, known.family, known.difficulty, known.row, known.source)


def _spellings(text: str) -> Iterable[str]:
    """What a conversation may be known by: its whole text and, where a system prompt is all that stands before it, the
    user's only message."""
    yield text
    before, user, message = text.partition("\nuser: ")
    if user and before.startswith("system: ") and "\nassistant: " not in text and "\nuser: " not in message:
        yield message


def _key(attempt: LoggedAttempt) -> bytes:
    """Identifies an attempt by its tokens."""
    digest = hashlib.sha256(attempt.end.encode())
    for part in (attempt.prompt_ids, attempt.ids):
        digest.update(np.asarray([len(part), *part], dtype=np.int64).tobytes())
    return digest.digest()

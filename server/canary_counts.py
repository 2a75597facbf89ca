"""What a canary has shown, in one word for each judge, and its metrics."""

from dataclasses import dataclass
from typing import Literal

from drr.judge.disagreement import first_is_right
from drr.loop.onlookers import WouldStop
from drr.loop.policy import Score
from drr.loop.stated import answer_in
from drr.loop.votes import same_answer
from server import metrics

Shown = Literal["whole", "agreed", "changed", "unread", "dropped"]

_LONG = 300
"""Characters above which two answers that state nothing outright cannot be compared by their meaning."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer: its text, whether a limit cut it off, and all tokens that it took."""

    text: str
    cut: bool
    tokens: int

    @property
    def read(self) -> str | None:
        """What it answers; None where that cannot be told."""
        answer = answer_in(self.text)
        return None if self.cut or not answer or len(answer) > _LONG else answer


@dataclass(frozen=True, slots=True)
class JudgedStop:
    """Where the rule of this name would have stopped by this judge, None for nowhere, and the judge's last score of the
    full thinking."""

    judge: str
    rule: str
    stop: WouldStop | None
    last: Score | None


def compare(full: Answered, would: Answered | None) -> Shown:
    """What stopping would have done to the full answer; `would` is None where nothing would have stopped.

    A full answer that cannot be read is not right in any way that could be lost. One that can, beside one that cannot,
    has changed.
    """
    if full.read is None:
        return "unread"
    if would is None:
        return "whole"
    return "agreed" if would.read is not None and same_answer(full.read, would.read) else "changed"


def count_dropped(judge: str, rule: str) -> None:
    """A canary that told nothing."""
    metrics.CANARIES.labels(judge, rule, "dropped").inc()


def count(judged: JudgedStop, full: Answered, would: Answered | None, probed: int) -> None:
    """Count one compared canary; `probed` tokens were generated to find out what the answer would have been."""
    names = judged.judge, judged.rule
    shown = compare(full, would)
    metrics.CANARIES.labels(*names, shown).inc()
    tokens = full.tokens if would is None else would.tokens
    metrics.CANARY_TOKENS.labels(*names, "full").inc(full.tokens)
    metrics.CANARY_TOKENS.labels(*names, "would").inc(tokens)
    metrics.CANARY_TOKENS.labels(*names, "probe").inc(probed)
    metrics.CANARY_PRODUCTS.labels(*names, "full_full").inc(full.tokens**2)
    metrics.CANARY_PRODUCTS.labels(*names, "full_would").inc(full.tokens * tokens)
    metrics.CANARY_PRODUCTS.labels(*names, "would_would").inc(tokens**2)
    if judged.stop is not None:
        metrics.CANARY_STOPS.labels(*names).observe(judged.stop.generated)
    if shown == "unread" or judged.last is None:
        return
    right = judged.last.p_now
    metrics.CANARY_RIGHT.labels(*names, "full").inc(right)
    if shown == "changed" and judged.stop is not None:
        metrics.CANARY_RIGHT.labels(*names, "lost").inc(first_is_right(right, judged.stop.score.p_now))
        metrics.CANARY_RIGHT.labels(*names, "lost_at_most").inc(right)

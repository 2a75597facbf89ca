"""From scores to a verdict. Pure functions of plain data: no clock, no I/O, no engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What to do at a boundary."""

    CONTINUE = "continue"
    STOP = "stop"
    NUDGE = "nudge"
    RETHINK = "rethink"


class StopCause(StrEnum):
    """Why the thinking of a response ended. A limit is called as the field that set it."""

    NATURAL = "natural"
    """The Reasoner ended it."""
    NO_THINKING = "no_thinking"
    """There was none: the prompt had closed it, or the Reasoner began with its answer."""
    TOOL_CALL = "tool_call"
    STOP_STRING = "stop_string"
    """One of the client's stop texts ended a chain of thought that is shown as content."""
    SURE = "sure"
    """The judge's p_now reached the threshold."""
    HOPELESS = "hopeless"
    """The judge's p_later was at most `hopeless`."""
    NO_GAIN = "no_gain"
    """The judge's p_later exceeded p_now by no more than `min_gain`."""
    MAX_STEPS = "max_steps"
    MAX_THINKING_TOKENS = "max_thinking_tokens"
    THINKING_TOKEN_BUDGET = "thinking_token_budget"
    """vLLM's own limit."""
    ANSWER_RESERVE = "answer_reserve"
    """What was left of `max_tokens` is kept for the answer."""
    CONTEXT_LENGTH = "context_length"
    """What was left of the model's context is kept for the answer."""
    MAX_TOKENS = "max_tokens"
    """The response was cut off in the middle of its thinking; there is no answer."""
    RETHINK_LIMIT = "rethink_limit"
    """Every attempt that `max_rethinks` allows was rejected."""
    RETHINK_ROOM = "rethink_room"
    """Every attempt was rejected, and the limits leave no room for another."""
    ABSTAINED = "abstained"
    JUDGE_UNAVAILABLE = "judge_unavailable"
    UNCERTIFIED = "uncertified"
    """No rule is certified for the risk that was asked for: the thinking ran in full."""
    OFF = "off"
    """Nobody judged, and nothing limited the thinking."""


LIMITS = frozenset(
    {
        StopCause.MAX_STEPS,
        StopCause.MAX_THINKING_TOKENS,
        StopCause.THINKING_TOKEN_BUDGET,
        StopCause.ANSWER_RESERVE,
        StopCause.CONTEXT_LENGTH,
        StopCause.MAX_TOKENS,
    }
)
"""Causes that cut the thinking, whatever a judge thinks of it."""


@dataclass(frozen=True, slots=True)
class Score:
    """The DM's opinion of a boundary: calibrated probabilities in [0, 1].

    `p_now`: an answer forced here is right. `p_later`: the answer after full thinking is right.
    """

    p_now: float
    p_later: float


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """When to stop. Checked when built; ValueError names the field.

    `threshold` is the p_now that stops thinking (None: nothing does). Thinking also stops where it will not help any
    more: where p_later is at most `hopeless`, or exceeds p_now by no more than `min_gain` (None: never). `patience` is
    how many boundaries in a row must say so; `min_steps` how many steps must have closed first; `max_steps` stops
    unconditionally. A close by the Reasoner is refused, at most `nudge` times, while p_now is below `nudge_below`. An
    attempt that ends, or that thinking will not help any more, is rejected where p_now is below `accept` (None: never).
    Without `acts` (shadow mode) nothing but `max_steps` has an effect. Without `stops` (a canary) only what the judge
    says against going on has none.
    """

    threshold: float | None = 0.9
    min_steps: int = 1
    max_steps: int | None = None
    patience: int = 1
    nudge: int = 0
    nudge_below: float = 0.5
    acts: bool = True
    stops: bool = True
    hopeless: float | None = None
    min_gain: float | None = None
    accept: float | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("threshold", 0.0),
            ("nudge_below", 0.0),
            ("hopeless", 0.0),
            ("min_gain", -1.0),
            ("accept", 0.0),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= 1.0:
                raise ValueError(f"{name} must be between {least:g} and 1, not {value}")
        for name, fewest in (("min_steps", 0), ("max_steps", 1), ("patience", 1), ("nudge", 0)):
            value = getattr(self, name)
            if value is not None and value < fewest:
                raise ValueError(f"{name} must be at least {fewest}, not {value}")


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, with its cause where it ends the thinking."""

    verdict: Verdict
    cause: StopCause | None = None


_CONTINUE = Decision(Verdict.CONTINUE)


def decide(
    settings: PolicySettings,
    scores: Sequence[Score | None],
    *,
    closing: bool = False,
    nudges: int = 0,
    doubt: Callable[[], float] = lambda: 1.0,
) -> Decision:
    """The verdict at the newest boundary.

    `scores` holds one entry per boundary so far, None where no score came in time: a missing score never stops
    anything, and breaks a run of patience. `closing` tells that the Reasoner itself closed its thinking here,
    `nudges` how many such closes were refused before; `doubt` is as for `rejects`.
    """
    newest = scores[-1]
    if closing:
        doubted = newest is not None and newest.p_now < settings.nudge_below
        if doubted and nudges < settings.nudge:
            return Decision(Verdict.NUDGE)
        return Decision(Verdict.RETHINK) if rejects(settings, scores, doubt) else _CONTINUE
    if len(scores) >= settings.min_steps and len(scores) >= settings.patience:
        recent = scores[-settings.patience :]
        known = [score for score in recent if score is not None]
        sure = settings.threshold
        if sure is not None and len(known) == len(recent) and all(score.p_now >= sure for score in known):
            return Decision(Verdict.STOP, StopCause.SURE)
        if len(known) == len(recent) and all(_will_not_help(settings, score) for score in known):
            rejected = rejects(settings, scores, doubt)
            return Decision(Verdict.RETHINK) if rejected else Decision(Verdict.STOP, _no_help(settings, known[-1]))
    if settings.max_steps is not None and len(scores) >= settings.max_steps:
        rejected = rejects(settings, scores, doubt)
        return Decision(Verdict.RETHINK) if rejected else Decision(Verdict.STOP, StopCause.MAX_STEPS)
    return _CONTINUE


def rejects(settings: PolicySettings, scores: Sequence[Score | None], doubt: Callable[[], float] = lambda: 1.0) -> bool:
    """Whether an attempt that ends here is rejected. One without a score is not: nobody has anything against it.

    `doubt` is how likely it is that all others that say the same are wrong; it is asked only where that counts.
    """
    newest = scores[-1] if scores else None
    if settings.accept is None or newest is None or newest.p_now >= settings.accept:
        return False
    return 1.0 - (1.0 - newest.p_now) * doubt() < settings.accept


def limit(settings: PolicySettings, boundaries: int) -> Decision:
    """The verdict behind so many boundaries where the judge's opinion does not count."""
    if settings.max_steps is not None and boundaries >= settings.max_steps:
        return Decision(Verdict.STOP, StopCause.MAX_STEPS)
    return _CONTINUE


def _no_help(settings: PolicySettings, score: Score) -> StopCause:
    hopeless = settings.hopeless is not None and score.p_later <= settings.hopeless
    return StopCause.HOPELESS if hopeless else StopCause.NO_GAIN


def _will_not_help(settings: PolicySettings, score: Score) -> bool:
    if settings.hopeless is not None and score.p_later <= settings.hopeless:
        return True
    return settings.min_gain is not None and score.p_later - score.p_now <= settings.min_gain

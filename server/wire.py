"""The `drr` object of a response, as a schema: what clients may rely on. The tests hold real responses against it."""

from enum import Enum
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field

from drr.loop.policy import StopCause, Verdict
from drr.loop.response import Fate

Tokens = int | None


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Step(_Closed):
    """One judged step boundary; probabilities are null where no score came in time."""

    attempt: int = Field(description="the attempt that it belongs to, counted from 0")
    index: int = Field(description="the step's number in its attempt, counted from 0")
    tokens: int = Field(description="tokens since the boundary before")
    p_now: float | None = Field(description="probability that an answer here would be right")
    p_later: float | None = Field(description="probability that the answer after full thinking will be right")
    verdict: Verdict = Field(description="what was decided here")
    ms: float | None = Field(description="milliseconds to the score")
    late: bool = Field(description="whether the score missed its deadline")


class Attempt(_Closed):
    """One attempt of a response that may reject some."""

    thinking_tokens: int = Field(description="thinking that was kept")
    generated_tokens: int = Field(description="all that the engine generated for it")
    discarded_tokens: int = Field(description="generated and cut away")
    p_now: float | None = Field(description="its last score; null without one")
    fate: Fate = Field(description="what became of it")


class Judge(_Closed):
    """Who judged, and how fast."""

    scorer: str = Field(description="who judged: `dm`, or the name of another scorer")
    id: str = Field(description="which DM, by the name in its folder")
    decisions: int = Field(description="boundaries that were judged")
    late: int = Field(description="scores that missed their deadline")
    late_tokens: int = Field(description="thinking kept behind the first verdict that came too late")
    failed: int = Field(description="scores that could not be had")
    mean_ms: float | None = Field(description="milliseconds to a score, on average")


class Risk(_Closed):
    """What is promised, and what breaks the promise."""

    max_lost_correct: float = Field(description="the risk that was asked for")
    certified: float | None = Field(description="the certified risk that was used; null where there was none")
    confidence: float = Field(description="how sure the promise is")
    calibrated_on: str = Field(description="on how many questions it was certified")
    holds: bool = Field(description="whether this response was made as the calibration's were")
    broken_by: list[str] = Field(description="what differs from the calibration, or is not known to be equal")


class Cost(_Closed):
    """What a response took of an upstream."""

    requests: int = Field(description="requests that were sent for this response")
    prompt_tokens_sent: int = Field(description="their prompts, the same text as often as it was sent")
    cached_prompt_tokens: Tokens = Field(description="those of them that the upstream had cached; null if untold")
    completion_tokens: int = Field(description="all that was generated")
    estimated_requests: int = Field(description="requests whose tokens the upstream did not tell")
    usd: float | None = Field(description="by `--upstream-price`; null without it")


class ChoiceAccount(_Closed):
    """The account of one choice. Every generated token is in exactly one of thinking, answer, discarded and probe; the
    counts are null where the loop did not make the response (beam search)."""

    stop_cause: StopCause = Field(description="why the thinking ended")
    thinking_tokens: Tokens = Field(description="thinking that was kept")
    answer_tokens: Tokens = Field(description="the answer, its end, and markers that the Reasoner wrote")
    discarded_tokens: Tokens = Field(description="generated and cut away, rejected attempts among them")
    probe_tokens: Tokens = Field(description="what a scorer had the Reasoner answer")
    injected_tokens: Tokens = Field(description="put in, never generated; in no other count")
    attempts: int = Field(description="attempts that were made")
    nudges: int = Field(description="closes of the thinking that were refused")
    canary: bool = Field(description="whether it thought in full to see what stopping would have done")
    risk: Risk | None = Field(description="what is promised; null where no risk was asked for")
    judge: Judge | None = Field(description="who judged; null in mode `off`")
    steps: list[Step] | None = Field(None, description="every judged step; only with `report` `steps`")
    attempt_details: list[Attempt] | None = Field(
        None, description="every attempt; only with `report` `steps`, where attempts may be rejected"
    )


class Account(ChoiceAccount):
    """The account of a response with one choice. `settings` are all effective ones."""

    settings: dict[str, Any] = Field(description="every setting that was in force, by the keys of the request")
    cost: Cost | None = Field(None, description="what it took of the upstream; only with `--upstream`")


class NumberedAccount(ChoiceAccount):
    """The account of one choice of several."""

    index: int = Field(description="the choice's number, counted from 0")


class Accounts(_Closed):
    """The account of a response with several choices."""

    settings: dict[str, Any] = Field(description="every setting that was in force, the same for all choices")
    cost: Cost | None = Field(None, description="what all choices took of the upstream; only with `--upstream`")
    choices: list[NumberedAccount] = Field(description="one account for each choice")


class StreamedStep(Step):
    """A step as it is streamed."""

    choice: int = Field(description="the choice that it belongs to, counted from 0")


class StepChunk(_Closed):
    """The `drr` object of a chunk without choices: a step has closed."""

    step: StreamedStep


_TYPES = {int: "integer", float: "number", str: "text", bool: "true or false"}


def markdown_table() -> str:
    """The fields of a response's `drr` object and of its parts, each by its path."""
    parts = (
        ("", Account),
        ("risk", Risk),
        ("cost", Cost),
        ("judge", Judge),
        ("steps[]", Step),
        ("attempt_details[]", Attempt),
    )
    rows = ["| field | type | meaning |", "| --- | --- | --- |"]
    for prefix, model in parts:
        for name, field in model.model_fields.items():
            place = f"{prefix}.{name}" if prefix else name
            rows.append(f"| `{place}` | {_type_name(field.annotation)} | {field.description} |")
    return "\n".join(rows)


def _type_name(annotation: Any) -> str:
    """A type in words, with the values that an enumeration has."""
    parts = get_args(annotation)
    if NoneType in parts:
        (other,) = (part for part in parts if part is not NoneType)
        return f"{_type_name(other)} or null"
    if getattr(annotation, "__origin__", None) is list:
        return "list"
    if annotation is StopCause:
        return "[a cause](causes.md)"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    return _TYPES.get(annotation, "object")

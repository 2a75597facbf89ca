"""The `drr` object of a response, as a schema: what clients may rely on. The tests hold real responses against it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from drr.loop.policy import StopCause, Verdict
from drr.loop.response import Fate

Tokens = int | None


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Step(_Closed):
    """One judged step boundary; probabilities are null where no score came in time."""

    attempt: int
    index: int
    tokens: int = Field(description="tokens since the boundary before")
    p_now: float | None = Field(description="probability that an answer here would be right")
    p_later: float | None = Field(description="probability that the answer after full thinking will be right")
    verdict: Verdict
    ms: float | None = Field(description="milliseconds to the score")
    late: bool = Field(description="whether the score missed its deadline")


class Attempt(_Closed):
    """One attempt of a response that may reject some."""

    thinking_tokens: int
    generated_tokens: int
    discarded_tokens: int
    p_now: float | None
    fate: Fate


class Judge(_Closed):
    """Who judged, and how fast."""

    scorer: str
    id: str
    decisions: int
    late: int
    late_tokens: int = Field(description="thinking kept behind the first verdict that came too late")
    failed: int
    mean_ms: float | None


class Risk(_Closed):
    """What is promised, and what breaks the promise."""

    max_lost_correct: float
    certified: float | None = Field(description="the certified risk that was used; null where there was none")
    confidence: float
    calibrated_on: str
    holds: bool
    broken_by: list[str]


class ChoiceAccount(_Closed):
    """The account of one choice. Every generated token is in exactly one of thinking, answer, discarded and probe; the
    counts are null where the loop did not make the response (beam search)."""

    stop_cause: StopCause
    thinking_tokens: Tokens
    answer_tokens: Tokens = Field(description="the answer, its end, and markers that the Reasoner wrote")
    discarded_tokens: Tokens = Field(description="generated and cut away, rejected attempts among them")
    probe_tokens: Tokens = Field(description="what a scorer had the Reasoner answer")
    injected_tokens: Tokens = Field(description="put in, never generated; in no other count")
    attempts: int
    nudges: int
    canary: bool = Field(description="whether it thought in full to see what stopping would have done")
    risk: Risk | None
    judge: Judge | None
    steps: list[Step] | None = None
    attempt_details: list[Attempt] | None = None


class Account(ChoiceAccount):
    """The account of a response with one choice. `settings` are all effective ones."""

    settings: dict[str, Any]


class NumberedAccount(ChoiceAccount):
    """The account of one choice of several."""

    index: int


class Accounts(_Closed):
    """The account of a response with several choices."""

    settings: dict[str, Any]
    choices: list[NumberedAccount]


class StreamedStep(Step):
    """A step as it is streamed."""

    choice: int


class StepChunk(_Closed):
    """The `drr` object of a chunk without choices: a step has closed."""

    step: StreamedStep

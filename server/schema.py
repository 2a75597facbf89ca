"""The `drr` object of a request. Every key is checked; an error names the key and becomes HTTP 400."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drr.judge.scorers.registry import ScorerName
from drr.loop.rethink import Kind, OnExhausted

Mode = Literal["auto", "off", "shadow", "stop", "rethink"]
Report = Literal["summary", "steps", "none"]
ThinkingIn = Literal["reasoning", "content"]


class DrrError(ValueError):
    """A `drr` object that cannot be honoured; `param` names the key at fault."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


class DrrRequest(BaseModel):
    """What a client may ask for. Unset keys take the server's defaults."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mode: Mode | None = None
    threshold: float | None = Field(None, ge=0.0, le=1.0)
    max_lost_correct: float | None = Field(None, gt=0.0, lt=1.0)
    min_steps: int | None = Field(None, ge=0)
    max_steps: int | None = Field(None, ge=1)
    min_step_tokens: int | None = Field(None, ge=0)
    patience: int | None = Field(None, ge=1)
    max_thinking_tokens: int | None = Field(None, ge=0)
    answer_tokens: int | None = Field(None, ge=1)
    nudge: int | None = Field(None, ge=0)
    max_rethinks: int | None = Field(None, ge=0, le=63)
    rethink: Kind | None = None
    accept: float | None = Field(None, ge=0.0, le=1.0)
    on_exhausted: OnExhausted | None = None
    parallel: int | None = Field(None, ge=1, le=64)
    rethink_temperature: float | None = Field(None, gt=0.0, le=2.0)
    scorer: ScorerName | None = None
    thinking_in: ThinkingIn | None = None
    report: Report | None = None

    @classmethod
    def parse(cls, value: Any, source: str = "drr") -> Self:
        """The checked object; DrrError names the first key at fault."""
        if not isinstance(value, dict):
            raise DrrError(source, f"must be an object, not {type(value).__name__}")
        try:
            parsed = cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join([source, *map(str, first["loc"][:1])])
            if first["type"] == "extra_forbidden":
                known = ", ".join(cls.model_fields)
                raise DrrError(key, f"unknown key; known keys are {known}") from None
            raise DrrError(key, f"{first['msg']} (got {first['input']!r})") from None
        if parsed.threshold is not None and parsed.max_lost_correct is not None:
            raise DrrError(f"{source}.max_lost_correct", "give either threshold or max_lost_correct, not both")
        return parsed

    def given(self) -> set[str]:
        """The keys that the client set."""
        return {name for name in self.model_fields_set if getattr(self, name) is not None}

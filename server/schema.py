"""The `drr` object of a request. Every key is checked; an error names the key and becomes HTTP 400."""

import json
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drr.judge.scorers.registry import ScorerName
from drr.loop.rethink import Kind, OnExhausted
from server.keys import Mode

Report = Literal["summary", "steps", "none"]
ThinkingIn = Literal["reasoning", "content"]

_LONGEST_TEXT = 2000
_MOST = 1 << 31
"""No number that counts steps or tokens is as large."""

_SHOWN = 80
"""Characters of a wrong value that an error repeats."""


class DrrError(ValueError):
    """A `drr` object that cannot be honoured; `param` names the key at fault, `why` says what is wrong with it."""

    def __init__(self, param: str, why: str) -> None:
        super().__init__(f"{param}: {why}")
        self.param, self.why = param, why

    def in_header(self) -> "DrrError":
        """The same of an object that came in the header."""
        name, dot, key = self.param.partition(".")
        return DrrError(f"X-DRR{dot}{key}", self.why) if name == "drr" else self


class DrrRequest(BaseModel):
    """What a client may ask for. Unset keys, and those that are null, take the server's defaults. `server.keys` says
    what each key means and where it is taken."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    mode: Mode | None = None
    threshold: float | None = Field(None, ge=0.0, le=1.0)
    hopeless: float | None = Field(None, ge=0.0, le=1.0)
    min_gain: float | None = Field(None, ge=-1.0, le=1.0)
    patience: int | None = Field(None, ge=1, lt=_MOST)
    max_lost_correct: float | None = Field(None, gt=0.0, lt=1.0)
    min_steps: int | None = Field(None, ge=0, lt=_MOST)
    max_steps: int | None = Field(None, ge=1, lt=_MOST)
    min_step_tokens: int | None = Field(None, ge=0, lt=_MOST)
    max_thinking_tokens: int | None = Field(None, ge=0, lt=_MOST)
    answer_tokens: int | None = Field(None, ge=1, lt=_MOST)
    nudge: int | None = Field(None, ge=0, lt=_MOST)
    nudge_below: float | None = Field(None, ge=0.0, le=1.0)
    max_rethinks: int | None = Field(None, ge=0, le=63)
    accept: float | None = Field(None, ge=0.0, le=1.0)
    rethink: Kind | None = None
    parallel: int | None = Field(None, ge=1, le=64)
    rethink_temperature: float | None = Field(None, gt=0.0, le=2.0)
    on_exhausted: OnExhausted | None = None
    refusal: str | None = Field(None, min_length=1, max_length=_LONGEST_TEXT)
    separator: str | None = Field(None, max_length=_LONGEST_TEXT)
    scorer: ScorerName | None = None
    dm: str | None = None
    thinking_in: ThinkingIn | None = None
    report: Report | None = None

    @classmethod
    def asked(cls, given: Any, headers: Sequence[str]) -> Self | None:
        """What a request asks for: by the object in its body, or by its X-DRR `headers`; null is none. DrrError where
        it is both, or names the first key at fault."""
        header = cls._of_headers(headers)
        if given is None:
            return header
        if header is not None:
            raise DrrError("drr", "give either the drr object or the X-DRR header, not both")
        return cls.parse(given)

    @classmethod
    def _of_headers(cls, values: Sequence[str]) -> Self | None:
        if not values:
            return None
        if len(values) > 1:
            raise DrrError("X-DRR", "the header is given more than once")
        try:
            parsed = json.loads(values[0])
        except (ValueError, RecursionError) as error:
            raise DrrError("X-DRR", f"the header is not JSON: {error}") from None
        return None if parsed is None else cls.parse(parsed, "X-DRR")

    @classmethod
    def parse(cls, value: Any, source: str = "drr") -> Self:
        """The checked object; DrrError names the first key at fault."""
        if not isinstance(value, dict):
            raise DrrError(source, f"must be an object, not {type(value).__name__}")
        unknown = next(
            (key for key in value if key not in cls.model_fields), None
        )  # a million would be a million errors
        if unknown is not None:
            known = ", ".join(cls.model_fields)
            raise DrrError(f"{source}.{str(unknown)[:_SHOWN]}", f"unknown key; known keys are {known}")
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join([source, *(str(part)[:_SHOWN] for part in first["loc"][:1])])
            raise DrrError(key, f"{first['msg']} (got {_shown(first['input'])})") from None

    def given(self) -> set[str]:
        """The keys that the client set."""
        return {name for name in self.model_fields_set if getattr(self, name) is not None}


def _shown(value: Any) -> str:
    """The beginning of a wrong value, without the rest being written out; of containers only what they are."""
    if isinstance(value, str):
        return repr(value[:_SHOWN])[:_SHOWN]
    if isinstance(value, dict | list):
        return f"{type(value).__name__} of {len(value):,} entries" if value else repr(value)
    return repr(value)[:_SHOWN]

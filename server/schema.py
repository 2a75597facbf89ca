"""The `drr` object of a request, and what a server makes of it.

Every key is checked; nothing is ever ignored. An error names the key and becomes HTTP 400.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drr.calibration import Calibration, Certificate
from drr.policy import PolicySettings
from drr.replay import Rule
from drr.response import LoopSettings

Mode = Literal["auto", "off", "shadow", "stop"]
Report = Literal["summary", "steps", "none"]


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
    patience: int | None = Field(None, ge=1)
    max_thinking_tokens: int | None = Field(None, ge=0)
    answer_tokens: int | None = Field(None, ge=1)
    nudge: int | None = Field(None, ge=0)
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


_JUDGED_KEYS = ("threshold", "max_lost_correct", "min_steps", "patience", "nudge")
"""Keys that mean nothing unless a DM judges."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """The server's side of every setting. Without a DM, `threshold` is None."""

    mode: Mode
    threshold: float | None
    patience: int = 1
    hopeless: float | None = None
    min_gain: float | None = None
    calibration: Calibration | None = None
    nudge: int = 0
    nudge_below: float = 0.5
    nudge_cue: str = "Wait,"
    nudge_cue_ids: tuple[int, ...] = ()
    answer_tokens: int = 256
    deadline: float = 1.0
    can_stop: bool = True
    """Whether the server knows how this Reasoner's thinking is closed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every effective setting of one response; `as_dict` is what the response reports.

    With `max_lost_correct` the rule is the certified one of `certificate`; without a certificate for it, thinking runs
    in full.
    """

    mode: Mode
    threshold: float | None
    hopeless: float | None
    min_gain: float | None
    max_lost_correct: float | None
    min_steps: int
    max_steps: int | None
    patience: int
    max_thinking_tokens: int | None
    answer_tokens: int
    nudge: int
    report: Report
    explicit: bool
    """Whether the client spoke of DRR at all; one that did not is never sent chunks it does not expect."""
    certificate: Certificate | None = None

    def as_dict(self) -> dict[str, Any]:
        hidden = ("explicit", "certificate")
        return {name: getattr(self, name) for name in self.__slots__ if name not in hidden}

    @property
    def judged(self) -> bool:
        """Whether the DM is asked."""
        return self.mode != "off" and not self.uncertified

    @property
    def uncertified(self) -> bool:
        """Whether a risk was asked for that this DM has no certified rule for."""
        return self.max_lost_correct is not None and self.certificate is None

    @property
    def loops(self) -> bool:
        """Whether the response needs the thinking loop at all; if not, it is plain vLLM."""
        return self.judged or self.max_thinking_tokens is not None or self.max_steps is not None

    def loop_settings(self, defaults: Defaults, max_tokens: int, separate_answer: bool) -> LoopSettings:
        policy = PolicySettings(
            threshold=1.0 if self.threshold is None else self.threshold,
            min_steps=self.min_steps,
            max_steps=self.max_steps,
            patience=self.patience,
            nudge=self.nudge,
            nudge_below=defaults.nudge_below,
            acts=self.mode != "shadow",
            hopeless=self.hopeless,
            min_gain=self.min_gain,
        )
        return LoopSettings(
            policy=policy,
            max_tokens=max_tokens,
            max_thinking_tokens=self.max_thinking_tokens,
            answer_tokens=self.answer_tokens,
            deadline=defaults.deadline,
            nudge_cue=defaults.nudge_cue,
            nudge_cue_ids=defaults.nudge_cue_ids,
            separate_answer=separate_answer,
        )


def resolve(request: DrrRequest | None, forced_mode: Mode | None, defaults: Defaults) -> Settings:
    """The effective settings; DrrError where the request contradicts itself or asks for what is not there.

    `forced_mode` comes from a model alias (`<name>:drr`, `<name>:full`).
    """
    explicit = request is not None or forced_mode is not None
    asked = request or DrrRequest()
    if forced_mode is not None and asked.mode not in (None, forced_mode):
        raise DrrError("drr.mode", f"the model alias asks for {forced_mode}, the drr object for {asked.mode}")
    mode = asked.mode or forced_mode or defaults.mode
    has_dm = defaults.threshold is not None
    if not has_dm:
        if mode in ("stop", "shadow"):
            raise DrrError("drr.mode", f"{mode} needs a DM, and this server was started without one (--dm)")
        _refuse(asked, _JUDGED_KEYS, "needs a DM, and this server was started without one (--dm)")
        mode = "off"
    if mode == "off":
        _refuse(asked, _JUDGED_KEYS, "has no effect in mode off")
    if mode == "shadow":
        _refuse(asked, ("nudge",), "has no effect in mode shadow")
    if not defaults.can_stop:
        _refuse(asked, ("max_thinking_tokens", "max_steps"), "this server does not know how the model closes thinking")
    certificate = _certificate(asked, mode, defaults)
    judged = mode != "off" and (asked.max_lost_correct is None or certificate is not None)
    rule = _rule(asked, certificate, defaults) if judged else Rule(threshold=1.0)
    return Settings(
        mode=mode,
        threshold=rule.threshold if judged else None,
        hopeless=rule.hopeless,
        min_gain=rule.min_gain,
        max_lost_correct=asked.max_lost_correct,
        min_steps=_first(asked.min_steps, 1),
        max_steps=asked.max_steps,
        patience=rule.patience,
        max_thinking_tokens=asked.max_thinking_tokens,
        answer_tokens=_first(asked.answer_tokens, defaults.answer_tokens),
        nudge=_first(asked.nudge, defaults.nudge if judged and mode != "shadow" else 0),
        report=asked.report or "steps",
        explicit=explicit,
        certificate=certificate,
    )


def _certificate(asked: DrrRequest, mode: Mode, defaults: Defaults) -> Certificate | None:
    """The certified rule for the risk asked for; None under `auto` and `shadow` where there is none for it."""
    if asked.max_lost_correct is None:
        return None
    if defaults.calibration is None:
        raise DrrError("drr.max_lost_correct", "this DM has not been calibrated (drr calibrate); use drr.threshold")
    _refuse(asked, ("patience",), "is part of the certified rule that max_lost_correct chooses")
    found = defaults.calibration.for_risk(asked.max_lost_correct)
    if found is None and mode == "stop":
        certified = ", ".join(f"{risk:g}" for risk in defaults.calibration.risks) or "none"
        raise DrrError(
            "drr.max_lost_correct",
            f"no rule of this DM is certified for a risk of {asked.max_lost_correct:g}; certified risks: {certified}",
        )
    return found


def _rule(asked: DrrRequest, certificate: Certificate | None, defaults: Defaults) -> Rule:
    """The stopping rule: the certified one, the client's threshold, or the DM's own."""
    if certificate is not None:
        return certificate.rule
    patience = _first(asked.patience, defaults.patience)
    if asked.threshold is not None:
        return Rule(asked.threshold, patience)
    assert defaults.threshold is not None
    return Rule(defaults.threshold, patience, defaults.hopeless, defaults.min_gain)


def _refuse(asked: DrrRequest, keys: tuple[str, ...], why: str) -> None:
    for key in keys:
        if key in asked.given():
            raise DrrError(f"drr.{key}", why)


def _first(value: int | None, default: int) -> int:
    return default if value is None else value

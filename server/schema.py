"""The `drr` object of a request, and what a server makes of it.

Every key is checked; nothing is ever ignored. An error names the key and becomes HTTP 400.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drr.calibration import Calibration, Certificate
from drr.policy import PolicySettings
from drr.reasoner import Token
from drr.replay import Rule
from drr.response import LoopSettings
from drr.rethink import Kind, OnExhausted, RethinkSettings
from drr.scorers.registry import ACCEPTS, LEAST_ACCEPTED, THRESHOLDS, ScorerName

Mode = Literal["auto", "off", "shadow", "stop", "rethink"]
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


PROBE_DEADLINE = 30.0
"""Seconds to the verdict of a scorer that asks the Reasoner itself, which answers between its other work."""

_REJECTING_KEYS = ("max_rethinks", "rethink", "accept", "on_exhausted", "parallel", "rethink_temperature")
"""Keys that mean nothing unless attempts may be rejected."""

_JUDGED_KEYS = (
    "scorer",
    "threshold",
    "max_lost_correct",
    "min_steps",
    "min_step_tokens",
    "patience",
    "nudge",
    *_REJECTING_KEYS,
)
"""Keys that mean nothing unless somebody judges."""


@dataclass(frozen=True, slots=True)
class Insertions:
    """What is shown around attempts, in the Reasoner's tokens."""

    cue: tuple[Token, ...] = ()
    separator: tuple[Token, ...] = ()
    refusal: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Defaults:
    """The server's side of every setting. Without a DM, `rule` is None; `scorer` is who judges where a request
    does not say, None for nobody. `calibration` is the DM's, `calibrations` those of scorers that need none."""

    mode: Mode
    rule: Rule | None
    calibration: Calibration | None = None
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    scorer: ScorerName | None = "dm"
    nudge: int = 0
    nudge_below: float = 0.5
    nudge_cue: str = "Wait,"
    nudge_cue_ids: tuple[int, ...] = ()
    max_rethinks: int = 3
    """Of requests in mode rethink that do not say."""
    accept: float = LEAST_ACCEPTED
    rethink_temperature: float = 0.8
    insertions: Insertions = Insertions()
    answer_tokens: int = 256
    deadline: float = 1.0
    can_stop: bool = True
    """Whether the server knows how this Reasoner's thinking is closed."""
    has_prm: bool = False
    """Whether a process reward model was started."""


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
    min_step_tokens: int
    patience: int
    max_thinking_tokens: int | None
    answer_tokens: int
    nudge: int
    nudge_below: float
    max_rethinks: int
    rethink: Kind
    accept: float | None
    on_exhausted: OnExhausted
    parallel: int
    rethink_temperature: float
    scorer: ScorerName | None
    report: Report
    explicit: bool
    """Whether the client spoke of DRR at all; one that did not is never sent chunks it does not expect."""
    certificate: Certificate | None = None
    calibration: Calibration | None = None
    """Of whoever judges."""

    def as_dict(self) -> dict[str, Any]:
        hidden = ("explicit", "certificate", "calibration")
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

    @property
    def rejects(self) -> bool:
        """Whether attempts may be rejected."""
        return self.accept is not None

    def rethink_settings(self, defaults: Defaults) -> RethinkSettings:
        texts = defaults.insertions
        return RethinkSettings(
            self.max_rethinks,
            self.rethink,
            self.on_exhausted,
            self.parallel,
            texts.cue,
            texts.separator,
            texts.refusal,
        )

    def loop_settings(
        self, defaults: Defaults, max_tokens: int, *, separate_answer: bool, context_limit: int | None = None
    ) -> LoopSettings:
        policy = PolicySettings(
            threshold=self.threshold,
            min_steps=self.min_steps,
            max_steps=self.max_steps,
            patience=self.patience,
            nudge=self.nudge,
            nudge_below=self.nudge_below,
            acts=self.mode != "shadow",
            hopeless=self.hopeless,
            min_gain=self.min_gain,
            accept=self.accept,
        )
        return LoopSettings(
            policy=policy,
            max_tokens=max_tokens,
            max_thinking_tokens=self.max_thinking_tokens,
            answer_tokens=self.answer_tokens,
            deadline=defaults.deadline if self.scorer in (None, "dm") else max(defaults.deadline, PROBE_DEADLINE),
            nudge_cue=defaults.nudge_cue,
            nudge_cue_ids=defaults.nudge_cue_ids,
            separate_answer=separate_answer,
            context_limit=context_limit,
            min_step_tokens=self.min_step_tokens,
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
    defaults = _of_scorer(asked, defaults)
    if defaults.rule is None:
        why = "needs a judge, and this server was started without a DM (--dm); name one with drr.scorer"
        if mode in ("stop", "shadow", "rethink"):
            raise DrrError("drr.mode", f"{mode} {why}")
        _refuse(asked, _JUDGED_KEYS, why)
        mode = "off"
    elif asked.mode is None and forced_mode is None and asked.scorer is not None and mode == "off":
        mode = "auto"  # a server without a DM does not judge by itself
    if mode == "off":
        _refuse(asked, _JUDGED_KEYS, "has no effect in mode off")
    if mode == "shadow":
        _refuse(asked, ("nudge", *_REJECTING_KEYS), "has no effect in mode shadow")
    if mode == "stop":
        _refuse(asked, _REJECTING_KEYS, "has no effect in mode stop, which rejects nothing; use auto or rethink")
    if mode == "rethink":
        why = "belongs to stopping early, which mode rethink does not do; mode auto does both"
        _refuse(asked, ("threshold", "max_lost_correct", "patience"), why)
    if not defaults.can_stop:
        _refuse(asked, ("max_thinking_tokens", "max_steps"), "this server does not know how the model closes thinking")
    certificate = _certificate(asked, mode, defaults)
    judged = mode != "off" and (asked.max_lost_correct is None or certificate is not None)
    max_rethinks = _first(asked.max_rethinks, defaults.max_rethinks if mode == "rethink" else 0)
    rejects = judged and mode != "shadow" and (max_rethinks > 0 or asked.on_exhausted == "abstain")
    if rejects:
        defaults = _thinking_again(mode, defaults, again=max_rethinks > 0)
    rule = _rule(asked, mode, certificate, defaults) if judged else Rule(None)
    limited = asked.max_thinking_tokens is not None or asked.max_steps is not None
    acts = limited or (judged and mode != "shadow")
    if not acts and mode in ("off", "shadow"):
        _refuse(asked, ("answer_tokens",), f"has no effect in mode {mode} without max_thinking_tokens or max_steps")
    _check_rethinking(asked, max_rethinks, rejects=rejects, can_stop=defaults.can_stop)
    accept = defaults.accept if asked.accept is None else asked.accept
    return Settings(
        mode=mode,
        threshold=rule.threshold,
        hopeless=rule.hopeless,
        min_gain=rule.min_gain,
        max_lost_correct=asked.max_lost_correct,
        min_steps=_first(asked.min_steps, 1),
        max_steps=asked.max_steps,
        min_step_tokens=_first(asked.min_step_tokens, 0),
        patience=rule.patience,
        max_thinking_tokens=asked.max_thinking_tokens,
        answer_tokens=_first(asked.answer_tokens, defaults.answer_tokens if acts else 0),
        nudge=_first(asked.nudge, defaults.nudge if judged and mode != "shadow" else 0),
        nudge_below=defaults.nudge_below,
        max_rethinks=max_rethinks,
        rethink=asked.rethink or "fresh",
        accept=accept if rejects else None,
        on_exhausted=asked.on_exhausted or "best",
        parallel=_first(asked.parallel, 1),
        rethink_temperature=asked.rethink_temperature or defaults.rethink_temperature,
        scorer=defaults.scorer if judged else None,
        report=asked.report or "steps",
        explicit=explicit,
        certificate=certificate,
        calibration=defaults.calibration,
    )


def _of_scorer(asked: DrrRequest, defaults: Defaults) -> Defaults:
    """The defaults where `asked.scorer` judges, or who judges by default."""
    name = asked.scorer or defaults.scorer
    if name is None or (name == "dm" and asked.scorer is None):
        return defaults
    if name == "dm":
        if defaults.rule is None:
            raise DrrError("drr.scorer", "this server was started without a DM (--dm)")
        return replace(defaults, scorer="dm")
    if name == "prm" and not defaults.has_prm:
        raise DrrError("drr.scorer", "this server was started without a process reward model (--prm)")
    if not defaults.can_stop:
        raise DrrError("drr.scorer", "this server does not know how the model closes thinking")
    calibration = defaults.calibrations.get(name)
    accept = ACCEPTS.get(name, LEAST_ACCEPTED)
    return replace(
        defaults,
        scorer=name,
        rule=Rule(THRESHOLDS[name]) if calibration is None else calibration.rules["default"],
        accept=accept,
        calibration=calibration,
        nudge=0,
        nudge_below=accept,
    )


def _thinking_again(mode: Mode, defaults: Defaults, *, again: bool) -> Defaults:
    """The defaults where attempts may be rejected: with what was calibrated for that, if anything was. The rule that
    goes with it is for those that may be made `again`."""
    found = None if defaults.calibration is None else defaults.calibration.thinking_again(mode)
    if found is None:
        return defaults
    rule, accept = found
    return replace(defaults, rule=rule if again else defaults.rule, accept=accept)


def _check_rethinking(asked: DrrRequest, max_rethinks: int, *, rejects: bool, can_stop: bool) -> None:
    if rejects and not can_stop:
        raise DrrError("drr.max_rethinks", "this server does not know how the model closes thinking")
    if max_rethinks == 0:
        _refuse(asked, ("rethink", "parallel", "rethink_temperature"), "has no effect without max_rethinks")
    if not rejects:
        _refuse(asked, ("accept", "on_exhausted"), "has no effect without max_rethinks")
    if _first(asked.parallel, 1) > max_rethinks + 1:
        raise DrrError("drr.parallel", f"is more than the {max_rethinks + 1} attempts that max_rethinks allows")
    if asked.rethink == "in_context" and _first(asked.parallel, 1) > 1:
        raise DrrError("drr.parallel", "attempts at the same time cannot see each other; use rethink fresh")


def _certificate(asked: DrrRequest, mode: Mode, defaults: Defaults) -> Certificate | None:
    """The certified rule for the risk asked for; None under `auto` and `shadow` where there is none for it."""
    if asked.max_lost_correct is None:
        return None
    if defaults.calibration is None:
        raise DrrError("drr.max_lost_correct", "this judge has not been calibrated (drr calibrate); use drr.threshold")
    _refuse(asked, ("patience",), "is part of the certified rule that max_lost_correct chooses")
    found = defaults.calibration.for_risk(asked.max_lost_correct)
    if found is None and mode == "stop":
        certified = ", ".join(f"{risk:g}" for risk in defaults.calibration.risks) or "none"
        raise DrrError(
            "drr.max_lost_correct",
            f"no rule of this judge is certified for a risk of {asked.max_lost_correct:g}; "
            f"certified risks: {certified}",
        )
    return found


def _rule(asked: DrrRequest, mode: Mode, certificate: Certificate | None, defaults: Defaults) -> Rule:
    """The stopping rule: the certified one, the client's threshold, or the DM's own; in mode rethink what there is of
    the latter to give a hopeless attempt up."""
    own = defaults.rule
    assert own is not None
    if mode == "rethink":
        return replace(own, threshold=None, min_gain=None)
    if certificate is not None:
        return certificate.rule
    patience = _first(asked.patience, own.patience)
    return Rule(asked.threshold, patience) if asked.threshold is not None else replace(own, patience=patience)


def _refuse(asked: DrrRequest, keys: tuple[str, ...], why: str) -> None:
    for key in keys:
        if key in asked.given():
            raise DrrError(f"drr.{key}", why)


def _first(value: int | None, default: int) -> int:
    return default if value is None else value

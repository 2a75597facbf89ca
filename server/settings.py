"""The server's side of every setting, and the effective settings of one response."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drr.judge.calibration import Calibration, Certificate
from drr.judge.scorers.registry import LEAST_ACCEPTED, ScorerName
from drr.loop.policy import PolicySettings, StopCause
from drr.loop.reasoner import Token
from drr.loop.response import LoopSettings
from drr.loop.rethink import Kind, OnExhausted, RethinkSettings
from drr.loop.rule import Rule
from server.schema import Mode, Report, ThinkingIn

PROBE_DEADLINE = 30.0
"""Seconds to the verdict of a scorer that asks the Reasoner itself, which answers between its other work."""


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
    thinking_in: ThinkingIn = "reasoning"
    """Where thinking is shown; a chain of thought without markers is content."""
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
    thinking_in: ThinkingIn
    explicit: bool
    """Whether the client spoke of DRR at all; one that did not is never sent chunks it does not expect."""
    certificate: Certificate | None = None
    calibration: Calibration | None = None
    """Of whoever judges."""
    beam_search: bool = False

    def as_dict(self) -> dict[str, Any]:
        hidden = ("explicit", "certificate", "calibration", "beam_search")
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
    def limited(self) -> bool:
        """Whether thinking has a limit of its own."""
        return self.max_thinking_tokens is not None or self.max_steps is not None

    @property
    def loops(self) -> bool:
        """Whether anything is decided about the thinking."""
        return self.judged or self.limited

    @property
    def acts(self) -> bool:
        """Whether thinking may be ended from outside."""
        return self.limited or (self.judged and self.mode != "shadow")

    @property
    def unjudged_cause(self) -> StopCause:
        """Why thinking ended that nobody judged and nothing cut short."""
        if self.uncertified:
            return StopCause.UNCERTIFIED
        return StopCause.NATURAL if self.limited else StopCause.OFF

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
            thinking_is_content=self.thinking_in == "content",
        )

    def loop_settings(
        self,
        defaults: Defaults,
        max_tokens: int,
        *,
        separate_answer: bool,
        blank_before_answer: bool = False,
        context_limit: int | None = None,
        cache_salt: str | None = None,
    ) -> LoopSettings:
        """What the loop needs of them, and of the request beside them."""
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
            blank_before_answer=blank_before_answer,
            cache_salt=cache_salt,
        )

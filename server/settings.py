"""The server's side of every setting, and the effective settings of one response."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from drr.judge.calibration import Calibration, Certificate
from drr.judge.dm_folder import DEFAULT_NUDGE_CUE, DmCard
from drr.judge.scorers.registry import LEAST_ACCEPTED, ScorerName
from drr.loop.policy import PolicySettings, StopCause
from drr.loop.reasoner import Token
from drr.loop.response import LoopSettings
from drr.loop.rethink import Kind, OnExhausted, RethinkSettings
from drr.loop.rule import Rule
from server.keys import Mode
from server.schema import Report, ThinkingIn
from server.texts import REFUSAL, SEPARATOR

PROBE_DEADLINE = 30.0
"""Seconds to the verdict of a scorer that asks the Reasoner itself, which answers between its other work."""


@dataclass(frozen=True, slots=True)
class DmDefaults:
    """What a DM says of its use; nothing where there is none."""

    rule: Rule | None = None
    calibration: Calibration | None = None
    nudge: int = 0
    nudge_below: float = 0.5
    nudge_cue: str = DEFAULT_NUDGE_CUE
    nudge_cue_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, card: DmCard | None, encode: Callable[[str], Sequence[int]]) -> Self:
        """By the DM's card: the calibration's default rule, or the threshold that it was made with. `encode` gives the
        Reasoner's ids of a text."""
        if card is None:
            return cls(nudge_cue_ids=tuple(encode(DEFAULT_NUDGE_CUE)))
        calibration = None if card.calibration is None else Calibration.from_json(card.calibration)
        rule = Rule(card.threshold, card.patience) if calibration is None else calibration.rules["default"]
        cue = card.nudge_cue
        return cls(rule, calibration, card.nudge, card.nudge_below, cue, tuple(encode(cue)))


@dataclass(frozen=True, slots=True)
class Defaults:
    """The server's side of every setting. Without a DM, `rule` is None; `scorer` is who judges where a request
    does not say, None for nobody. `calibration` is the DM's, `calibrations` those of scorers that need none. `beside`
    are the DMs that requests may name in its place."""

    mode: Mode
    rule: Rule | None
    calibration: Calibration | None = None
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    beside: Mapping[str, DmDefaults] = field(default_factory=dict)
    scorer: ScorerName | None = "dm"
    nudge: int = 0
    nudge_below: float = 0.5
    nudge_cue: str = DEFAULT_NUDGE_CUE
    nudge_cue_ids: tuple[int, ...] = ()
    max_rethinks: int = 3
    """Of requests in mode rethink that do not say."""
    accept: float = LEAST_ACCEPTED
    rethink_temperature: float = 0.8
    rethink_cue: tuple[Token, ...] = ()
    """What stands between a rejected attempt and one made in its context, in the Reasoner's tokens."""
    separator: str = SEPARATOR
    refusal: str = REFUSAL
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
    thinking_token_budget: int | None
    """vLLM's own limit, which the loop keeps."""
    answer_tokens: int
    nudge: int
    nudge_below: float
    max_rethinks: int
    rethink: Kind
    accept: float | None
    on_exhausted: OnExhausted
    parallel: int
    rethink_temperature: float
    refusal: str | None
    """What an abstention says; None where nobody may abstain."""
    separator: str | None
    """What is shown between attempts; None where nothing is."""
    scorer: ScorerName | None
    dm: str | None
    """The name of the DM that judges; None for that of `--dm`, and where none does."""
    report: Report
    thinking_in: ThinkingIn
    explicit: bool
    """Whether the client sent DRR options; one that did not is never sent chunks that it does not expect."""
    certificate: Certificate | None = None
    calibration: Calibration | None = None
    """Of whoever judges."""
    beam_search: bool = False
    canary: str | None = None
    """The rule that would stop the response, where that thinks in full to see what stopping would have done."""

    def as_dict(self) -> dict[str, Any]:
        hidden = ("explicit", "certificate", "calibration", "beam_search", "canary")
        return {name: getattr(self, name) for name in self.__slots__ if name not in hidden}

    @property
    def judge(self) -> str | None:
        """Who judges, by the name that the server's scorers have."""
        return f"dm:{self.dm}" if self.dm is not None else self.scorer

    @property
    def judged(self) -> bool:
        """Whether a judge is asked."""
        return self.scorer is not None

    @property
    def uncertified(self) -> bool:
        """Whether a risk was asked for that this DM has no certified rule for."""
        return self.max_lost_correct is not None and self.certificate is None

    @property
    def limited(self) -> bool:
        """Whether the client limits the thinking."""
        limits = (self.max_thinking_tokens, self.max_steps, self.thinking_token_budget)
        return any(limit is not None for limit in limits)

    @property
    def loops(self) -> bool:
        """Whether anything is decided about the thinking."""
        return self.judged or self.limited

    @property
    def acts(self) -> bool:
        """Whether thinking may be ended from outside."""
        return self.limited or self.answer_tokens > 0 or (self.judged and self.mode != "shadow")

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
        return RethinkSettings(
            self.max_rethinks,
            self.rethink,
            self.on_exhausted,
            self.parallel,
            defaults.rethink_cue,
            self.separator or "",
            self.refusal or "",
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
        judge = defaults if self.dm is None else defaults.beside[self.dm]
        policy = PolicySettings(
            threshold=self.threshold,
            min_steps=self.min_steps,
            max_steps=self.max_steps,
            patience=self.patience,
            nudge=self.nudge,
            nudge_below=self.nudge_below,
            acts=self.mode != "shadow",
            stops=self.canary is None,
            hopeless=self.hopeless,
            min_gain=self.min_gain,
            accept=self.accept,
        )
        limit, cause = self.max_thinking_tokens, StopCause.MAX_THINKING_TOKENS
        if self.thinking_token_budget is not None and (limit is None or self.thinking_token_budget < limit):
            limit, cause = self.thinking_token_budget, StopCause.THINKING_TOKEN_BUDGET
        return LoopSettings(
            policy=policy,
            max_tokens=max_tokens,
            max_thinking_tokens=limit,
            thinking_limit=cause,
            answer_tokens=self.answer_tokens,
            deadline=defaults.deadline if self.scorer in (None, "dm") else max(defaults.deadline, PROBE_DEADLINE),
            nudge_cue=judge.nudge_cue,
            nudge_cue_ids=judge.nudge_cue_ids,
            separate_answer=separate_answer,
            context_limit=context_limit,
            min_step_tokens=self.min_step_tokens,
            blank_before_answer=blank_before_answer,
            cache_salt=cache_salt,
        )

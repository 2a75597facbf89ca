"""The data of one response: what governs it, what happens in it, what it amounts to."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from drr.loop.formats import Part, ReasoningFormat
from drr.loop.policy import PolicySettings, Score, StopCause, Verdict
from drr.loop.reasoner import Token

_LOOKAHEAD = 64

LEAST_THINKING = 8
"""With less room than this, another attempt is not worth starting."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Everything that governs one response. Token counts bound what the engine generates.

    `answer_tokens` is kept free inside `max_tokens` for the answer; where that is more than half of `max_tokens`, half
    of it is. With 0 nothing is kept free, and thinking that the engine ends stays without an answer. `thinking_limit`
    names the field that `max_thinking_tokens` comes from. `deadline` is in seconds from a boundary to the verdict.
    `separate_answer` asks for the answer in a request of its own even after a natural close (stop strings must not cut
    the thinking, nor may a grammar start anew in the middle of an answer). `context_limit` bounds prompt and output of
    one attempt together, put-in tokens too: the engine's context, or less; the answer's reserve is kept free inside it
    likewise. A boundary with fewer than `min_step_tokens` tokens between the last judged one and itself is passed over,
    unless thinking ends there. `blank_before_answer` lets the white space between a close and the answer's first word
    come in a request of its own, which no stop text can end. `cache_salt` keeps what engines and scorers cache of this
    response apart from others'.
    """

    policy: PolicySettings
    max_tokens: int
    max_thinking_tokens: int | None = None
    thinking_limit: StopCause = StopCause.MAX_THINKING_TOKENS
    answer_tokens: int = 256
    deadline: float = 1.0
    nudge_cue: str = "Wait,"
    nudge_cue_ids: tuple[int, ...] = ()
    separate_answer: bool = False
    context_limit: int | None = None
    min_step_tokens: int = 0
    blank_before_answer: bool = False
    cache_salt: str | None = None

    @property
    def lookahead(self) -> int:
        """Tokens set aside for what the engine generates between a boundary and its verdict."""
        return min(_LOOKAHEAD, self.max_tokens // 8)

    @property
    def thinking_room(self) -> int:
        """Tokens that may be generated before the answer's reserve is touched."""
        return self._without_answer(self.max_tokens)

    def attempt_room(self, prompt_tokens: int) -> int | None:
        """Tokens of output that an attempt behind such a prompt may have before the answer's reserve in the context is
        touched; None where nothing bounds them."""
        if self.context_limit is None or self.answer_tokens == 0:
            return None
        return self._without_answer(self.context_limit - prompt_tokens)

    def _without_answer(self, tokens: int) -> int:
        return tokens - min(self.answer_tokens, max(1, tokens // 2))


@dataclass(slots=True)
class Spent:
    """What attempts have used up of a response's limits, in tokens; `Used` says how it is counted."""

    generated: int = 0
    thought: int = 0
    probed: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.generated + other.generated, self.thought + other.thought, self.probed + other.probed)


@dataclass(frozen=True, slots=True)
class Used:
    """How far an attempt has come: the tokens of its output, what it has used of `max_tokens`, what it has thought, and
    what it has generated behind its thinking.

    Limits must not depend on how long verdicts take. So what an attempt has used is what is kept of it, and for each
    time that it was cut the `lookahead` of LoopSettings, which stands for what the engine had generated meanwhile. Only
    where that was more does it count as it was, so that `max_tokens` holds in any case. `probed` are tokens by which
    heads in the engine were asked, where none of the output told what they say.
    """

    output: int
    generated: int
    thought: int
    answered: int = 0
    probed: int = 0


@dataclass(slots=True)
class StepReport:
    """What happened at one boundary. Probabilities are None where no score came in time; `ms` is scoring time."""

    index: int
    tokens: int
    p_now: float | None
    p_later: float | None
    verdict: Verdict
    ms: float | None
    late: bool = False
    attempt: int = 0
    features: tuple[float, ...] | None = None
    """The behaviour features that the judge was shown, None where they are not known."""


class Fate(StrEnum):
    """What became of an attempt."""

    ACCEPTED = "accepted"
    UNJUDGED = "unjudged"
    """It stands: nobody has said anything against it, nor for it."""
    REJECTED = "rejected"
    ANSWERED = "answered"
    """It was rejected, and the answer is from it all the same: no other was better."""
    ABANDONED = "abandoned"
    """Another one, running at the same time, was accepted first."""


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """One attempt of a response. Tokens are counted as in Outcome; `p_now` is its last score, None without one."""

    thinking_tokens: int
    generated_tokens: int
    discarded_tokens: int
    p_now: float | None
    fate: Fate


@dataclass(frozen=True, slots=True)
class AttemptOutput:
    """What is kept of an attempt's output; its thinking is `tokens[thinking_from:thinking_to]`. `closed` tells that the
    Reasoner itself ended the thinking there."""

    tokens: tuple[Token, ...]
    thinking_from: int
    thinking_to: int
    closed: bool


@dataclass(slots=True)
class Outcome:
    """The account of one response. Every generated token is in exactly one of `thinking_tokens`, `discarded_tokens` and
    `answer_tokens`; injected tokens were never generated. Probe tokens, which a scorer had generated beside the output,
    come on top. `late_tokens` is the thinking kept behind the first boundary whose verdict came too late: what lateness
    may have cost. `earlier_tokens` is the thinking of attempts that were rejected and that the answer rests on all the
    same, because it was given in their context."""

    stop_cause: StopCause = StopCause.NATURAL
    thinking_tokens: int = 0
    discarded_tokens: int = 0
    injected_tokens: int = 0
    generated_tokens: int = 0
    probe_tokens: int = 0
    nudges: int = 0
    late: int = 0
    failed: int = 0
    late_tokens: int = 0
    earlier_tokens: int = 0
    steps: list[StepReport] = field(default_factory=list)
    attempts: list[AttemptReport] = field(default_factory=list)

    @property
    def answer_tokens(self) -> int:
        """The answer, with the token that ends it and the markers around it that the Reasoner wrote itself."""
        return self.generated_tokens - self.thinking_tokens - self.discarded_tokens


@dataclass(frozen=True, slots=True)
class Emit:
    """Output for the client: these tokens, adding this text, all of one part."""

    tokens: tuple[Token, ...]
    text: str
    part: Part = Part.ANSWER


@dataclass(slots=True)
class Transcript:
    """A response put together from what was emitted. `thinking_from` is the index of its first thinking token."""

    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    thinking_from: int | None = None
    _thought: str = ""
    _answer: str = ""

    def add(self, emit: Emit) -> None:
        """What came next."""
        if emit.part is Part.THINKING:
            self._thought += emit.text
            if self.thinking_from is None:
                self.thinking_from = len(self.tokens)
        elif emit.part is Part.ANSWER:
            self._answer += emit.text
        self.tokens.extend(emit.tokens)
        self.text += emit.text

    def answer(self, form: ReasoningFormat) -> str:
        """The answer's text; where the thinking's turn holds the answer, the whole turn's."""
        return ((self._thought if form.turn_holds_answer else "") + self._answer).strip()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The thinking is over and stands; what is emitted from here on is the answer."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The last event of an attempt that the scorer rejects: nothing runs any more, no answer was given."""

    score: Score


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a response."""

    outcome: Outcome
    finish_reason: str
    stop_reason: int | str | None


Event = Emit | StepReport | Accepted | Rejected | Finished


class Loop(Protocol):
    """What makes one choice of a response. `outcome` is its account so far, `outputs` what is kept of each attempt."""

    @property
    def outcome(self) -> Outcome: ...

    @property
    def outputs(self) -> list[AttemptOutput]: ...

    def run(self) -> AsyncGenerator[Event, None]:
        """Its events; Finished is the last."""
        ...

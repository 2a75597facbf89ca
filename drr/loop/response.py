"""The data of one response: what governs it, what happens in it, what it amounts to."""

from dataclasses import dataclass, field
from enum import StrEnum

from drr.loop.formats import Part, ReasoningFormat
from drr.loop.policy import PolicySettings, Score, StopCause, Verdict
from drr.loop.reasoner import Token

LEAST_THINKING = 8
"""With less room than this inside `max_tokens`, thinking is not worth starting."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Everything that governs one response. Token counts bound what the engine generates.

    `answer_tokens` is kept free inside `max_tokens` for the answer; where `max_tokens` has no room for it, half of
    `max_tokens` is, and where that leaves hardly anything to think with, all of it. With 0 nothing is kept free, and
    thinking that the engine ends stays without an answer. `deadline` is in seconds from a boundary to the verdict.
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
        room = tokens - min(self.answer_tokens, max(1, tokens // 2))
        return room if room >= LEAST_THINKING or self.answer_tokens == 0 else 0


@dataclass(slots=True)
class Spent:
    """What all attempts of a response have used up together, in tokens."""

    generated: int = 0
    thought: int = 0
    granted: int = 0
    """What running engine requests may still generate."""


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


class Fate(StrEnum):
    """What became of an attempt."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    ABANDONED = "abandoned"
    """Another one, running at the same time, was accepted first."""


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """One attempt of a response. Tokens are counted as in Outcome; `p_now` is its last score, None without one."""

    thinking_tokens: int
    generated_tokens: int
    p_now: float | None
    fate: Fate


@dataclass(slots=True)
class Outcome:
    """The account of one response. Every generated token is in exactly one of thinking, discarded or the rest
    (markers and answer); injected tokens were never generated. Probe tokens, which a scorer had generated beside the
    output, come on top. `late_tokens` is the thinking kept behind the first boundary whose verdict came too late: what
    lateness may have cost."""

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
    steps: list[StepReport] = field(default_factory=list)
    attempts: list[AttemptReport] = field(default_factory=list)


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

"""Tiny honest stand-ins for the Reasoner and the DM: scripted tokens, scripted scores, no engine."""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace

from drr.learn.records import Rollout
from drr.loop.attempt import ThinkingLoop
from drr.loop.formats import MarkerTokens, ReasoningFormat
from drr.loop.policy import Score
from drr.loop.probing import Probe, ProbedToken
from drr.loop.reasoner import Delta, Phase, Segment, Token
from drr.loop.response import Emit, Finished, Outcome, StepReport
from drr.loop.rethink import RethinkLoop
from drr.loop.scoring import Boundary

OPEN, CLOSE, END, PROMPT = 1, 2, 3, 4
FORM = MarkerTokens(open_ids=(OPEN,), close_ids=(CLOSE,), close_text="</think>")
_FIRST_WORD = 10


class Vocabulary:
    """Words to ids and back; every distinct string is one token."""

    def __init__(self) -> None:
        self._words: dict[str, int] = {"<think>": OPEN, "</think>": CLOSE, "": END}

    def token(self, word: str) -> Token:
        token_id = self._words.setdefault(word, _FIRST_WORD + len(self._words))
        return Token(token_id, word, logprob=None if token_id < _FIRST_WORD else -0.1)

    def text(self, ids: Sequence[int]) -> str:
        words = {token_id: word for word, token_id in self._words.items()}
        return "".join(words[i] for i in ids)


def told(ids: Sequence[int]) -> tuple[float, float]:
    """What a scripted head says of the context `ids`: its length, and a number from 0 to 1 that goes by all its ids."""
    return float(len(ids)), zlib.crc32(repr(list(ids)).encode()) / 2**32


@dataclass
class FakeReasoner:
    """Plays `thinking` in its first request, `rethought` in later THINK requests, `answer` in ANSWER requests. A THINK
    request that begins where the one before was not allowed any more plays the rest of that.

    Words are tokens; "" is the end of the turn. `group` tokens come per delta. `pace` is awaited between deltas; with
    `at_once` all of a request comes before anybody else has a turn. With `tells`, thinking comes with what a head says.
    """

    thinking: Sequence[str]
    answer: Sequence[str] = ("The answer", " is 4", "")
    rethought: Sequence[str] = ("more", "\n\n", "</think>", "again", "")
    group: int = 1
    at_once: bool = False
    pace: Callable[[], "asyncio.Future[None] | asyncio.Task[None]"] | None = None
    fails_after: int | None = None
    tells: bool = False
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    segments: list[Segment] = field(default_factory=list)
    running: int = 0
    generated: int = 0
    _rest: Sequence[str] = ()
    _rest_behind: list[int] = field(default_factory=list)

    async def stream(self, segment: Segment) -> AsyncGenerator[Delta, None]:
        self.segments.append(segment)
        self.running += 1
        try:
            async for delta in self._deltas(segment):
                self.generated += len(delta.tokens)
                yield delta
        finally:
            self.running -= 1

    async def _deltas(self, segment: Segment) -> AsyncGenerator[Delta, None]:
        script = list(self._words(segment))
        words, self._rest = script[: segment.max_tokens], script[segment.max_tokens :]
        self._rest_behind = [*segment.ids, *(self.vocabulary.token(word).id for word in words)]
        for start in range(0, len(words), self.group):
            if not self.at_once:
                await (self.pace() if self.pace else asyncio.sleep(0))
            if self.fails_after is not None and start >= self.fails_after:
                raise RuntimeError("engine died")
            piece = words[start : start + self.group]
            reason = None
            if piece[-1] == "":
                reason = "stop"
            elif start + self.group >= len(words):
                reason = "length"
            tokens = [self.vocabulary.token(word) for word in piece]
            if self.tells and segment.phase is Phase.THINK:
                behind = len(segment.ids) + start
                tokens = [
                    replace(token, states=told(self._rest_behind[: behind + place]))
                    for place, token in enumerate(tokens)
                ]
            yield Delta(tuple(tokens), "".join(piece), reason)

    def _words(self, segment: Segment) -> Sequence[str]:
        if segment.phase is Phase.ANSWER:
            return self.answer
        if self._rest and list(segment.ids) == self._rest_behind:
            return self._rest
        thinks = sum(1 for earlier in self.segments if earlier.phase is Phase.THINK)
        return self.thinking if thinks == 1 else self.rethought


@dataclass
class FakeScorer:
    """Scores boundary i with `scores[i]`; None never answers, an exception is raised. `delay` seconds each."""

    scores: Sequence[float | Exception | None]
    delay: float | Sequence[float] = 0.0
    id: str = "fake"
    seen: list[Boundary] = field(default_factory=list)
    running: int = 0

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "FakeScorer":
        return self

    async def score(self, boundary: Boundary) -> Score:
        self.seen.append(boundary)
        self.running += 1
        try:
            delay = self.delay if isinstance(self.delay, int | float) else self.delay[boundary.index]
            await asyncio.sleep(delay)
            value = self.scores[min(boundary.index, len(self.scores) - 1)]
            if value is None:
                await asyncio.Event().wait()
            if isinstance(value, Exception):
                raise value
            assert value is not None
            return Score(value, value)
        finally:
            self.running -= 1


@dataclass
class FakeProbe:
    """Tells what a scripted head says of a context, for a token each; `fails` is raised instead, or nothing is said."""

    form: ReasoningFormat = FORM
    tokens: int = 0
    fails: Exception | None = None
    silent: bool = False
    asked: list[list[int]] = field(default_factory=list)
    running: int = 0

    async def states(self, ids: Sequence[int]) -> tuple[float, ...] | None:
        self.asked.append(list(ids))
        self.running += 1
        try:
            await asyncio.sleep(0)
            if self.fails is not None:
                raise self.fails
            self.tokens += 1
            return None if self.silent else told(ids)
        finally:
            self.running -= 1

    async def complete(
        self, ids: Sequence[int], max_tokens: int, likeliest: int = 0, stop: Sequence[str] = ()
    ) -> list[ProbedToken]:
        raise AssertionError("a head asks for no text")

    def ask(self, message: str, *, think: bool) -> list[int]:
        raise AssertionError("a head asks no question")


@dataclass
class FakeHead:
    """Scores boundaries by what a scripted head says: boundary i with `scores[i]`, or with what was said itself where
    there are none. Whatever was said must have been said of the boundary's own context."""

    scores: Sequence[float] = ()
    id: str = "head"
    seen: list[Boundary] = field(default_factory=list)
    at_once: int = 0

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "FakeHeadSession":
        return FakeHeadSession(self, probe)


@dataclass
class FakeHeadSession:
    """Scores the boundaries of one attempt."""

    head: FakeHead
    probe: Probe | None

    def score_at_once(self, boundary: Boundary) -> Score | None:
        if boundary.states is None:
            return None
        self.head.at_once += 1
        return self._score(boundary, boundary.states)

    async def score(self, boundary: Boundary) -> Score:
        assert boundary.states is None, "what is known already is not asked for"
        states = await self.probe.states(boundary.context()) if self.probe is not None else None
        if states is None:
            raise ValueError("nothing was said")
        return self._score(boundary, states)

    def _score(self, boundary: Boundary, states: tuple[float, ...]) -> Score:
        assert states == told(boundary.context()), "of another context"
        self.head.seen.append(boundary)
        scores = self.head.scores
        value = scores[min(boundary.index, len(scores) - 1)] if scores else states[1]
        return Score(value, value)


@dataclass
class Response:
    """What a loop put out."""

    tokens: list[Token]
    text: str
    steps: list[StepReport]
    outcome: Outcome
    finish_reason: str

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


async def respond(loop: ThinkingLoop | RethinkLoop) -> Response:
    """Run a loop to its end. What is said between attempts is not for a response's client."""
    tokens, text, steps = list[Token](), "", list[StepReport]()
    async for event in loop.run():
        match event:
            case Emit():
                tokens.extend(event.tokens)
                text += event.text
            case StepReport():
                steps.append(event)
            case Finished():
                return Response(tokens, text, steps, event.outcome, event.finish_reason)
            case _:
                assert isinstance(loop, ThinkingLoop), f"{event} is not for the client"
    raise AssertionError("no Finished event")


def rollout_of(steps: list[str]) -> Rollout:
    """A rollout of these steps that was right throughout; three tokens a step."""
    return Rollout(
        question="What is 1 + 2?",
        gold="3",
        family="expression",
        difficulty=2,
        sample=0,
        later=True,
        thinking_tokens=3 * len(steps),
        total_tokens=3 * len(steps) + 9,
        answer="3",
        steps=steps,
        step_tokens=[3] * len(steps),
        logprobs=[[-0.125, -0.25, -0.5]] * len(steps),
        forced=["3"] * len(steps),
        now=[True] * len(steps),
    )

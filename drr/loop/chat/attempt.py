"""One attempt at a response over chat: whole (tier opaque), or judged step by step (tier prefix)."""

import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drr.loop.chat.said import Answered, Ask, ChatReasoner, ChatSettings, Field, Piece, Shown
from drr.loop.chat.scores import AttemptScores, Scored
from drr.loop.policy import Decision, Score, StopCause, Verdict, decide, limit, rejects
from drr.loop.response import Accepted, Fate, StepReport
from drr.loop.steps import Step, StepSegmenter

if TYPE_CHECKING:
    import asyncio

AttemptEvent = Shown | StepReport | Accepted
"""What an attempt gives; Accepted stands before the answer, which is never taken back."""

_CONTINUE = Decision(Verdict.CONTINUE)


class ChatAttempt:
    """What all attempts have in common: their output, their scores, their account."""

    def __init__(
        self,
        number: int,
        reasoner: ChatReasoner,
        scores: AttemptScores,
        settings: ChatSettings,
        room: int | None,
        doubt: Callable[[str], float] | None = None,
        draw: int | None = None,
    ) -> None:
        """`room` are the tokens that this attempt may generate; `doubt` is how likely it is that all earlier attempts
        with the same answer are wrong. `draw` counts the attempts before it, without those that an upstream's failure
        has cost."""
        self.number, self._reasoner, self._scores, self._settings, self._room = number, reasoner, scores, settings, room
        self._doubt, self.draw = doubt, number if draw is None else draw
        self.lost = False
        """Whether the upstream has failed in it."""
        self.fate = Fate.ABANDONED
        self.cause = StopCause.NATURAL
        self.thought: list[str] = []
        self.content: list[str] = []
        self.message: dict[str, object] = {}
        self.finish_reason = "stop"
        self.steps: list[StepReport] = []
        self.late = self.failed = 0
        self.generated = self.discarded = self.injected = 0
        self.thinking: int | None = 0
        """Tokens of the thinking that is kept; None where the upstream does not count them."""
        self._known: list[Score | None] = []

    @property
    def p_now(self) -> float | None:
        """The last score."""
        last = next((score for score in reversed(self._known) if score is not None), None)
        return None if last is None else last.p_now

    @property
    def text(self) -> str:
        """What has been said so far, thinking first."""
        return "\n\n".join(part for part in ("".join(self.thought).strip(), "".join(self.content).strip()) if part)

    @property
    def rejected(self) -> bool:
        return self.fate is Fate.REJECTED

    async def run(self) -> AsyncGenerator[AttemptEvent, None]:
        """The attempt's events, to its end or its rejection. Closing it closes the upstream's request."""
        raise NotImplementedError
        yield

    async def answer(self) -> AsyncGenerator[AttemptEvent, None]:
        """The answer of an attempt that was rejected, and is to answer all the same."""
        raise NotImplementedError
        yield

    def _doubted(self) -> float:
        return 1.0 if self._doubt is None else self._doubt(self.text)

    def _rejects(self) -> bool:
        return self._settings.policy.acts and rejects(self._settings.policy, self._known, self._doubted)

    def _note(self, scored: Scored, tokens: int, verdict: Verdict) -> StepReport:
        """The report of a boundary, which is counted."""
        self.late += scored.late
        self.failed += scored.failed
        score = scored.score
        p_now, p_later = (None, None) if score is None else (score.p_now, score.p_later)
        report = StepReport(
            len(self.steps), tokens, p_now, p_later, verdict, scored.ms, late=scored.late, attempt=self.number
        )
        self.steps.append(report)
        return report

    def _stand(self) -> None:
        """Nothing is said against the attempt."""
        self.fate = Fate.UNJUDGED if self.p_now is None else Fate.ACCEPTED


class WholeAttempt(ChatAttempt):
    """An attempt whose thinking cannot be ended. It is judged once, by all that is visible of it, when it is there;
    until then its answer is kept back, unless nobody could reject it."""

    async def run(self) -> AsyncGenerator[AttemptEvent, None]:
        live = not self._settings.rejects
        if live:
            self._stand()
            yield Accepted()
        speaks = False
        async with contextlib.aclosing(self._reasoner.stream(Ask(self.draw, self._room))) as stream:
            async for item in stream:
                if isinstance(item, Answered):
                    self._end(item)
                    speaks = item.speaks
                    continue
                self.generated += 1
                (self.thought if item.field is Field.REASONING else self.content).append(item.text)
                if item.field is Field.REASONING:
                    self.thinking = None if self.thinking is None else self.thinking + 1
                if live or item.field is Field.REASONING:
                    yield Shown(item.field, item.text)
        if self.message.get("tool_calls"):
            self.cause = StopCause.TOOL_CALL
        if self._scores.judged and not speaks:
            yield await self._judge()
            if self.rejected:
                return
        self._stand()
        if not live:
            yield Accepted()
            yield Shown(Field.CONTENT, "".join(self.content))

    async def answer(self) -> AsyncGenerator[AttemptEvent, None]:
        yield Shown(Field.CONTENT, "".join(self.content))

    def _end(self, end: Answered) -> None:
        self.generated, self.thinking = end.generated_tokens, end.thinking_tokens
        self.finish_reason, self.message = end.finish_reason, dict(end.message)
        if end.finish_reason == "length" and not self.content:
            self.cause = StopCause.MAX_TOKENS
        elif self.thinking == 0:
            self.cause = StopCause.NO_THINKING

    async def _judge(self) -> StepReport:
        scored = await self._scores.submit(0, [*_steps(self._settings, self.thought), "".join(self.content)])
        self._known.append(scored.score)
        if self._rejects():
            self.fate = Fate.REJECTED
        return self._note(scored, self.generated, Verdict.RETHINK if self.rejected else Verdict.CONTINUE)


def _steps(settings: ChatSettings, thought: list[str]) -> list[str]:
    """A text that is there already, in steps."""
    segmenter = StepSegmenter(settings.rule)
    found = [step for text in thought if (step := segmenter.feed(text)) is not None]
    last = segmenter.finish()
    return [step.text for step in (*found, *([] if last is None else [last]))]


@dataclass(slots=True)
class _Pending:
    """A boundary that waits for its verdict: behind so many pieces of thinking, with so many new ones."""

    end: int
    tokens: int
    scoring: "asyncio.Task[Scored]"


class SteppedAttempt(ChatAttempt):
    """An attempt whose thinking is judged at every step and can be ended: the request is aborted, and another one gets
    the thought, as far as it is kept, and goes on with the answer."""

    _passed = 0
    """Boundaries whose verdict is in."""
    _unjudged = 0
    """Pieces since the last boundary that is judged."""

    async def run(self) -> AsyncGenerator[AttemptEvent, None]:
        self._pending = deque[_Pending]()
        self._texts = list[str]()
        self._segmenter = StepSegmenter(self._settings.rule)
        self._shown = 0
        async with contextlib.aclosing(self._reasoner.stream(Ask(self.draw, self._room))) as stream:
            closed = False
            async for item in stream:
                if isinstance(item, Answered):
                    if not closed:
                        async with contextlib.aclosing(self._close()) as events:
                            async for event in events:
                                yield event
                        if self._ended_from_outside:
                            self._cut_short(item)
                            break
                    self._end(item)
                    break
                self.generated += 1
                if item.field is Field.CONTENT:
                    if not closed:
                        closed = True
                        async with contextlib.aclosing(self._close()) as events:
                            async for event in events:
                                yield event
                        if self._ended_from_outside:
                            break
                    self.content.append(item.text)
                    yield Shown(Field.CONTENT, item.text)
                    continue
                if closed:  # an upstream that thinks again behind its answer's beginning
                    yield Shown(Field.REASONING, item.text)
                    continue
                for event in self._feed(item):
                    yield event
                if self._ended_from_outside:
                    break
        if self._cut is not None and not self.rejected:
            async with contextlib.aclosing(self.answer()) as events:
                async for event in events:
                    yield event

    async def answer(self) -> AsyncGenerator[AttemptEvent, None]:
        """What is said behind the thought, which is over."""
        if not self.rejected:
            self._stand()
            yield Accepted()
        room = None if self._room is None else max(1, self._room - self.generated)
        before = self.generated
        ask = Ask(self.draw, room, "".join(self.thought))
        async with contextlib.aclosing(self._reasoner.stream(ask)) as stream:
            async for item in stream:
                if isinstance(item, Answered):
                    self.generated = before + item.generated_tokens
                    self.thinking = len(self.thought) + (item.thinking_tokens or 0)
                    self.finish_reason, self.message = item.finish_reason, dict(item.message)
                    continue
                if item.injected:
                    self.injected += 1
                else:
                    self.generated += 1
                if item.field is Field.CONTENT:
                    self.content.append(item.text)
                yield Shown(item.field, item.text)

    # Thinking -------------------------------------------------------------------------------------------------

    _cut: StopCause | None = None
    """Why the thinking is ended from outside."""

    @property
    def _ended_from_outside(self) -> bool:
        return self.rejected or self._cut is not None

    def _feed(self, piece: Piece) -> list[AttemptEvent]:
        """The next piece of thinking; what is to be shown now."""
        self.thought.append(piece.text)
        step = self._segmenter.feed(piece.text)
        if step is not None:
            self._boundary(step)
        events = self._resolve()
        if not self._ended_from_outside:
            cause = self._over_limit()
            if cause is not None:
                events += self._release(len(self.thought))
                self._end_thinking(len(self.thought), cause)
        return events

    def _boundary(self, step: Step) -> None:
        """A step has closed."""
        self._texts.append(step.text)
        self._unjudged += step.end - step.start
        if self._unjudged < self._settings.min_step_tokens:
            return
        self._submit(step.end)

    def _submit(self, end: int) -> None:
        index = self._passed + len(self._pending)
        self._pending.append(_Pending(end, self._unjudged, self._scores.submit(index, self._texts)))
        self._texts, self._unjudged = [], 0

    def _resolve(self) -> list[AttemptEvent]:
        """The verdicts that are in, in order; and the pieces that no verdict is waited for any more."""
        events: list[AttemptEvent] = []
        while self._pending and self._pending[0].scoring.done() and not self._ended_from_outside:
            pending = self._pending.popleft()
            events += self._decide(pending, pending.scoring.result(), closing=False)
        if not self._ended_from_outside:
            events += self._release(self._pending[0].end if self._pending else len(self.thought))
        return events

    def _decide(self, pending: _Pending, scored: Scored, *, closing: bool) -> list[AttemptEvent]:
        """The verdict at a boundary."""
        self._passed += 1
        self._known.append(scored.score)
        policy = self._settings.policy
        if policy.acts and self._scores.judged:
            decision = decide(policy, self._known, closing=closing, doubt=self._doubted)
        else:
            decision = _CONTINUE if closing else limit(policy, self._passed)
        events = self._release(pending.end)
        events.append(self._note(scored, pending.tokens, decision.verdict))
        if decision.verdict is Verdict.RETHINK:
            self.fate = Fate.REJECTED
            self._keep(pending.end)
        elif decision.verdict is Verdict.STOP:
            assert decision.cause is not None
            self._end_thinking(pending.end, decision.cause)
        return events

    def _release(self, end: int) -> list[AttemptEvent]:
        """Show the thinking up to here."""
        texts, self._shown = self.thought[self._shown : end], max(self._shown, end)
        return [Shown(Field.REASONING, text) for text in texts]

    def _end_thinking(self, end: int, cause: StopCause) -> None:
        self._cut = self.cause = cause
        self._keep(end)

    def _keep(self, end: int) -> None:
        """Everything behind this piece is discarded."""
        self.discarded += self.generated - end
        del self.thought[end:]
        self.thinking = len(self.thought)
        self.content.clear()

    def _over_limit(self) -> StopCause | None:
        """The limit that the thinking has reached."""
        most, room = self._settings.max_thinking_tokens, self._thinking_room
        if most is not None and len(self.thought) >= most:
            return StopCause.MAX_THINKING_TOKENS
        return StopCause.ANSWER_RESERVE if room is not None and self.generated >= room else None

    @property
    def _thinking_room(self) -> int | None:
        """Tokens that may be generated before this attempt's answer's reserve is touched."""
        reserve = self._settings.answer_tokens
        if self._room is None or reserve == 0:
            return None
        return self._room - min(reserve, max(1, self._room // 2))

    async def _close(self) -> AsyncGenerator[AttemptEvent, None]:
        """The Reasoner has ended its thinking: every verdict is waited for, that on the whole thinking last."""
        while self._pending:
            await self._pending[0].scoring
            for event in self._resolve():
                yield event
            if self._ended_from_outside:
                return
        step = self._segmenter.finish()
        if step is not None:
            self._texts.append(step.text)
            self._unjudged += step.end - step.start
        for event in self._release(len(self.thought)):
            yield event
        if not self.thought:
            self.cause = StopCause.NO_THINKING
        elif self._texts:
            self._submit(len(self.thought))
            pending = self._pending.popleft()
            scored = await pending.scoring
            for event in self._decide(pending, scored, closing=True):
                yield event
        elif self._rejects():  # the last step had its verdict before it was known to be the last
            self.fate = Fate.REJECTED
            self._keep(len(self.thought))
        if not self._ended_from_outside:
            self.thinking = len(self.thought)
            self._stand()
            yield Accepted()

    def _end(self, end: Answered) -> None:
        """The request came to its own end, and the upstream has counted."""
        self.generated = end.generated_tokens
        told = end.thinking_tokens
        self.thinking = len(self.thought) if told is None and self.thought else told
        if self.thinking is not None:
            self.thinking = min(self.thinking, self.generated)
        self.finish_reason, self.message = end.finish_reason, dict(end.message)
        if self.message.get("tool_calls"):
            self.cause = StopCause.TOOL_CALL
        elif end.finish_reason == "length" and not self.content:
            self.cause = StopCause.MAX_TOKENS

    def _cut_short(self, end: Answered) -> None:
        """The request was over before the verdict on its last boundary was in: the upstream has counted it all."""
        self.discarded += max(0, end.generated_tokens - self.generated)
        self.generated = max(self.generated, end.generated_tokens)

"""The loop: think in steps, score every boundary beside the stream, stop when thinking no longer pays.

One uninterrupted engine request carries the thinking. Each closed step becomes a gate: tokens behind it are held
back until its verdict is in or its deadline has passed, so that a client never sees a token that the final context
does not hold. A stop aborts the stream, cuts back to the gate, closes the thinking with its exact token ids and
asks for the answer in a new request, which the engine's prefix cache makes cheap. The thinking's request may not
generate what is kept free for the answer; a natural answer that gets that far goes on in another request, and so does
thinking that was allowed only its share, where others have left it theirs.

A scorer that is late, failing or dead never fails a request: without a score the verdict is to continue.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from enum import Enum, auto

from drr.allowance import Allowance
from drr.features import BehaviourFeatures
from drr.judging import Gate, Judge, Unjudged
from drr.policy import Decision, Score, StopCause, Verdict, decide, rejects
from drr.probing import Probe
from drr.reasoner import Delta, Phase, Reasoner, Segment, ThinkingFormat, Token
from drr.response import Accepted, Emit, Event, Finished, LoopSettings, Outcome, Rejected, Spent, StepReport
from drr.scorers import Scorer
from drr.segments import SegmentStream, StreamFailed
from drr.steps import Step, StepRule
from drr.trace import Trace

_LENGTH: tuple[str, int | str | None] = ("length", None)


class _Stage(Enum):
    UNDECIDED = auto()  # the prompt did not say whether the output begins with thinking
    THINKING = auto()
    CLOSED = auto()  # the Reasoner closed its thinking; the close may still be refused
    ENDED = auto()  # the thinking's stream is over without a close, or out of budget
    ANSWERING = auto()


_Message = Delta | StreamFailed | Gate


class ThinkingLoop:
    """One attempt at a response. Iterate `run()` to its end, or close it: either way every engine request is freed."""

    def __init__(
        self,
        reasoner: Reasoner,
        scorer: Scorer | None,
        form: ThinkingFormat,
        rule: StepRule,
        settings: LoopSettings,
        prompt_ids: Sequence[int],
        question: str,
        *,
        spent: Spent | None = None,
        attempt: int = 0,
        sharing: int = 1,
        on_accept: Callable[[], Awaitable[None]] | None = None,
        probe: Probe | None = None,
    ) -> None:
        """`spent` is shared by all attempts of a response, whose number this is `attempt`. `sharing` attempts, this one
        and those that begin right after it, divide the room that is left. `on_accept` is awaited when the thinking
        stands, before the answer's request. `probe` is for scorers that ask the Reasoner."""
        self._form, self._settings = form, settings
        self._prompt_ids = list(prompt_ids)
        self._mailbox: asyncio.Queue[_Message] = asyncio.Queue()
        self._stream = SegmentStream(reasoner, self._mailbox.put_nowait)
        self._judge = Judge(scorer, question, settings.deadline, self._mailbox.put_nowait, probe)
        self._probe = probe
        self._outcome, self._attempt, self._on_accept = Outcome(), attempt, on_accept
        self._phase = Phase.THINK
        spent = spent or Spent()
        self._trace = Trace(prompt_ids, rule, spent)
        self._allowance = Allowance(
            settings, spent, prompt_tokens=len(prompt_ids), marker_tokens=len(form.close_ids), sharing=sharing
        )
        self._rejected: Score | None = None
        self._scores: list[Score | None] = []
        self._features = BehaviourFeatures()
        self._gates: deque[Gate] = deque()
        self._unjudged = Unjudged()
        self._segments = 0
        self._finish: tuple[str, int | str | None] | None = None
        self._events: deque[Event] = deque()
        self._stage = _Stage.UNDECIDED

    @property
    def outcome(self) -> Outcome:
        """The account so far."""
        self._count_up()
        return self._outcome

    @property
    def last_score(self) -> Score | None:
        """The newest score there is."""
        return next((score for score in reversed(self._scores) if score is not None), None)

    @property
    def thinking(self) -> tuple[Token, ...]:
        """What has been thought and kept, the opening marker included where the Reasoner made it."""
        return self._trace.thinking

    async def run(self) -> AsyncGenerator[Event, None]:
        """The attempt's events, in order; the last one is Finished, or Rejected. Engine errors are raised as they
        came."""
        async with contextlib.aclosing(self._drive(self._begin())) as events:
            async for event in events:
                yield event

    async def answer(self, cause: StopCause) -> AsyncGenerator[Event, None]:
        """Answer from the thinking of a rejected attempt after all; the last event is Finished."""
        async with contextlib.aclosing(self._drive(self._answer(len(self._trace), cause))) as events:
            async for event in events:
                yield event

    async def _drive(self, start: Awaitable[None]) -> AsyncGenerator[Event, None]:
        try:
            await start
            while True:
                await self._pass_gates()
                self._release()
                while self._events:
                    yield self._events.popleft()
                if self._rejected is not None:
                    self._count_up()
                    yield Rejected(self._rejected)
                    return
                if self._finish is not None and not self._gates:
                    if self._finish == _LENGTH and await self._answer_goes_on():
                        continue
                    yield self._finished(*self._finish)
                    return
                await self._receive(await self._mailbox.get())
        finally:
            for gate in self._gates:
                gate.release()
            await self._close_stream()

    async def _begin(self) -> None:
        opened = self._form.starts_open(self._prompt_ids)
        if opened is False:
            self._stage = _Stage.ANSWERING
            self._open_stream(Phase.ANSWER)
            return
        if opened:
            self._start_thinking()
        if self._has_room():
            self._open_stream(Phase.THINK)
            return
        if not opened:
            self._inject(self._form.open_ids, "")
            self._start_thinking()
        self._stage = _Stage.ENDED
        self._gates.append(Gate(len(self._trace), forced=StopCause.BUDGET, resolved=True))

    def _start_thinking(self) -> None:
        self._stage = _Stage.THINKING
        self._trace.start_thinking()

    def _has_room(self) -> bool:
        """Whether another thinking token may be generated."""
        return self._allowance.may_think(len(self._trace))

    def _count(self, tokens: int) -> None:
        self._outcome.generated_tokens += tokens
        self._allowance.count(tokens)

    # Streams -----------------------------------------------------------------------------------------------

    def _open_stream(self, phase: Phase) -> None:
        output, answering = len(self._trace), self._stage is _Stage.ANSWERING
        limit = self._allowance.room(output) if answering else self._allowance.next_share(output)
        if limit < 1:
            self._finish = _LENGTH
            return
        carried = self._trace.carried
        ids = [*self._prompt_ids, *carried]
        segment = Segment(phase=phase, number=self._segments, ids=ids, carried=carried, max_tokens=limit)
        self._segments, self._phase = self._segments + 1, phase
        self._allowance.promise(limit)
        self._stream.open(segment)

    async def _go_on(self) -> bool:
        """Go on exactly where the thinking's request ended, if it had generated all that it was allowed and more may be
        generated by now; False where not."""
        if self._phase is not Phase.THINK or not self._allowance.kept:
            return False
        await self._close_stream()
        # Another attempt may have taken the room during any await: none may come between this look and the request.
        room = self._has_room() if self._stage is _Stage.THINKING else self._allowance.room(len(self._trace)) > 0
        if room:
            self._open_stream(Phase.THINK)
        return room

    async def _answer_goes_on(self) -> bool:
        """Whether there is more to come of an answer whose request ended for want of room."""
        if self._stage is _Stage.THINKING:
            return False  # there is none, nor was any room kept for one
        await self._accept()
        goes_on = await self._go_on()
        if goes_on:
            self._finish = None
        return goes_on

    async def _close_stream(self) -> None:
        """End the running engine request; what it generated beyond the trace counts as discarded."""
        await self._stream.close()
        gates: list[Gate] = []
        while not self._mailbox.empty():
            message = self._mailbox.get_nowait()
            if isinstance(message, Gate):
                gates.append(message)
            elif isinstance(message, Delta):
                self._count(len(message.tokens))
                self._outcome.discarded_tokens += len(message.tokens)
        self._allowance.promise(0)
        for gate in gates:
            self._mailbox.put_nowait(gate)

    # Tokens ------------------------------------------------------------------------------------------------

    async def _receive(self, message: _Message) -> None:
        if isinstance(message, Gate):
            self._judge.resolve(message)
            return
        if isinstance(message, StreamFailed):
            raise message.error
        if self._stage is _Stage.ANSWERING:
            self._take_answer(message)
        else:
            await self._take_thinking(message)

    def _take_answer(self, delta: Delta) -> None:
        self._count(len(delta.tokens))
        self._release()  # whatever the thinking left goes first
        if delta.tokens or delta.text:
            self._trace.add_released(delta.tokens)
            self._events.append(Emit(delta.tokens, delta.text))
        if delta.finish_reason is not None:
            self._finish = (delta.finish_reason, delta.stop_reason)

    async def _take_thinking(self, delta: Delta) -> None:
        for position, token in enumerate(delta.tokens):
            if self._stage is _Stage.CLOSED and self._settings.separate_answer:
                await self._give_up_rest(len(delta.tokens) - position)
                return
            if self._stage is _Stage.CLOSED:
                self._trace.tokens.append(token)
            elif self._ends_without_answer(delta) and token is delta.tokens[-1] and delta.finish_reason == "stop":
                self._outcome.discarded_tokens += 1  # the end of the turn; the turn goes on with an answer
            elif not self._take_token(token):
                await self._give_up_rest(len(delta.tokens) - position)
                self._cut_off()
                return
            self._count(1)
        if delta.finish_reason is None:
            return
        if not self._ends_without_answer(delta):
            self._finish = (delta.finish_reason, delta.stop_reason)
        elif delta.finish_reason != "length":
            self._close_gate()
            self._end(StopCause.NATURAL)
        elif not await self._go_on():
            self._cut_off()

    def _ends_without_answer(self, delta: Delta) -> bool:
        """Whether this delta ends the thinking's stream too soon: an answer has to follow in another."""
        ended = delta.finish_reason not in (None, "abort", "error")
        return ended and self._stage is _Stage.THINKING and self._settings.answer_tokens > 0

    async def _give_up_rest(self, tokens: int) -> None:
        """End the stream in the middle of a delta, whose last `tokens` tokens are of no use."""
        self._count(tokens)
        self._outcome.discarded_tokens += tokens
        await self._close_stream()

    def _take_token(self, token: Token) -> bool:
        """Add one token of the thinking request; False if the thinking has no room for it."""
        trace, has_room = self._trace, self._has_room()
        trace.tokens.append(token)
        if self._stage is _Stage.UNDECIDED:
            if trace.ends_with(self._form.open_ids):
                self._start_thinking()
            elif token.text.strip() and len(trace) >= len(self._form.open_ids):
                self._stage = _Stage.CLOSED  # no thinking at all: what comes is the answer
                self._gates.append(Gate(0, closing=True, holds=False, resolved=True))
            return True
        if trace.ends_with(self._form.close_ids):
            trace.close_thinking(len(self._form.close_ids))
            self._stage = _Stage.CLOSED
            self._close_gate()
            return True
        if not has_room:
            trace.tokens.pop()
            return False
        self._think()
        return True

    def _think(self) -> None:
        """Take the newest token for thinking."""
        step = self._trace.think()
        if step is not None:
            self._add_gate(step)

    def _inject(self, ids: Sequence[int], text: str) -> None:
        """Put tokens into the output that the Reasoner did not generate."""
        self._trace.inject(ids, text)
        self._outcome.injected_tokens += len(ids)

    def _release(self) -> None:
        """Emit every token that no gate holds."""
        trace = self._trace
        limit = next((gate.end for gate in self._gates if gate.holds), len(trace))
        if self._stage is _Stage.THINKING and self._settings.policy.acts:
            limit = min(limit, len(trace) - trace.begins(self._form.close_ids))
            if trace.undecided_from is not None:
                limit = min(limit, trace.undecided_from)
        emit = trace.release(limit)
        if emit is not None:
            self._events.append(emit)

    # Gates -------------------------------------------------------------------------------------------------

    def _add_gate(self, step: Step, *, closing: bool = False) -> None:
        tokens = self._trace.tokens[step.start : step.end]
        logprobs = [token.logprob for token in tokens if not token.injected]
        self._unjudged.add(step, logprobs, self._features.close_step(step.text, logprobs))
        if closing or self._unjudged.tokens >= self._settings.min_step_tokens:
            self._have_judged(closing=closing)

    def _have_judged(self, *, closing: bool) -> None:
        """Judge all steps that have not been."""
        unjudged, self._unjudged = self._unjudged, Unjudged()
        end = self._trace.thinking_to if closing else unjudged.steps[-1].end
        gate = Gate(end, step_tokens=unjudged.tokens, closing=closing, holds=self._holds(closing))
        self._gates.append(gate)
        index = len(self._scores) + sum(waiting.step_tokens > 0 for waiting in self._gates) - 1
        self._judge.submit(gate, unjudged.boundary(index, lambda: self._trace.context(end)))

    def _close_gate(self) -> None:
        """The Reasoner closed its thinking: judge the last step, or the last boundary again if nothing followed it."""
        step = self._trace.last_step()
        if step is not None:
            self._add_gate(step, closing=True)
        elif self._unjudged.steps:
            self._have_judged(closing=True)
        else:
            self._gates.append(Gate(self._trace.thinking_to, closing=True, holds=self._holds(True), resolved=True))

    def _holds(self, closing: bool) -> bool:
        policy = self._settings.policy
        if not policy.acts or not self._judge.available:
            return False
        return not closing or policy.accept is not None or self._outcome.nudges < policy.nudge

    def _cut_off(self) -> None:
        """The thinking has no more room."""
        if self._settings.policy.accept is not None:
            self._close_gate()  # what was cut off is judged before it is answered from
        self._end(StopCause.BUDGET)

    def _end(self, cause: StopCause) -> None:
        """The thinking's stream is over without a close; an answer follows once the gates before are passed."""
        self._stage = _Stage.ENDED
        self._gates.append(Gate(len(self._trace), forced=cause, resolved=True))

    async def _pass_gates(self) -> None:
        """Act on every gate whose verdict can be given, in order."""
        while self._gates and self._gates[0].resolved:
            gate = self._gates.popleft()
            if gate.forced is not None:
                await self._settle(gate.end, gate.forced)
                return
            if gate.step_tokens:
                self._scores.append(gate.score)
            decision = self._decide(gate)
            closes = decision.verdict is Verdict.STOP and self._closes_at(gate.end)
            if closes:
                decision = Decision(Verdict.CONTINUE)  # the Reasoner stopped at this very boundary by itself
            if gate.step_tokens:
                self._report(gate, decision)
            if not self._settings.policy.acts:
                decision = Decision(Verdict.CONTINUE)
            elif closes:
                gate = self._gates.popleft()  # and would have been stopped: its close is not refused
            if decision.verdict is Verdict.STOP and decision.cause is not None:
                await self._answer(gate.end, decision.cause)
                return
            if decision.verdict is Verdict.RETHINK:
                await self._reject(gate.end)
                return
            if decision.verdict is Verdict.NUDGE:
                await self._nudge(gate.end)
            elif gate.closing and self._stage is _Stage.CLOSED:
                await self._accept_close()

    def _closes_at(self, end: int) -> bool:
        return (
            bool(self._gates)
            and self._gates[0].closing
            and not self._gates[0].step_tokens
            and (self._gates[0].end == end)
        )

    def _decide(self, gate: Gate) -> Decision:
        if not self._scores:
            return Decision(Verdict.CONTINUE)
        policy = self._settings.policy
        nudges = self._outcome.nudges if self._may_nudge(gate.end) else policy.nudge
        return decide(policy, self._scores, closing=gate.closing, nudges=nudges)

    def _may_nudge(self, end: int) -> bool:
        """Whether there is room for the cue and some thinking behind `end`."""
        return self._allowance.may_think(end, 1 + len(self._settings.nudge_cue_ids))

    def _report(self, gate: Gate, decision: Decision) -> None:
        report = StepReport(
            index=len(self._scores) - 1,
            tokens=gate.step_tokens,
            p_now=None if gate.score is None else gate.score.p_now,
            p_later=None if gate.score is None else gate.score.p_later,
            verdict=decision.verdict,
            ms=gate.ms,
            late=gate.late,
            attempt=self._attempt,
        )
        self._outcome.steps.append(report)
        self._events.append(report)

    # Verdicts ----------------------------------------------------------------------------------------------

    async def _cut(self, end: int) -> None:
        """End the stream and drop everything behind `end`."""
        await self._close_stream()
        for gate in self._gates:
            gate.release()
        self._gates.clear()
        self._unjudged = Unjudged()
        self._outcome.discarded_tokens += self._trace.cut(end)
        self._finish = None

    async def _settle(self, end: int, cause: StopCause) -> None:
        """There will be no more thinking: answer, or reject what there is."""
        policy = self._settings.policy
        if policy.acts and rejects(policy, self._scores):
            await self._reject(end)
        else:
            await self._answer(end, cause)

    async def _reject(self, end: int) -> None:
        await self._cut(end)
        self._rejected = self._scores[-1]

    async def _answer(self, end: int, cause: StopCause) -> None:
        await self._cut(end)
        self._outcome.stop_cause, self._rejected = cause, None
        await self._accept()
        self._inject(self._form.close_ids, self._form.close_text)
        self._open_stream(Phase.ANSWER)

    async def _nudge(self, end: int) -> None:
        await self._cut(end)
        if not self._may_nudge(end):  # what came while the stream was being ended has used the room up
            await self._settle(end, StopCause.BUDGET)
            return
        self._outcome.nudges += 1
        self._stage = _Stage.THINKING
        for position, token_id in enumerate(self._settings.nudge_cue_ids):
            self._inject([token_id], self._settings.nudge_cue if position == 0 else "")
            self._think()
        self._open_stream(Phase.THINK)

    async def _accept_close(self) -> None:
        """The natural close stands: the answer goes on in the same stream, or in its own where that is needed."""
        await self._accept()
        if self._settings.separate_answer:
            await self._cut(self._trace.thinking_to + len(self._form.close_ids) if self._trace.started else 0)
            self._open_stream(Phase.ANSWER)

    async def _accept(self) -> None:
        """The thinking is over and stands."""
        if self._stage is _Stage.ANSWERING:
            return
        self._stage = _Stage.ANSWERING
        self._events.append(Accepted())
        if self._on_accept is not None:
            await self._on_accept()

    def _count_up(self) -> None:
        outcome = self._outcome
        outcome.thinking_tokens = self._trace.thinking_to - self._trace.thinking_from
        outcome.late, outcome.failed = self._judge.late, self._judge.failed
        outcome.probe_tokens = 0 if self._probe is None else self._probe.tokens

    def _finished(self, finish_reason: str, stop_reason: int | str | None) -> Finished:
        self._count_up()
        outcome = self._outcome
        if self._judge.lost and outcome.stop_cause is StopCause.NATURAL:
            outcome.stop_cause = StopCause.DM_UNAVAILABLE
        return Finished(outcome, finish_reason, stop_reason)

"""The loop: think in steps, score every boundary beside the stream, stop when thinking no longer pays.

One uninterrupted engine request carries the thinking. The intake finds steps and markers in its tokens; every closed
step becomes a pending boundary: tokens behind it are held back until its verdict is in or its deadline has passed, so
that a client never sees a token that the final context does not hold. A stop aborts the stream, cuts back to the
boundary, closes the thinking with its exact token ids and asks for the answer in a new request, which the engine's
prefix cache makes cheap. The thinking's request may not generate what is kept free for the answer; a natural answer
that gets that far goes on in another request, and so does thinking that was allowed only its share, where others have
left it theirs.

What is decided depends on token positions only, as long as verdicts keep their deadline: a boundary is passed when the
token behind it is known (the Reasoner may close its thinking right there), and limits count what is kept.

A scorer that is late, failing or dead never fails a request: without a score the verdict is to continue. This module
drives engine requests; it neither finds steps (`intake`) nor judges them (`pending`, `policy`).
"""

import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace

from drr.loop.formats import Part, ReasoningFormat, TurnStart, TurnState
from drr.loop.intake import Intake, IntakeEvent, NoThinking, StepClosed, ThinkingClosed, ThinkingOpened
from drr.loop.judging import Judge, PendingBoundary
from drr.loop.onlookers import JUDGED, Passed, Progress, Watch, WouldStop
from drr.loop.pending import PendingBoundaries
from drr.loop.policy import Decision, Score, StopCause, Verdict, limit
from drr.loop.probing import Probe
from drr.loop.pumps import Ended
from drr.loop.race import Racer
from drr.loop.reasoner import Delta, Phase, Reasoner, Token
from drr.loop.requests import EngineRequests, Message
from drr.loop.response import (
    Accepted,
    AttemptOutput,
    Emit,
    Event,
    Finished,
    LoopSettings,
    Outcome,
    Rejected,
    Spent,
    Used,
)
from drr.loop.scoring import Scorer
from drr.loop.stages import TRANSITIONS, Move, Stage
from drr.loop.stated import states_value
from drr.loop.steps import StepRule

_LENGTH: tuple[str, int | str | None] = ("length", None)

_BLANK = 2
"""Tokens of the request that brings the blank before an answer: the blank's own, as a rule, and the first word's, which
is thrown away."""


class ThinkingLoop:
    """One attempt at a response. Iterate `run()` to its end, or close it: either way every engine request is freed."""

    def __init__(
        self,
        reasoner: Reasoner,
        scorer: Scorer | None,
        form: ReasoningFormat,
        rule: StepRule,
        settings: LoopSettings,
        prompt_ids: Sequence[int],
        question: str,
        *,
        others: Spent | None = None,
        attempt: int = 0,
        probe: Probe | None = None,
        start: TurnStart | None = None,
        doubt: Callable[[str], float] | None = None,
        watch: Watch | None = None,
    ) -> None:
        """This is `attempt` number so many of a response, and `others` what its other attempts have used up. `probe`
        is for scorers that ask the Reasoner. `start` is where the prompt leaves off, where the caller knows better than
        the format can tell. `doubt` tells of a text of thinking how likely it is that all other attempts with its
        answer are wrong. `watch` is told of every judged boundary."""
        self._form, self._settings = form, settings
        self._probe, self._watch = probe, watch
        if watch is not None:
            watch.begin(question)
        self._racer: Racer | None = None
        self._outcome = Outcome()
        self._start = start or form.start(prompt_ids)
        self._intake = Intake(form, rule, prompt_ids, self._start)
        self._trace = self._intake.trace
        self._requests = EngineRequests(
            reasoner,
            settings,
            prompt_ids,
            self._trace,
            self._outcome,
            others or Spent(),
            marker_tokens=len(form.close_ids),
        )
        self._mailbox = self._requests.mailbox
        self._judge = Judge(scorer, question, settings.deadline, self._mailbox.put_nowait, probe, settings.cache_salt)
        if self._judge.reads_states and probe is not None:  # it asks only where no token tells, and for one each time
            self._requests.probed = lambda: probe.tokens
        self._pending = PendingBoundaries(self._judge, settings, self._intake, attempt, doubt)
        self._stage = Stage.UNDECIDED
        self._before_answer = False
        self._out_of_room = False
        """Whether the thinking's request has generated all that it was allowed."""
        self._rejected: Score | None = None
        self._closed_itself: bool | None = None
        """Whether the Reasoner itself ended the thinking that stands, or was rejected; None while that is open."""
        self._finish: tuple[str, int | str | None] | None = None
        self._events: deque[Event] = deque()

    @property
    def outcome(self) -> Outcome:
        """The account so far."""
        self._count_up()
        return self._outcome

    @property
    def last_score(self) -> Score | None:
        """The newest score there is."""
        return self._pending.newest_score

    @property
    def used(self) -> Used:
        """How far it has come."""
        return self._requests.used()

    @property
    def thinking(self) -> tuple[Token, ...]:
        """What has been thought and kept, the opening marker included where the Reasoner made it."""
        return self._trace.thinking

    @property
    def outputs(self) -> list[AttemptOutput]:
        """What is kept of its output, as that of a response with one attempt."""
        trace = self._trace
        closed = self._stage is Stage.CLOSED if self._closed_itself is None else self._closed_itself
        output = AttemptOutput(tuple(trace.tokens), trace.thinking_from, trace.thinking_to, closed and trace.started)
        return [output]

    def enter(self, racer: Racer) -> None:
        """Run beside other attempts, and answer only if this one wins. To be called before `run`."""
        self._racer = racer
        self._requests.share_room(racer.share)

    async def run(self) -> AsyncGenerator[Event, None]:
        """The attempt's events, in order; the last one is Finished, or Rejected. Engine errors are raised as they
        came."""
        async with contextlib.aclosing(self._drive(self._begin())) as events:
            async for event in events:
                yield event

    async def answer(self, cause: StopCause) -> AsyncGenerator[Event, None]:
        """Answer from the thinking of a rejected attempt after all; the last event is Finished."""
        async with contextlib.aclosing(self._drive(self._answer_after_all(cause))) as events:
            async for event in events:
                yield event

    async def stopped(self, stop: WouldStop) -> AsyncGenerator[Event, None]:
        """What an attempt would have put out that had been stopped there: its thinking, which is not generated again,
        and the answer. Instead of `run`; the last event is Finished, with the account of all of it."""
        async with contextlib.aclosing(self._drive(self._stop_at(stop))) as events:
            async for event in events:
                yield event

    async def _drive(self, start: Awaitable[None]) -> AsyncGenerator[Event, None]:
        try:
            await start
            while True:
                await self._pass_boundaries()
                if self._racer is not None:
                    self._racer.passed(self._decided_to())
                self._release()
                while self._events:
                    yield self._events.popleft()
                if self._rejected is not None:
                    self._count_up()
                    yield Rejected(self._rejected)
                    return
                if self._out_of_room and not self._pending:
                    self._out_of_room = False
                    if not await self._go_on():
                        self._cut_off()
                    continue
                if self._finish is not None and not self._pending:
                    if self._finish == _LENGTH and await self._answer_goes_on():
                        continue
                    self._release_rest()
                    while self._events:
                        yield self._events.popleft()
                    yield self._finished(*self._finish)
                    return
                await self._receive(await self._mailbox.get())
        finally:
            self._pending.clear()
            await self._requests.close()

    async def _begin(self) -> None:
        state = self._start.state
        if state is TurnState.CLOSED:
            self._outcome.stop_cause = StopCause.NO_THINKING
            self._move(Move.ACCEPT)
            self._trace.end_thinking(0)
            self._open_answer()
            return
        if state is TurnState.OPEN:
            self._begin_thinking()
        if self._has_room():
            self._open_stream(Phase.THINK)
            return
        self._move(Move.END)
        self._pending.force(len(self._trace), self._limit())

    async def _stop_at(self, stop: WouldStop) -> None:
        if self._start.state is TurnState.OPEN:
            self._begin_thinking()
        for token in stop.thought:
            if token.injected:
                self._inject([token.id], token.text, Part.THINKING)
                self._happened(self._intake.think())
            else:
                self._take_token(token)
        self._requests.resume(stop.progress)
        await self._answer(len(self._trace), stop.cause, stop.last_step)

    def _begin_thinking(self) -> None:
        self._move(Move.OPEN)
        self._intake.begin_thinking()

    def _move(self, move: Move) -> None:
        self._stage = TRANSITIONS[self._stage][move]

    def _has_room(self) -> bool:
        """Whether another thinking token may be generated."""
        return self._requests.forbidden_by() is None

    def _limit(self) -> StopCause:
        """What ends thinking that may not go on; the engine itself has no limit but the model's context."""
        return self._requests.forbidden_by() or StopCause.CONTEXT_LENGTH

    def _decided_to(self) -> int:
        """The position before which nothing is left to decide."""
        waiting = self._pending.first
        end = self._intake.undecided_from if self._stage is Stage.THINKING else len(self._trace)
        return end if waiting is None else min(end, waiting.end)

    # Streams -----------------------------------------------------------------------------------------------

    def _open_stream(self, phase: Phase) -> None:
        form = self._form
        markers = 1 if form.turn_holds_answer else len(form.close_ids)
        if self._stage is Stage.UNDECIDED:
            markers += max(1, len(form.open_ids))
        answering = self._stage is Stage.ANSWERING
        most = _BLANK if self._before_answer else None
        if not self._requests.open(phase, answering=answering, markers=markers, most=most):
            self._finish = _LENGTH

    def _open_answer(self) -> None:
        """Ask for the answer. Where a stop text could match the blank before its first word, that comes in a request of
        its own, which knows no stop texts, unless that would leave no room for words."""
        self._before_answer = self._settings.blank_before_answer and self._requests.room > 2 * _BLANK
        self._open_stream(Phase.THINK if self._before_answer else Phase.ANSWER)

    async def _go_on(self) -> bool:
        """Go on exactly where the thinking's request ended, if it had generated all that it was allowed and more may be
        generated by now; False where not."""
        if not self._requests.may_be_continued:
            return False
        await self._requests.close()
        if self._stage is Stage.THINKING and self._racer is not None and not self._has_room():
            await self._racer.more(self.used)
        room = self._has_room() if self._stage is Stage.THINKING else self._requests.room > 0
        if room and self._before_answer:
            self._open_answer()
        elif room:
            self._open_stream(Phase.THINK)
        return room

    async def _answer_goes_on(self) -> bool:
        """Whether there is more to come of an answer whose request ended for want of room."""
        if self._stage is Stage.THINKING:
            self._outcome.stop_cause = StopCause.MAX_TOKENS
            return False  # there is none, nor was any room kept for one
        if self._stage is Stage.CLOSED:
            self._closed_itself = True
        await self._accept()
        goes_on = await self._go_on()
        if goes_on:
            self._finish = None
        return goes_on

    # Tokens ------------------------------------------------------------------------------------------------

    async def _receive(self, message: Message) -> None:
        if isinstance(message, PendingBoundary):
            self._judge.resolve(message)
        elif isinstance(message, Ended):
            if message.error is not None:
                raise message.error
        elif self._stage is Stage.ANSWERING:
            await self._take_answer(message)
        else:
            await self._take_thinking(message)

    async def _take_answer(self, delta: Delta) -> None:
        if self._before_answer:
            words = [place for place, token in enumerate(delta.tokens) if token.text.strip()]
            if words:
                self._before_answer = False
                blank = delta.tokens[: words[0]]
                self._requests.count(len(blank))
                self._trace.tokens.extend(blank)
                self._requests.set_aside(of_answer=True)
                await self._give_up_rest(len(delta.tokens) - words[0])
                self._open_stream(Phase.ANSWER)
                return
        self._requests.count(len(delta.tokens))
        self._release()  # whatever the thinking left goes first
        if delta.tokens or delta.text:
            self._trace.add_released(delta.tokens)
            self._events.append(Emit(delta.tokens, delta.text))
        if delta.finish_reason is not None:
            self._finish = (delta.finish_reason, delta.stop_reason)

    async def _take_thinking(self, delta: Delta) -> None:
        for position, token in enumerate(delta.tokens):
            if self._judge.reads_states and self._stage is not Stage.CLOSED:
                self._pending.hear(len(self._trace), token.states)
            if self._finish is not None or (self._stage is Stage.CLOSED and self._settings.separate_answer):
                await self._give_up_rest(len(delta.tokens) - position)
                return
            if self._stage is Stage.CLOSED:
                self._trace.tokens.append(token)
            elif token is delta.tokens[-1] and delta.finish_reason == "stop" and self._ends_without_answer(delta):
                self._end_turn(token, delta)
            elif not self._take_token(token):
                await self._give_up_rest(len(delta.tokens) - position)
                self._cut_off()
                return
            self._requests.count(1)
        if delta.finish_reason is not None:
            await self._stream_finished(delta)

    async def _stream_finished(self, delta: Delta) -> None:
        """The thinking's request has come to its end."""
        assert delta.finish_reason is not None
        if self._stage is Stage.UNDECIDED and delta.finish_reason == "length":
            await self._requests.close()
            self._open_stream(Phase.THINK)
        elif not self._ends_without_answer(delta):
            self._finish = self._finish or (delta.finish_reason, delta.stop_reason)
        elif delta.finish_reason != "length":
            self._pending.close(nudges=self._outcome.nudges)
            self._move(Move.END)
            self._pending.force(len(self._trace), StopCause.NATURAL)
        else:
            self._out_of_room = True
        self._pending.hear_no_more()

    def _ends_without_answer(self, delta: Delta) -> bool:
        """Whether this delta ends the thinking's stream too soon: an answer has to follow in another."""
        ended = delta.finish_reason not in (None, "abort", "error")
        if not ended or self._stage is not Stage.THINKING:
            return False
        holds_answer = self._form.turn_holds_answer and delta.finish_reason == "stop"
        return holds_answer or self._settings.answer_tokens > 0

    def _end_turn(self, token: Token, delta: Delta) -> None:
        """The Reasoner ended its turn in the middle of its thinking."""
        if not self._form.turn_holds_answer:
            self._outcome.discarded_tokens += 1  # the turn goes on with an answer
            return
        self._trace.tokens.append(token)
        self._intake.end_turn()
        self._move(Move.CLOSE)
        self._pending.close(nudges=self._outcome.nudges)
        self._finish = ("stop", delta.stop_reason)

    async def _give_up_rest(self, tokens: int) -> None:
        """End the stream in the middle of a delta, whose last `tokens` tokens are of no use."""
        self._requests.discard(tokens)
        await self._requests.close()

    def _take_token(self, token: Token) -> bool:
        """Add one token of the thinking request; False if the thinking has no room for it."""
        if self._stage is Stage.UNDECIDED:
            return self._happened(self._intake.take_first(token))
        return self._happened(self._intake.take(token, has_room=self._requests.may_think()))

    def _happened(self, event: IntakeEvent | bool | None) -> bool:
        """Follow what the intake found; False where it had no room."""
        match event:
            case ThinkingOpened():
                self._move(Move.OPEN)
            case NoThinking():
                self._outcome.stop_cause = StopCause.NO_THINKING
                self._move(Move.SKIP)
                self._pending.pass_unjudged(0)
            case StepClosed(step):
                self._pending.add(step, nudges=self._outcome.nudges)
            case ThinkingClosed(stop, tool_call):
                self._move(Move.CLOSE)
                self._pending.close(nudges=self._outcome.nudges)
                if tool_call:
                    self._outcome.stop_cause = StopCause.TOOL_CALL
                if stop is not None:
                    self._outcome.stop_cause = StopCause.STOP_STRING
                    self._finish = ("stop", stop)
            case False:
                return False
        return True

    def _inject(self, ids: Sequence[int], text: str, part: Part) -> None:
        """Put tokens into the output that the Reasoner did not generate."""
        self._trace.inject(ids, text, part)
        self._outcome.injected_tokens += len(ids)

    def _release(self) -> None:
        """Emit every token that no boundary holds."""
        limit = self._pending.release_limit()
        if limit is None:
            limit = len(self._trace)
        if self._stage is Stage.UNDECIDED:
            return
        if self._stage is Stage.THINKING:
            limit = min(limit, self._intake.undecided_from)
        self._events.extend(self._trace.release(limit))

    def _release_rest(self) -> None:
        """Emit what was held back because more might have come."""
        if not self._trace.started and self._trace.answer_from is None:
            self._trace.end_thinking(0, answer_from=0)  # whatever it was, it was no thinking
        self._events.extend(self._trace.release(len(self._trace)))

    # Boundaries --------------------------------------------------------------------------------------------

    def _cut_off(self) -> None:
        """The thinking has no more room."""
        if self._settings.policy.accept is not None:
            self._pending.close(nudges=self._outcome.nudges)  # what was cut off is judged before it is answered from
        self._pending.hear_no_more()
        cause = self._limit()
        self._move(Move.END)
        self._pending.force(self._intake.settled_end, cause)  # half a marker is no thinking

    async def _pass_boundaries(self) -> None:
        """Act on every boundary whose verdict can be given, in order."""
        while self._passable() and (pending := self._pending.next_resolved()) is not None:
            if pending.forced is not None:
                await self._settle(pending.end, pending.forced)
                return
            decision = self._pending.decide(pending, self._nudges_at(pending.end))
            closes_here = None
            if decision.verdict is Verdict.STOP:
                closes_here = self._pending.take_close_at(pending.end)
            if closes_here is not None:
                decision = Decision(Verdict.CONTINUE)  # the Reasoner stopped at this very boundary by itself
            if pending.step_tokens:
                self._report(pending, decision)
                self._tell_watch(pending, decision)
            if not self._settings.policy.acts:
                ends = closes_here is not None or pending.closing
                decision = limit(self._settings.policy, 0 if ends else len(self._pending.scores))
            elif closes_here is not None:
                pending = self._pending.drop_first()  # and would have been stopped: its close is not refused
            elif decision.cause in JUDGED and not self._settings.policy.stops:
                decision = limit(self._settings.policy, len(self._pending.scores))
            if await self._follow(pending, decision):
                return

    def _tell_watch(self, pending: PendingBoundary, decision: Decision) -> None:
        if self._watch is None or pending.boundary is None:
            return
        policy, tokens, end = self._settings.policy, self._trace.tokens, pending.end
        closes = pending.closing or self._pending.take_close_at(end) is not None
        limited = limit(policy, len(self._pending.scores)).verdict is Verdict.STOP
        passed = Passed(
            pending.boundary,
            decision,
            pending.score,
            states=tokens[end].states if end < len(tokens) else None,
            ends=closes or limited,
            thought=lambda: tokens[:end],
            progress=self._progress,
        )
        self._watch.boundary(passed, policy)

    def _progress(self) -> Progress:
        progress = self._requests.progress()
        return progress if self._probe is None else replace(progress, probed=self._probe.tokens)

    def _passable(self) -> bool:
        """Whether what follows the first boundary is known: a close there by the Reasoner itself is no stop."""
        first = self._pending.first
        running = self._stage is Stage.THINKING and self._finish is None and not self._out_of_room
        return first is None or not running or self._intake.settled_end > first.end

    async def _follow(self, pending: PendingBoundary, decision: Decision) -> bool:
        """Act on a verdict; whether it ended the thinking."""
        if decision.verdict is Verdict.STOP and decision.cause is not None:
            await self._answer(pending.end, decision.cause, pending.text)
            return True
        if decision.verdict is Verdict.RETHINK:
            await self._reject(pending.end)
            return True
        if decision.verdict is Verdict.NUDGE:
            await self._nudge(pending.end)
        elif pending.closing and self._stage is Stage.CLOSED:
            await self._accept_close()
        return False

    def _nudges_at(self, end: int) -> int:
        """How many closes have been refused; all that may be, where there is no room to go on behind `end`."""
        return self._outcome.nudges if self._may_nudge(end) else self._settings.policy.nudge

    def _may_nudge(self, end: int) -> bool:
        """Whether there is room for the cue and some thinking behind `end`."""
        return self._requests.forbidden_by(self._nudge_tokens, cut_at=end) is None

    @property
    def _nudge_tokens(self) -> int:
        return 1 + len(self._settings.nudge_cue_ids)

    def _report(self, pending: PendingBoundary, decision: Decision) -> None:
        report = self._pending.report(pending, decision)
        self._outcome.steps.append(report)
        self._events.append(report)

    # Verdicts ----------------------------------------------------------------------------------------------

    async def _cut(self, end: int) -> None:
        """End the stream and drop everything behind `end`."""
        self._requests.set_aside()
        await self._requests.close()
        self._pending.clear()
        self._outcome.discarded_tokens += self._trace.cut(end)
        self._finish, self._out_of_room = None, False

    async def _settle(self, end: int, cause: StopCause) -> None:
        """There will be no more thinking: answer, or reject what there is."""
        if self._pending.rejects(end):
            await self._reject(end)
        else:
            await self._answer(end, cause)

    async def _reject(self, end: int) -> None:
        self._closed_itself = self._stage is Stage.CLOSED and end >= self._trace.thinking_to
        ended = self._finish is not None and self._stage is Stage.CLOSED and end >= self._trace.thinking_to
        if ended and self._form.turn_holds_answer:
            await self._requests.close()  # the whole turn is there, its answer included: it may be needed yet
            self._pending.clear()
        else:
            await self._cut(end)
        self._rejected = self._pending.scores[-1]
        self._move(Move.REJECT)

    async def _answer(self, end: int, cause: StopCause, last_step: str = "") -> None:
        self._closed_itself = cause is StopCause.NATURAL
        await self._cut(end)
        if self._form.turn_holds_answer and states_value(last_step):
            self._outcome.stop_cause = cause
            await self._accept()
            self._trace.end_thinking(self._trace.thinking_to)
            self._finish = ("stop", None)  # the chain has said its answer: nothing has to be asked for
            return
        await self._answer_here(cause)

    async def _answer_after_all(self, cause: StopCause) -> None:
        """Answer from a rejected attempt: with what its turn held already, or else from its thinking."""
        self._rejected = self._racer = None
        if self._finish is not None:
            self._outcome.stop_cause = cause
            await self._accept()
            return
        await self._answer_here(cause)

    async def _answer_here(self, cause: StopCause) -> None:
        self._outcome.stop_cause, self._requests.cut = cause, cause is not StopCause.NATURAL
        thought = self._trace.started
        await self._accept()
        form, trace = self._form, self._trace
        ids, text = form.skip_ids, form.close_text
        if thought or not ids:
            trace.end_thinking(trace.thinking_to)
            ids, text = form.close_behind(trace.context(len(trace)))
        self._inject(ids, text, form.close_part)
        self._open_answer()

    async def _nudge(self, end: int) -> None:
        await self._cut(end)
        forbidden_by = self._requests.forbidden_by(self._nudge_tokens)
        if forbidden_by is not None:  # more came before the verdict than is set aside for that
            await self._settle(end, forbidden_by)
            return
        self._outcome.nudges += 1
        self._outcome.stop_cause = StopCause.NATURAL
        self._move(Move.NUDGE)
        self._intake.go_on_thinking()
        for position, token_id in enumerate(self._settings.nudge_cue_ids):
            self._pending.hear(len(self._trace), None)  # nobody generates this token
            self._inject([token_id], self._settings.nudge_cue if position == 0 else "", Part.THINKING)
            self._happened(self._intake.think())
        self._open_stream(Phase.THINK)

    async def _accept_close(self) -> None:
        """The natural close stands: the answer goes on in the same stream, or in its own where that is needed."""
        self._closed_itself = True
        await self._accept()
        if self._settings.separate_answer and self._finish is None:
            answer_from = self._trace.answer_from
            await self._cut(answer_from if self._trace.started and answer_from is not None else 0)
            self._open_answer()

    async def _accept(self) -> None:
        """The thinking is over and stands."""
        if self._stage is Stage.ANSWERING:
            return
        self._move(Move.ACCEPT)
        self._events.append(Accepted())
        if self._racer is not None:
            await self._racer.stands(self._trace.thinking_to)

    def _count_up(self) -> None:
        outcome, trace = self._outcome, self._trace
        outcome.thinking_tokens = trace.used().thought
        outcome.late, outcome.failed = self._judge.late, self._judge.failed
        late_from = self._pending.late_from
        outcome.late_tokens = 0 if late_from is None else max(0, trace.thinking_to - late_from)
        outcome.probe_tokens = 0 if self._probe is None else self._probe.tokens

    def _finished(self, finish_reason: str, stop_reason: int | str | None) -> Finished:
        self._count_up()
        outcome = self._outcome
        if self._judge.lost and outcome.stop_cause is StopCause.NATURAL:
            outcome.stop_cause = StopCause.JUDGE_UNAVAILABLE
        return Finished(outcome, finish_reason, stop_reason)

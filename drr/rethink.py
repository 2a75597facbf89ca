"""Attempts at one response: an attempt that the scorer rejects is thrown away and another one made.

A rejected attempt costs its thinking and no answer. The attempts share one account of tokens, so that every limit of
the response holds across them. Where none is accepted, the best one answers after all, or the last, or nobody does.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from drr.policy import StopCause
from drr.probing import Probe
from drr.reasoner import Reasoner, ThinkingFormat, Token, injected
from drr.response import (
    LEAST_THINKING,
    Accepted,
    AttemptReport,
    Emit,
    Event,
    Fate,
    Finished,
    LoopSettings,
    Outcome,
    Rejected,
    Spent,
    StepReport,
)
from drr.scorers import Scorer
from drr.steps import StepRule
from drr.thinking import ThinkingLoop

Kind = Literal["fresh", "in_context"]
OnExhausted = Literal["best", "last", "abstain"]

RETHINK_CUE = "\n\nWait, that is not right. Let me start again.\n\n"
"""What stands between a rejected attempt and one made in its context."""


@dataclass(frozen=True, slots=True)
class RethinkSettings:
    """How often and how to think again.

    `fresh` attempts begin from the prompt; those `in_context` go on behind the rejected attempt and `cue`. `parallel`
    attempts run at a time, and the first that is accepted wins. `separator` is shown between attempts that know
    nothing of each other, `refusal` where all were rejected and nobody answers.
    """

    max_rethinks: int = 0
    kind: Kind = "fresh"
    on_exhausted: OnExhausted = "best"
    parallel: int = 1
    cue: tuple[Token, ...] = ()
    separator: tuple[Token, ...] = ()
    refusal: tuple[Token, ...] = ()


@dataclass(slots=True, eq=False)
class _Attempt:
    loop: ThinkingLoop
    behind: "_Attempt | None"
    """The attempt whose thinking is part of this one's context."""
    fate: Fate = Fate.ABANDONED
    unshown: list[Emit] = field(default_factory=list)

    @property
    def p_now(self) -> float | None:
        score = self.loop.last_score
        return None if score is None else score.p_now

    @property
    def line(self) -> list["_Attempt"]:
        """This attempt and those in its context, oldest first."""
        return [*(self.behind.line if self.behind is not None else ()), self]


class RethinkLoop:
    """One response. Iterate `run()` to its end, or close it: either way every engine request is freed."""

    def __init__(
        self,
        make_reasoner: Callable[[int], tuple[Reasoner, Probe | None]],
        scorer: Scorer | None,
        form: ThinkingFormat,
        rule: StepRule,
        settings: LoopSettings,
        rethink: RethinkSettings,
        prompt_ids: Sequence[int],
        question: str,
    ) -> None:
        """`make_reasoner` gives attempt number i (from 0) a Reasoner of its own, with noise of its own, and a probe for
        scorers that need one."""
        self._make_reasoner, self._scorer, self._form, self._rule = make_reasoner, scorer, form, rule
        self._settings, self._rethink = settings, rethink
        self._prompt_ids, self._question = list(prompt_ids), question
        self._spent = Spent()
        self._attempts: list[_Attempt] = []
        self._racing: dict[int, asyncio.Task[None]] = {}
        self._winner: int | None = None
        self._steps: list[StepReport] = []
        self._injected = 0

    async def run(self) -> AsyncGenerator[Event, None]:
        """The response's events, in order; the last one is Finished. Engine errors are raised as they came."""
        while True:
            wave = self._next_wave()
            async with contextlib.aclosing(self._race(wave)) as events:
                async for attempt, event in events:
                    if isinstance(event, Finished):
                        yield self._finished(attempt, event)
                        return
                    if isinstance(event, StepReport):
                        self._steps.append(event)
                    yield event
            if not self._may_go_on():
                break
            shown = self._rethink.cue if self._rethink.kind == "in_context" else self._rethink.separator
            if shown and len(wave) == 1:
                yield self._inserted(shown)
        if self._rethink.on_exhausted == "abstain":
            for event in self._abstention():
                yield event
            return
        chosen = self._attempts[-1] if self._rethink.on_exhausted == "last" else max(self._attempts, key=_belief)
        for emit in chosen.unshown:
            yield emit
        async with contextlib.aclosing(chosen.loop.answer(StopCause.RETHINK_LIMIT)) as answer:
            async for event in answer:
                if isinstance(event, Finished):
                    chosen.fate = Fate.ACCEPTED
                    yield self._finished(chosen, event)
                elif not isinstance(event, Accepted):
                    yield event

    # Attempts ----------------------------------------------------------------------------------------------

    def _next_wave(self) -> list[_Attempt]:
        behind, first = self._behind(), len(self._attempts)
        left = 1 + self._rethink.max_rethinks - first
        worth_sharing = max(1, (self._settings.thinking_room - self._spent.generated) // LEAST_THINKING)
        thinks = self._form.starts_open(self._context(behind)) is not False  # else there is nothing to judge
        size = min(left, self._rethink.parallel if thinks else 1, worth_sharing)
        wave = [self._attempt(first + place, behind, sharing=size - place) for place in range(size)]
        self._attempts += wave
        return wave

    def _attempt(self, number: int, behind: _Attempt | None, sharing: int) -> _Attempt:
        context = self._context(behind)
        policy = self._settings.policy
        if policy.max_steps is not None:
            policy = replace(policy, max_steps=max(1, policy.max_steps - len(self._steps)))
        reasoner, probe = self._make_reasoner(number)
        loop = ThinkingLoop(
            reasoner,
            self._scorer,
            self._form,
            self._rule,
            replace(self._settings, policy=policy),
            context,
            self._question,
            spent=self._spent,
            attempt=number,
            sharing=sharing,
            on_accept=lambda: self._win(number),
            probe=probe,
        )
        return _Attempt(loop, behind)

    def _behind(self) -> _Attempt | None:
        """The attempt that the next one is made in the context of."""
        return self._attempts[-1] if self._attempts and self._rethink.kind == "in_context" else None

    def _context(self, behind: _Attempt | None) -> list[int]:
        context = list(self._prompt_ids)
        for earlier in behind.line if behind is not None else ():
            context += [token.id for token in (*earlier.loop.thinking, *self._rethink.cue)]
        return context

    def _may_go_on(self) -> bool:
        """Whether another attempt is allowed and has room for some thinking."""
        settings, spent = self._settings, self._spent
        limit, most_steps = settings.max_thinking_tokens, settings.policy.max_steps
        room = settings.attempt_room(len(self._context(self._behind())))
        return (
            room != 0
            and len(self._attempts) <= self._rethink.max_rethinks
            and spent.generated + LEAST_THINKING <= settings.thinking_room
            and (limit is None or spent.thought + LEAST_THINKING <= limit)
            and (most_steps is None or len(self._steps) < most_steps)
        )

    async def _race(self, wave: Sequence[_Attempt]) -> AsyncGenerator[tuple[_Attempt, Event], None]:
        """The attempts' events until one finishes or all are rejected. Several run at once; what they think is kept
        back until one is accepted, and then the others end."""
        self._winner = None
        if len(wave) == 1:
            (attempt,) = wave
            async with contextlib.aclosing(attempt.loop.run()) as events:
                async for event in events:
                    if _settles(attempt, event):
                        yield attempt, event
            return
        queue: asyncio.Queue[tuple[_Attempt, Event | Exception]] = asyncio.Queue()
        first = len(self._attempts) - len(wave)
        tasks = [asyncio.create_task(_pump(attempt, queue)) for attempt in wave]
        self._racing = dict(enumerate(tasks, first))
        running, winner = len(wave), None
        try:
            while running:
                attempt, item = await queue.get()
                if winner not in (None, attempt):
                    continue
                if isinstance(item, Exception):
                    raise item
                event = item
                if winner is None and isinstance(event, Accepted | Finished):
                    winner = attempt
                    for emit in winner.unshown:
                        yield winner, emit
                if winner is None and isinstance(event, Emit):
                    attempt.unshown.append(event)
                elif _settles(attempt, event):
                    yield attempt, event
                running -= isinstance(event, Rejected | Finished)
        finally:
            self._racing = {}
            await _end(tasks)

    async def _win(self, number: int) -> None:
        """End the attempts that run beside this one before it answers: its answer may use what they were allowed."""
        if self._winner is None:
            self._winner = number
            await _end([task for other, task in self._racing.items() if other != number])
        elif self._winner != number:
            await asyncio.Event().wait()  # the winner is about to end this one

    # The end -----------------------------------------------------------------------------------------------

    def _inserted(self, tokens: tuple[Token, ...]) -> Emit:
        """Output that no attempt generated."""
        self._injected += len(tokens)
        return Emit(tokens, "".join(token.text for token in tokens))

    def _abstention(self) -> list[Event]:
        closing = injected(self._form.close_ids, self._form.close_text)
        outcome = self._total([])
        outcome.stop_cause = StopCause.ABSTAINED
        emits = [self._inserted(closing), self._inserted(self._rethink.refusal)]
        outcome.injected_tokens += len(closing) + len(self._rethink.refusal)
        return [*emits, Finished(outcome, "stop", None)]

    def _finished(self, answered: _Attempt, event: Finished) -> Finished:
        outcome = self._total(answered.line)
        outcome.stop_cause = event.outcome.stop_cause
        return Finished(outcome, event.finish_reason, event.stop_reason)

    def _total(self, kept: Sequence[_Attempt]) -> Outcome:
        """The account of all attempts; those in `kept` are what the answer rests on."""
        total = Outcome(steps=self._steps, injected_tokens=self._injected)
        for attempt in self._attempts:
            own = attempt.loop.outcome
            total.generated_tokens += own.generated_tokens
            total.injected_tokens += own.injected_tokens
            total.discarded_tokens += own.discarded_tokens if attempt in kept else own.generated_tokens
            total.thinking_tokens += own.thinking_tokens if attempt in kept else 0
            total.nudges, total.late = total.nudges + own.nudges, total.late + own.late
            total.failed += own.failed
            total.probe_tokens += own.probe_tokens
            thought = len(attempt.loop.thinking)
            total.attempts.append(AttemptReport(thought, own.generated_tokens, attempt.p_now, attempt.fate))
        return total


def _settles(attempt: _Attempt, event: Event) -> bool:
    """Note what the event says of its attempt; whether it is for the client, too."""
    if isinstance(event, Accepted | Finished):
        attempt.fate = Fate.ACCEPTED
    elif isinstance(event, Rejected):
        attempt.fate = Fate.REJECTED
    return not isinstance(event, Accepted | Rejected)


def _belief(attempt: _Attempt) -> float:
    return -1.0 if attempt.p_now is None else attempt.p_now


async def _pump(attempt: _Attempt, queue: "asyncio.Queue[tuple[_Attempt, Event | Exception]]") -> None:
    try:
        async with contextlib.aclosing(attempt.loop.run()) as events:
            async for event in events:
                queue.put_nowait((attempt, event))
    except Exception as error:
        queue.put_nowait((attempt, error))


async def _end(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        if not task.cancelling():  # once is enough: what is ending must not be cut short
            task.cancel()
    if tasks:
        await asyncio.wait(tasks)

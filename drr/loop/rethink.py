"""Attempts at one response: an attempt that the scorer rejects is thrown away and another one made.

A rejected attempt costs its thinking and no answer. The attempts share one account of tokens, so that every limit of
the response holds across them. Where none is accepted, the best one answers after all, or the last, or nobody does.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from drr.loop.allowance import Share
from drr.loop.attempt import ThinkingLoop
from drr.loop.formats import Part, ReasoningFormat, TurnStart, TurnState
from drr.loop.policy import StopCause
from drr.loop.probing import Probe
from drr.loop.pumps import Ended, Pumps
from drr.loop.race import Race, Racer
from drr.loop.reasoner import Reasoner, Token
from drr.loop.response import (
    LEAST_THINKING,
    Accepted,
    AttemptOutput,
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
    Used,
)
from drr.loop.scoring import Scorer
from drr.loop.steps import StepRule
from drr.loop.votes import Votes

Kind = Literal["fresh", "in_context"]
OnExhausted = Literal["best", "vote", "last", "abstain"]

RETHINK_CUE = "\n\nWait, that is not right. Let me start again.\n\n"
"""What stands between a rejected attempt and one made in its context."""


@dataclass(frozen=True, slots=True)
class RethinkSettings:
    """How often and how to think again.

    `fresh` attempts begin from the prompt; those `in_context` go on behind the rejected attempt and `cue`. `parallel`
    attempts run at a time; of those that are accepted, the one that took the fewest tokens wins. Where `on_exhausted`
    is `vote`, attempts that state the same answer back each other (`drr.loop.votes`): those made before an attempt help
    it to be accepted and, where none is, the answer with the most behind it is given. `separator` is shown
    between attempts that know nothing of each other, `refusal` where all were rejected and nobody answers. Where
    `thinking_is_content`, an attempt is shown once its fate is known: as what it is, or as rejected.
    """

    max_rethinks: int = 0
    kind: Kind = "fresh"
    on_exhausted: OnExhausted = "best"
    parallel: int = 1
    cue: tuple[Token, ...] = ()
    separator: str = ""
    refusal: str = ""
    thinking_is_content: bool = False


_STANDING = (Fate.ACCEPTED, Fate.UNJUDGED)


@dataclass(slots=True, eq=False)
class _Attempt:
    loop: ThinkingLoop
    others: Spent
    """What the response's other attempts have used up, as this one's limits know it."""
    behind: "_Attempt | None"
    """The attempt whose thinking is part of this one's context."""
    fate: Fate = Fate.ABANDONED
    unshown: list[Emit] = field(default_factory=list)
    """Output that waits for the attempt's fate."""
    shown_as_rejected: bool = False

    def as_rejected(self) -> list[Emit]:
        """What it has thought, the first time it is asked for, as something that was thrown away."""
        if self.shown_as_rejected or self.fate is not Fate.REJECTED:
            return []
        self.shown_as_rejected = True
        return [replace(emit, part=Part.REJECTED) for emit in self.unshown]

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
        form: ReasoningFormat,
        rule: StepRule,
        settings: LoopSettings,
        rethink: RethinkSettings,
        prompt_ids: Sequence[int],
        question: str,
        *,
        start: TurnStart | None = None,
    ) -> None:
        """`make_reasoner` gives attempt number i (from 0) a Reasoner of its own, with noise of its own, and a probe for
        scorers that need one. `start` is where the prompt leaves off, where the caller knows better than the format."""
        self._make_reasoner, self._scorer, self._form, self._rule = make_reasoner, scorer, form, rule
        self._settings, self._rethink = settings, rethink
        self._prompt_ids, self._question = list(prompt_ids), question
        self._spent = Spent()
        """By the attempts whose fate is known."""
        self._start = start or form.start(prompt_ids)
        self._attempts: list[_Attempt] = []
        self._votes = Votes() if rethink.on_exhausted == "vote" else None
        self._steps: list[StepReport] = []
        self._injected = 0
        self._answers: _Attempt | None = None
        """The attempt that answers, once it is not simply the newest."""
        self._end: Outcome | None = None

    @property
    def outcome(self) -> Outcome:
        """The account so far; until it is known which attempt answers, as if the newest did."""
        if self._end is not None:
            return self._end
        answers = self._answers or (self._attempts[-1] if self._attempts else None)
        return self._total([] if answers is None else answers.line)

    @property
    def outputs(self) -> list[AttemptOutput]:
        """What is kept of every attempt's output, in order."""
        return [output for attempt in self._attempts for output in attempt.loop.outputs]

    async def run(self) -> AsyncGenerator[Event, None]:
        """The response's events, in order; the last one is Finished. Engine errors are raised as they came."""
        while True:
            room = self._room()
            wave = await self._next_wave(room)
            running = self._alone(wave[0]) if len(wave) == 1 else self._race(wave, room)
            async with contextlib.aclosing(running) as events:
                async for attempt, event in events:
                    if isinstance(event, Finished):
                        yield self._finished(attempt, event)
                        return
                    if isinstance(event, StepReport):
                        self._steps.append(event)
                    yield event
            self._spent = sum((_spent(attempt.loop.used) for attempt in self._attempts), Spent())
            self._count_votes(wave)
            if not self._may_go_on():
                break
            if len(wave) == 1:
                for emit in self._between_attempts(wave[0]):
                    yield emit
        chosen = self._chosen()
        for attempt in self._attempts:
            if attempt is not chosen and self._rethink.thinking_is_content:
                for emit in attempt.as_rejected():
                    yield emit
        if chosen is None:
            for event in self._abstention():
                yield event
            return
        self._answers = chosen
        for emit in chosen.unshown:
            yield emit
        used = chosen.loop.used
        chosen.others.generated = self._spent.generated - used.generated
        chosen.others.thought = self._spent.thought - used.thought
        chosen.others.probed = self._spent.probed - used.probed
        async with contextlib.aclosing(chosen.loop.answer(self._exhausted())) as answer:
            async for event in answer:
                if isinstance(event, Finished):
                    chosen.fate = Fate.ANSWERED
                    yield self._finished(chosen, event)
                elif not isinstance(event, Accepted):
                    yield event

    def _between_attempts(self, rejected: _Attempt) -> list[Emit]:
        """What is shown between a rejected attempt and the next."""
        emits = rejected.as_rejected() if self._rethink.thinking_is_content else []
        part = Part.REJECTED if self._rethink.thinking_is_content else Part.THINKING
        if self._rethink.kind == "in_context":
            cue = self._rethink.cue
            self._injected += len(cue)
            return [*emits, Emit(cue, "".join(token.text for token in cue), part)]
        return [*emits, Emit((), self._rethink.separator, part)] if self._rethink.separator else emits

    def _exhausted(self) -> StopCause:
        """Why no further attempt is made."""
        made = len(self._attempts) > self._rethink.max_rethinks
        return StopCause.RETHINK_LIMIT if made else StopCause.RETHINK_ROOM

    def _chosen(self) -> _Attempt | None:
        """The attempt that answers although all were rejected; None where nobody does."""
        if self._rethink.on_exhausted == "abstain":
            return None
        if self._votes is not None:
            return self._attempts[self._votes.elected()]
        return self._attempts[-1] if self._rethink.on_exhausted == "last" else max(self._attempts, key=_belief)

    def _count_votes(self, wave: Sequence[_Attempt]) -> None:
        """The attempts of this wave, all rejected, back later ones that state the same."""
        if self._votes is not None:
            for attempt in wave:
                self._votes.add("".join(token.text for token in attempt.loop.thinking), attempt.p_now)

    # Attempts ----------------------------------------------------------------------------------------------

    async def _next_wave(self, room: Share) -> list[_Attempt]:
        """The attempts to be made next. Others are served while they are prepared."""
        behind, first = self._behind(), len(self._attempts)
        size = self._wave_size(room)
        wave = list[_Attempt]()
        for place in range(size):
            wave.append(self._attempt(first + place, behind, size))
            await asyncio.sleep(0)
        self._attempts += wave
        return wave

    def _wave_size(self, room: Share) -> int:
        """How many attempts are worth making at a time."""
        thinks = self._start.state is not TurnState.CLOSED  # else there is nothing to judge
        sizes = [1 + self._rethink.max_rethinks - len(self._attempts), self._rethink.parallel if thinks else 1]
        most_steps = self._settings.policy.max_steps
        sizes += [left // LEAST_THINKING for left in (room.generated, room.thought) if left is not None]
        sizes += [] if most_steps is None else [most_steps - len(self._steps)]
        return max(1, min(sizes))

    def _room(self) -> Share:
        """What is left to think with."""
        limit = self._settings.max_thinking_tokens
        thought = None if limit is None else limit - self._spent.thought
        return Share(self._settings.thinking_room - self._spent.generated - self._spent.probed, thought)

    def _attempt(self, number: int, behind: _Attempt | None, size: int) -> _Attempt:
        """Attempt `number`, one of `size` at the same time."""
        context = self._context(behind)
        policy = self._settings.policy
        if policy.max_steps is not None:
            policy = replace(policy, max_steps=max(1, (policy.max_steps - len(self._steps)) // size))
        reasoner, probe = self._make_reasoner(number)
        others = replace(self._spent)
        loop = ThinkingLoop(
            reasoner,
            self._scorer,
            self._form,
            self._rule,
            replace(self._settings, policy=policy),
            context,
            self._question,
            others=others,
            attempt=number,
            probe=probe,
            start=self._start if behind is None else TurnStart(TurnState.OPEN),
            doubt=None if self._votes is None else self._votes.doubt,
        )
        return _Attempt(loop, others, behind)

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
        settings, left = self._settings, self._room()
        most_steps = settings.policy.max_steps
        room = settings.attempt_room(len(self._context(self._behind())))
        return (
            (room is None or room > 0)
            and len(self._attempts) <= self._rethink.max_rethinks
            and left.generated >= LEAST_THINKING
            and (left.thought is None or left.thought >= LEAST_THINKING)
            and (most_steps is None or len(self._steps) < most_steps)
        )

    async def _alone(self, attempt: _Attempt) -> AsyncGenerator[tuple[_Attempt, Event], None]:
        """The events of an attempt with none beside it."""
        async with contextlib.aclosing(attempt.loop.run()) as events:
            async for event in events:
                for shown in self._settle(attempt, event, alone=True):
                    yield attempt, shown

    async def _race(self, wave: Sequence[_Attempt], room: Share) -> AsyncGenerator[tuple[_Attempt, Event], None]:
        """The events of several attempts at once, until one finishes or all are rejected. What they think is kept back
        until one has won, and then the others end, and it answers with what they leave."""
        queue: asyncio.Queue[tuple[int, Event | Ended | None]] = asyncio.Queue()
        race = Race(len(wave), room, on_won=lambda place: queue.put_nowait((place, None)))
        pumps: Pumps[Event] = Pumps(lambda place, item: queue.put_nowait((place, item)))
        for place, attempt in enumerate(wave):
            attempt.loop.enter(Racer(race, place))
        running, winner = len(wave), None
        try:
            for place, attempt in enumerate(wave):
                pumps.start(place, attempt.loop.run())
                await asyncio.sleep(0)  # others are served between two beginnings
            while running:
                place, item = await queue.get()
                attempt = wave[place]
                if isinstance(item, Ended):
                    if item.error is not None:
                        raise item.error
                elif item is None:
                    winner = self._answers = attempt
                    await pumps.end(other for other in range(len(wave)) if other != place)
                    for other, used in race.used_beside(place).items():
                        rejected = race.rejected_before(place, other)
                        wave[other].fate = Fate.REJECTED if rejected else Fate.ABANDONED
                        self._charge(attempt, wave[other], used)
                    race.go_on()
                elif winner in (None, attempt):
                    if isinstance(item, Rejected):
                        race.over(place, attempt.loop.used)
                    for shown in self._settle(attempt, item, alone=False):
                        yield attempt, shown
                    running -= isinstance(item, Rejected | Finished)
        finally:
            await pumps.end()

    def _charge(self, winner: _Attempt, other: _Attempt, used: Used) -> None:
        """Tell the winner's limits what another has used up: the same however far that had run ahead, unless it was
        further than is set aside for it."""
        generated = used.generated + (0 if other.fate is Fate.REJECTED else self._settings.lookahead)
        winner.others.generated += max(generated, other.loop.outcome.generated_tokens)
        winner.others.thought += used.thought

    def _settle(self, attempt: _Attempt, event: Event, *, alone: bool) -> list[Event]:
        """Note what the event says of its attempt; returns what the client is to see now."""
        if isinstance(event, Rejected):
            attempt.fate = Fate.REJECTED
            return []
        if isinstance(event, Accepted | Finished):
            attempt.fate = Fate.UNJUDGED if attempt.p_now is None else Fate.ACCEPTED
            held, attempt.unshown = attempt.unshown, []
            return [*held, event] if isinstance(event, Finished) else list(held)
        waits = not alone or self._rethink.thinking_is_content
        if isinstance(event, Emit) and waits and attempt.fate not in _STANDING:
            attempt.unshown.append(event)
            return []
        return [event]

    # The end -----------------------------------------------------------------------------------------------

    def _abstention(self) -> list[Event]:
        outcome = self._end = self._total([])
        outcome.stop_cause = StopCause.ABSTAINED
        return [Emit((), self._rethink.refusal, Part.REFUSAL), Finished(outcome, "stop", None)]

    def _finished(self, answered: _Attempt, event: Finished) -> Finished:
        outcome = self._end = self._total(answered.line)
        outcome.stop_cause = event.outcome.stop_cause
        return Finished(outcome, event.finish_reason, event.stop_reason)

    def _total(self, kept: Sequence[_Attempt]) -> Outcome:
        """The account of all attempts; those in `kept` are what the answer rests on, and the last of them answers."""
        steps = sorted(self._steps, key=lambda step: (step.attempt, step.index))
        total, answers = Outcome(steps=steps, injected_tokens=self._injected), kept[-1] if kept else None
        for attempt in self._attempts:
            outcome = attempt.loop.outcome
            total.generated_tokens += outcome.generated_tokens
            total.injected_tokens += outcome.injected_tokens
            thought = outcome.thinking_tokens if attempt in kept else 0
            discarded = outcome.discarded_tokens if attempt is answers else outcome.generated_tokens - thought
            total.discarded_tokens += discarded
            total.thinking_tokens += thought
            total.earlier_tokens += thought if attempt is not answers else 0
            total.nudges, total.late = total.nudges + outcome.nudges, total.late + outcome.late
            total.failed += outcome.failed
            total.late_tokens += outcome.late_tokens if attempt in kept else 0
            total.probe_tokens += outcome.probe_tokens
            own = outcome.thinking_tokens, outcome.generated_tokens, discarded
            total.attempts.append(AttemptReport(*own, attempt.p_now, attempt.fate))
        return total


def _spent(used: Used) -> Spent:
    return Spent(used.generated, used.thought, used.probed)


def _belief(attempt: _Attempt) -> float:
    return -1.0 if attempt.p_now is None else attempt.p_now

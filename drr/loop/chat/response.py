"""A whole response over chat: attempts, one after the other or several at a time, until one stands."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from drr.loop.chat.attempt import AttemptEvent, ChatAttempt, SteppedAttempt, WholeAttempt
from drr.loop.chat.said import ChatReasoner, ChatSettings, Field, Shown
from drr.loop.chat.scores import AttemptScores
from drr.loop.policy import StopCause
from drr.loop.pumps import Ended, Pumps
from drr.loop.response import LEAST_THINKING, Accepted, AttemptReport, Fate, Outcome, StepReport
from drr.loop.scoring import ScoringSession
from drr.loop.stated import answer_in, stated_answer
from drr.loop.votes import Votes

_TRIES = 2
"""Of an attempt that fails before anything of it was shown."""


@dataclass(frozen=True, slots=True)
class ChatFinished:
    """The last event of a response. `message` are fields of the message beside its texts; `refused` stands in place of
    an answer where nobody answers."""

    outcome: Outcome
    finish_reason: str
    message: dict[str, object] = field(default_factory=dict)
    refused: str | None = None


ChatEvent = Shown | StepReport | ChatFinished


class ChatResponse:
    """One response. Iterate `run()` to its end, or close it: either way every upstream request is closed.

    `make_session` gives an attempt its scoring session, None where nobody judges. `failures` are what an upstream's
    failure is raised as, and `passes` tells which of them may pass: then an attempt of which nothing was shown is made
    again. Where earlier attempts are there, one of those answers.
    """

    def __init__(
        self,
        reasoner: ChatReasoner,
        make_session: Callable[[], ScoringSession | None],
        judge_id: str,
        settings: ChatSettings,
        failures: tuple[type[Exception], ...] = (),
        passes: Callable[[Exception], bool] = lambda error: True,
    ) -> None:
        self._reasoner, self._make_session, self._judge_id = reasoner, make_session, judge_id
        self._settings, self._failures, self._passes = settings, failures, passes
        self._attempts: list[ChatAttempt] = []
        self._scores: list[AttemptScores] = []
        self._votes = Votes() if settings.on_exhausted == "vote" and settings.rejects else None
        self._answers: ChatAttempt | None = None
        self._abstained = False

    async def run(self) -> AsyncGenerator[ChatEvent, None]:
        """The response's events, a ChatFinished last. What the upstream raises is raised where no attempt can
        answer."""
        try:
            async with contextlib.aclosing(self._run()) as events:
                async for event in events:
                    yield event
        finally:
            for scores in self._scores:
                await scores.close()

    @property
    def outcome(self) -> Outcome:
        """The account so far; until it is known which attempt answers, as if the newest did."""
        answers = self._answers or (self._attempts[-1] if self._attempts else None)
        if self._abstained:
            answers = None
        total = Outcome(steps=[step for attempt in self._attempts for step in attempt.steps])
        for attempt in self._attempts:
            kept = attempt is answers
            thinking = (attempt.thinking or 0) if kept else 0
            discarded = attempt.discarded if kept else attempt.generated
            total.generated_tokens += attempt.generated
            total.thinking_tokens += thinking
            total.discarded_tokens += discarded
            total.injected_tokens += attempt.injected
            total.late, total.failed = total.late + attempt.late, total.failed + attempt.failed
            total.attempts.append(AttemptReport(thinking, attempt.generated, discarded, attempt.p_now, attempt.fate))
        if answers is not None:
            total.stop_cause = answers.cause
        if self._abstained:
            total.stop_cause = StopCause.ABSTAINED
        return total

    @property
    def tells_thinking(self) -> bool:
        """Whether the upstream has counted the thinking of the attempt that answers, if any does."""
        if self._abstained:
            return True
        answers = self._answers or (self._attempts[-1] if self._attempts else None)
        return answers is None or answers.thinking is not None

    async def _run(self) -> AsyncGenerator[ChatEvent, None]:
        while True:
            if self._attempts and self._settings.separator and self._settings.parallel == 1:
                yield Shown(Field.REASONING, self._settings.separator)
            made, answering = len(self._attempts), False
            try:
                async with contextlib.aclosing(self._wave(self._wave_size())) as events:
                    async for event in events:
                        answering = answering or (isinstance(event, Shown) and event.field is Field.CONTENT)
                        yield event
            except self._failures:
                if made == 0 or answering or self._settings.on_exhausted == "abstain":
                    raise
                break  # an earlier attempt answers
            if self._answers is not None:
                yield self._finished(self._answers)
                return
            if self._votes is not None:
                for attempt in self._attempts[made:]:
                    self._votes.add(_stated(attempt.text), attempt.p_now)
            if not self._may_go_on():
                break
        async with contextlib.aclosing(self._exhausted()) as ending:
            async for last in ending:
                yield last

    # Attempts -------------------------------------------------------------------------------------------------

    def _wave_size(self) -> int:
        left = 1 + self._settings.max_rethinks - self._made
        room = self._room()
        sizes = [left, self._settings.parallel, *([] if room is None else [room // LEAST_THINKING])]
        return max(1, min(sizes))

    def _room(self) -> int | None:
        """Tokens that may still be generated."""
        most = self._settings.max_tokens
        return None if most is None else most - sum(attempt.generated for attempt in self._attempts)

    def _may_go_on(self) -> bool:
        room = self._room()
        return self._made <= self._settings.max_rethinks and (room is None or room >= LEAST_THINKING)

    @property
    def _made(self) -> int:
        """Attempts so far, without those that an upstream's failure has cost."""
        return sum(not attempt.lost for attempt in self._attempts)

    def _attempt(self, place: int, size: int) -> ChatAttempt:
        """One of `size` attempts at the same time."""
        room = self._room()
        scores = AttemptScores(self._make_session(), self._judge_id, self._settings.deadline)
        self._scores.append(scores)
        kind = SteppedAttempt if self._settings.tier == "prefix" else WholeAttempt
        doubt = None if self._votes is None else self._doubt
        bounds = [self._settings.attempt_tokens, None if room is None else max(1, room // size)]
        share = min((bound for bound in bounds if bound is not None), default=None)
        number, draw = len(self._attempts) + place, self._made + place
        return kind(number, self._reasoner, scores, self._settings, share, doubt, draw)

    def _doubt(self, text: str) -> float:
        assert self._votes is not None
        return self._votes.doubt(_stated(text))

    async def _wave(self, size: int) -> AsyncGenerator[Shown | StepReport, None]:
        if size > 1:
            wave = [self._attempt(place, size) for place in range(size)]
            self._attempts += wave
            async with contextlib.aclosing(self._race(wave)) as raced:
                async for won in raced:
                    yield won
            return
        for tries in range(1, _TRIES + 1):
            attempt = self._attempt(0, 1)
            self._attempts.append(attempt)
            shown = False
            try:
                async with contextlib.aclosing(attempt.run()) as own:
                    async for event in own:
                        if isinstance(event, Accepted):
                            self._answers = attempt
                        else:
                            shown = True
                            yield event
                return
            except self._failures as error:
                self._answers = None
                attempt.fate, attempt.lost = Fate.ABANDONED, True
                if shown or tries == _TRIES or not self._passes(error):
                    raise

    async def _race(self, wave: Sequence[ChatAttempt]) -> AsyncGenerator[Shown | StepReport, None]:
        """Several attempts at once. The first that is accepted answers, and the others are closed: going on with them
        would only cost. What one has thought is shown once it has won. An attempt that fails leaves the race; where all
        fail, the last failure is raised."""
        queue: asyncio.Queue[tuple[int, AttemptEvent | Ended]] = asyncio.Queue()
        pumps: Pumps[AttemptEvent] = Pumps(lambda place, item: queue.put_nowait((place, item)))
        unshown: list[list[Shown]] = [[] for _ in wave]
        running, failed, winner = len(wave), list[Exception](), None
        try:
            for place, attempt in enumerate(wave):
                pumps.start(place, attempt.run())
            while running:
                place, item = await queue.get()
                if winner is not None and place != winner:
                    continue
                if isinstance(item, Ended):
                    running = 0 if winner is not None else running - 1
                    if item.error is not None:
                        if winner is not None or not isinstance(item.error, self._failures):
                            raise item.error
                        failed.append(item.error)
                        wave[place].fate, wave[place].lost = Fate.ABANDONED, True
                elif isinstance(item, Accepted):
                    winner, self._answers = place, wave[place]
                    await pumps.end(other for other in range(len(wave)) if other != place)
                    for other in wave:
                        if other is not wave[place] and not other.rejected:
                            other.fate = Fate.ABANDONED
                    for shown in unshown[place]:
                        yield shown
                elif isinstance(item, StepReport) or winner is not None:
                    yield item
                else:
                    unshown[place].append(item)
        finally:
            await pumps.end()
        if winner is None and len(failed) == len(wave):
            raise failed[-1]

    # The end --------------------------------------------------------------------------------------------------

    def _finished(self, attempt: ChatAttempt) -> ChatFinished:
        return ChatFinished(self.outcome, attempt.finish_reason, attempt.message)

    async def _exhausted(self) -> AsyncGenerator[ChatEvent, None]:
        """None was accepted."""
        rejected = [attempt for attempt in self._attempts if attempt.rejected]
        if self._settings.on_exhausted == "abstain":
            self._abstained = True
            yield ChatFinished(self.outcome, "stop", refused=self._settings.refusal)
            return
        chosen = self._chosen(rejected)
        made = self._made > self._settings.max_rethinks
        chosen.cause = StopCause.RETHINK_LIMIT if made else StopCause.RETHINK_ROOM
        self._answers = chosen
        async with contextlib.aclosing(chosen.answer()) as events:
            async for event in events:
                if not isinstance(event, Accepted):
                    yield event
        chosen.fate = Fate.ANSWERED
        yield self._finished(chosen)

    def _chosen(self, rejected: Sequence[ChatAttempt]) -> ChatAttempt:
        """The attempt that answers although it was rejected."""
        if self._votes is not None and len(rejected) == len(self._attempts):
            return self._attempts[self._votes.elected()]
        if self._settings.on_exhausted == "last":
            return rejected[-1]
        return max(rejected, key=lambda attempt: -1.0 if attempt.p_now is None else attempt.p_now)


def _stated(text: str) -> str:
    """The same, in words that state its answer: a chat's answer may consist of nothing else."""
    return text if stated_answer(text) is not None else f"The answer is {answer_in(text)}"

"""The boundaries of one attempt that wait for their verdicts, in order, and the verdicts on them.

It keeps what decisions rest on (scores, behaviour features, steps passed over) and says how far tokens may be released.
It touches no stream: what a decision leads to is the loop's business.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from drr.loop.features import BehaviourFeatures
from drr.loop.intake import Intake
from drr.loop.judging import Judge, PendingBoundary, Unjudged
from drr.loop.policy import Decision, Score, StopCause, Verdict, decide, rejects
from drr.loop.response import LoopSettings, StepReport
from drr.loop.steps import Step


class PendingBoundaries:
    """Those of one attempt, whose number this is `attempt`."""

    def __init__(
        self,
        judge: Judge,
        settings: LoopSettings,
        intake: Intake,
        attempt: int,
        doubt: Callable[[str], float] | None = None,
    ) -> None:
        """`doubt` tells of a text of thinking how likely it is that all other attempts with its answer are wrong."""
        self._judge, self._settings, self._intake, self._attempt = judge, settings, intake, attempt
        self._doubt = doubt
        self._queue: deque[PendingBoundary] = deque()
        self._features = BehaviourFeatures()
        self._unjudged = Unjudged(given=intake.prefilled_steps)
        self._heard: tuple[int, tuple[float, ...] | None] = (-1, None)
        self.scores: list[Score | None] = []
        self.late_from: int | None = None
        """Token behind which the first late verdict left the thinking to itself."""
        if intake.prefilled_steps:
            self._features.close_step("".join(intake.prefilled_steps), [None])  # its probabilities are not known

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def newest_score(self) -> Score | None:
        """The newest score there is."""
        return next((score for score in reversed(self.scores) if score is not None), None)

    def rejects(self, end: int) -> bool:
        """Whether an attempt that ends behind so many tokens is rejected."""
        return self._settings.policy.acts and rejects(self._settings.policy, self.scores, self._doubt_at(end))

    def _doubt_at(self, end: int) -> Callable[[], float]:
        """How likely it is that all other attempts with the answer that has been stated before `end` are wrong."""
        trace, doubt = self._intake.trace, self._doubt
        if doubt is None:
            return lambda: 1.0
        return lambda: doubt("".join(token.text for token in trace.tokens[trace.thinking_from : end]))

    @property
    def first(self) -> PendingBoundary | None:
        """The first that waits."""
        return self._queue[0] if self._queue else None

    def release_limit(self) -> int | None:
        """The token that no release may pass, or None."""
        return next((pending.end for pending in self._queue if pending.holds), None)

    # In ----------------------------------------------------------------------------------------------------

    def add(self, step: Step, *, nudges: int) -> None:
        """A step has closed."""
        self._add(step, closing=False, nudges=nudges)

    def close(self, *, nudges: int) -> None:
        """Thinking has ended: judge the last step, or the last boundary again if nothing followed it."""
        step = self._intake.last_step()
        if step is not None:
            self._add(step, closing=True, nudges=nudges)
        elif self._unjudged.steps:
            self._have_judged(closing=True, nudges=nudges)
        else:
            end = self._intake.trace.thinking_to
            holds = self._holds(len(self.scores), closing=True, nudges=nudges)
            self._queue.append(PendingBoundary(end, closing=True, holds=holds, resolved=True))

    def pass_unjudged(self, end: int) -> None:
        """The output began with an answer: there is nothing to judge."""
        self._queue.append(PendingBoundary(end, closing=True, holds=False, resolved=True))

    def force(self, end: int, cause: StopCause) -> None:
        """Thinking ends at `end` for a reason of its own, once the boundaries before have passed."""
        self._queue.append(PendingBoundary(end, forced=cause, resolved=True))

    def _add(self, step: Step, *, closing: bool, nudges: int) -> None:
        tokens = self._intake.trace.tokens[step.start : step.end]
        logprobs = [token.logprob for token in tokens if not token.injected]
        self._unjudged.add(step, logprobs, self._features.close_step(step.text, logprobs))
        if closing or self._unjudged.tokens >= self._settings.min_step_tokens:
            self._have_judged(closing=closing, nudges=nudges)

    def _have_judged(self, *, closing: bool, nudges: int) -> None:
        """Judge all steps that have not been."""
        unjudged, self._unjudged = self._unjudged, Unjudged()
        trace = self._intake.trace
        end = trace.thinking_to if closing else unjudged.steps[-1].end
        index = len(self.scores) + sum(waiting.step_tokens > 0 for waiting in self._queue)
        holds = self._holds(index, closing=closing, nudges=nudges)
        text = "".join(step.text for step in unjudged.steps)
        pending = PendingBoundary(end, unjudged.tokens, text, closing=closing, holds=holds)
        self._queue.append(pending)
        boundary = pending.boundary = unjudged.boundary(index, lambda: trace.context(end))
        if not self._judge.reads_states:
            self._judge.submit(pending, boundary)
        elif end < len(trace):
            self._judge.submit(pending, replace(boundary, states=trace.tokens[end].states))
        elif end == self._heard[0]:
            self._judge.submit(pending, replace(boundary, states=self._heard[1]))
        else:
            pending.unheard = boundary

    def hear(self, position: int, states: tuple[float, ...] | None) -> None:
        """A token has come for this position, and with it what heads say of the context before it."""
        self._heard = position, states
        for pending in self._queue:
            if pending.unheard is not None and pending.end == position:
                self._submit_unheard(pending, states)

    def hear_no_more(self) -> None:
        """No token comes any more that could tell what heads say: they have to be asked."""
        for pending in self._queue:
            self._submit_unheard(pending, None)

    def _submit_unheard(self, pending: PendingBoundary, states: tuple[float, ...] | None) -> None:
        boundary, pending.unheard = pending.unheard, None
        if boundary is not None:
            self._judge.submit(pending, replace(boundary, states=states))

    def _holds(self, index: int, *, closing: bool, nudges: int) -> bool:
        """Whether tokens behind a boundary, the `index`-th from 0, may have to be taken back."""
        policy = self._settings.policy
        if not closing and policy.max_steps is not None and index + 1 >= policy.max_steps:
            return True
        if not policy.acts or not self._judge.available or not (closing or policy.stops):
            return False
        return not closing or policy.accept is not None or nudges < policy.nudge

    # Out ---------------------------------------------------------------------------------------------------

    def next_resolved(self) -> PendingBoundary | None:
        """The first boundary, taken out, if its verdict can be given; its score counts from now on."""
        if not self._queue or not self._queue[0].resolved:
            return None
        pending = self._queue.popleft()
        if pending.step_tokens and pending.forced is None:
            self.scores.append(pending.score)
            if pending.late and self.late_from is None:
                self.late_from = pending.end
        return pending

    def decide(self, pending: PendingBoundary, nudges: int) -> Decision:
        """The verdict at a boundary that has just been taken out, after `nudges` refused closes."""
        if not self.scores:
            return Decision(Verdict.CONTINUE)
        doubt = self._doubt_at(pending.end)
        return decide(self._settings.policy, self.scores, closing=pending.closing, nudges=nudges, doubt=doubt)

    def take_close_at(self, end: int) -> PendingBoundary | None:
        """The next boundary, left in place, where it is a close by the Reasoner at `end` with nothing to judge."""
        first = self._queue[0] if self._queue else None
        closes_here = first is not None and first.closing and not first.step_tokens and first.end == end
        return first if closes_here else None

    def drop_first(self) -> PendingBoundary:
        """Take the first boundary out, whatever it says."""
        return self._queue.popleft()

    def report(self, pending: PendingBoundary, decision: Decision) -> StepReport:
        """What happened at a judged boundary."""
        features = None if pending.boundary is None else pending.boundary.features
        return StepReport(
            index=len(self.scores) - 1,
            tokens=pending.step_tokens,
            p_now=None if pending.score is None else pending.score.p_now,
            p_later=None if pending.score is None else pending.score.p_later,
            verdict=decision.verdict,
            ms=pending.ms,
            late=pending.late,
            attempt=self._attempt,
            features=None if features is None else tuple(features),
        )

    def clear(self) -> None:
        """Give everything up that waits."""
        for pending in self._queue:
            pending.release()
        self._queue.clear()
        self._unjudged = Unjudged()

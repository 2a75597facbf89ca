"""Scoring beside the stream: boundaries that wait for verdicts, and the judge that fetches their scores.

Nothing here decides anything; a boundary is resolved when its score has come, has failed, or is too late.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from drr.loop.complaints import complain
from drr.loop.policy import Score, StopCause
from drr.loop.probing import Probe
from drr.loop.scoring import Boundary, Scorer, ScorerUnavailableError, StateSession
from drr.loop.steps import Step


@dataclass(slots=True)
class Unjudged:
    """Steps that have closed since the last judged boundary, and the behaviour features at the newest. `given` are the
    texts of steps that the prompt held already."""

    given: Sequence[str] = ()
    steps: list[Step] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    features: list[float] | None = None

    def add(self, step: Step, logprobs: Sequence[float | None], features: list[float] | None) -> None:
        """One more of them."""
        self.steps.append(step)
        self.logprobs.extend(logprobs)
        self.features = features

    @property
    def tokens(self) -> int:
        """All of theirs."""
        return self.steps[-1].end - self.steps[0].start if self.steps else 0

    def boundary(self, index: int, context: Callable[[], list[int]]) -> Boundary:
        """The boundary behind the newest."""
        texts = (*self.given, *(step.text for step in self.steps))
        return Boundary(index, "".join(texts), self.features, self.logprobs, context, texts)


@dataclass(slots=True, eq=False)
class PendingBoundary:
    """A point of the output that tokens may not pass before its verdict.

    `step_tokens` are those judged here, 0 where nothing is, and `text` is theirs. `closing` tells that the Reasoner
    ended its thinking here, `forced` that it is ended from outside. `boundary` is what is judged, `unheard`
    the same while it is not known yet what the heads in the Reasoner's engine say of it.
    """

    end: int
    step_tokens: int = 0
    text: str = ""
    closing: bool = False
    forced: StopCause | None = None
    holds: bool = True
    score: Score | None = None
    resolved: bool = False
    late: bool = False
    ms: float | None = None
    boundary: Boundary | None = None
    unheard: Boundary | None = None
    task: "asyncio.Future[Score] | None" = None
    timer: asyncio.TimerHandle | None = None

    def release(self) -> None:
        """Give the boundary up; whatever its scoring still brings is ignored."""
        self.resolved = True
        if self.task is not None:
            self.task.cancel()
        if self.timer is not None:
            self.timer.cancel()


class Judge:
    """Scores one response's boundaries. `notify` is called with one that has something to resolve."""

    def __init__(
        self,
        scorer: Scorer | None,
        question: str,
        deadline: float,
        notify: Callable[[PendingBoundary], None],
        probe: Probe | None = None,
        cache_salt: str | None = None,
    ) -> None:
        self._session = scorer.session(question, probe, cache_salt) if scorer is not None else None
        self._id = "" if scorer is None else scorer.id
        self.reads_states = isinstance(self._session, StateSession)
        """Whether it wants to know what heads in the Reasoner's engine say."""
        self._deadline, self._notify = deadline, notify
        self.late = self.failed = 0
        self.lost = False
        """Whether the scorer went away for good during this response."""

    @property
    def available(self) -> bool:
        """Whether a score can still be hoped for."""
        return self._session is not None

    def submit(self, pending: PendingBoundary, boundary: Boundary) -> None:
        """Start scoring; the boundary is resolved at once where there is nobody to score it."""
        if self._session is None:
            pending.resolved = True
            return
        started = time.perf_counter()
        if isinstance(self._session, StateSession) and self._score_at_once(self._session, pending, boundary):
            if pending.score is not None:
                pending.ms = (time.perf_counter() - started) * 1000
            return
        pending.task = asyncio.ensure_future(self._session.score(boundary))

        def scored(_: "asyncio.Future[Score]") -> None:
            pending.ms = (time.perf_counter() - started) * 1000
            self._notify(pending)

        pending.task.add_done_callback(scored)
        pending.timer = asyncio.get_running_loop().call_later(self._deadline, self._notify, pending)

    def _score_at_once(self, session: StateSession, pending: PendingBoundary, boundary: Boundary) -> bool:
        """Whether the boundary is resolved, by its score or because that has failed."""
        try:
            score = session.score_at_once(boundary)
            pending.resolved = score is not None
            if score is not None:
                self._take(pending, score)
        except Exception as error:  # like one that is waited for: it ends no response
            self._fail(pending, error)
            pending.resolved = True
        return pending.resolved

    def resolve(self, pending: PendingBoundary) -> None:
        """Take the boundary's score, or give it up at its deadline."""
        task = pending.task
        if pending.resolved or task is None:
            return
        if not task.done():
            pending.late = True
            self.late += 1
        elif task.cancelled():  # by the scorer itself: a response never ends its own scoring before it is resolved
            self._fail(pending, asyncio.CancelledError("the scoring was cancelled"))
        elif (error := task.exception()) is not None:
            self._fail(pending, error)
        else:
            self._take(pending, task.result())
        pending.release()

    def _take(self, pending: PendingBoundary, score: Score) -> None:
        """Take a score, unless it is no number: whatever made it is broken."""
        if math.isfinite(score.p_now) and math.isfinite(score.p_later):
            pending.score = score
        else:
            self._fail(pending, ValueError(f"{score} is no score"))

    def _fail(self, pending: PendingBoundary, error: BaseException) -> None:
        pending.ms = None
        self.failed += 1
        if isinstance(error, ScorerUnavailableError):
            self._session, self.lost = None, True  # later boundaries pass at once
        else:
            complain(self._id, error)

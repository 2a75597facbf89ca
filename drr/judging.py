"""Scoring beside the stream: gates that wait for verdicts, and the judge that fetches their scores.

Nothing here decides anything; a gate is resolved when its score has come, has failed, or is too late.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from drr.policy import Score, StopCause
from drr.probing import Probe
from drr.scorers import Boundary, Scorer, ScorerUnavailableError
from drr.steps import Step


@dataclass(slots=True)
class Unjudged:
    """Steps that have closed since the last judged boundary, and the behaviour features at the newest."""

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
        texts = tuple(step.text for step in self.steps)
        return Boundary(index, "".join(texts), self.features, self.logprobs, context, texts)


@dataclass(slots=True, eq=False)
class Gate:
    """A point of the output that tokens may not pass before its verdict. `step_tokens` are those judged here: 0 where
    nothing is."""

    end: int
    step_tokens: int = 0
    closing: bool = False
    forced: StopCause | None = None
    holds: bool = True
    score: Score | None = None
    resolved: bool = False
    late: bool = False
    ms: float | None = None
    task: "asyncio.Future[Score] | None" = None
    timer: asyncio.TimerHandle | None = None

    def release(self) -> None:
        """Give the gate up; whatever its scoring still brings is ignored."""
        self.resolved = True
        if self.task is not None:
            self.task.cancel()
        if self.timer is not None:
            self.timer.cancel()


class Judge:
    """Scores one response's boundaries. `notify` is called with a gate that has something to resolve."""

    def __init__(
        self,
        scorer: Scorer | None,
        question: str,
        deadline: float,
        notify: Callable[[Gate], None],
        probe: Probe | None = None,
    ) -> None:
        self._session = scorer.session(question, probe) if scorer is not None else None
        self._deadline, self._notify = deadline, notify
        self.late = self.failed = 0
        self.lost = False
        """Whether the scorer went away for good during this response."""

    @property
    def available(self) -> bool:
        """Whether a score can still be hoped for."""
        return self._session is not None

    def submit(self, gate: Gate, boundary: Boundary) -> None:
        """Start scoring; the gate is resolved at once where there is nobody to score it."""
        if self._session is None:
            gate.resolved = True
            return
        started = time.perf_counter()
        gate.task = asyncio.ensure_future(self._session.score(boundary))

        def scored(_: "asyncio.Future[Score]") -> None:
            gate.ms = (time.perf_counter() - started) * 1000
            self._notify(gate)

        gate.task.add_done_callback(scored)
        gate.timer = asyncio.get_running_loop().call_later(self._deadline, self._notify, gate)

    def resolve(self, gate: Gate) -> None:
        """Take the gate's score, or give it up at its deadline."""
        if gate.resolved or gate.task is None:
            return
        done = gate.task.done()
        error = gate.task.exception() if done else None
        if done and error is None:
            gate.score = gate.task.result()
        elif done:
            gate.ms = None
            self.failed += 1
        else:
            gate.late = True
            self.late += 1
        if isinstance(error, ScorerUnavailableError):
            self._session, self.lost = None, True  # later boundaries pass at once
        gate.release()

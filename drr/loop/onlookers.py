"""What a stopping rule would have done to an attempt that thinks in full: by its own judge, or by one that looks on.

Nothing here acts. Where a rule would have stopped is noted once, with what is needed to ask for the answer that would
have been given there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from drr.loop.policy import Decision, PolicySettings, Score, StopCause, Verdict, decide
from drr.loop.reasoner import Token
from drr.loop.rule import Rule
from drr.loop.scoring import Boundary, Scorer, StateSession

JUDGED = frozenset({StopCause.SURE, StopCause.HOPELESS, StopCause.NO_GAIN})
"""Causes of a stop that are a judge's."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt has come where a rule would have stopped it: `generated` tokens, those that the stop would
    have discarded included, by so many engine `requests`, `cuts` of which had ended in a cut; and tokens that its judge
    had the Reasoner generate beside them, `probed`."""

    generated: int
    requests: int
    cuts: int
    probed: int = 0


@dataclass(frozen=True, slots=True)
class WouldStop:
    """Where a rule would have stopped: behind the output tokens `thought`, whose last step reads `last_step`. `score`
    is the judge's there."""

    thought: tuple[Token, ...]
    last_step: str
    cause: StopCause
    score: Score
    progress: Progress

    @property
    def generated(self) -> int:
        """How many tokens of the thinking the Reasoner made itself."""
        return sum(not token.injected for token in self.thought)


class Onlooker:
    """A judge of another name that scores an attempt's boundaries beside its own judge, with a rule of its own. It has
    to be one whose scores come with the Reasoner's tokens: nobody waits for it."""

    def __init__(self, name: str, scorer: Scorer, rule: Rule) -> None:
        self.name, self._scorer, self._rule = name, scorer, rule
        self._session: StateSession | None = None
        self._scores: list[Score | None] = []
        self.stop: WouldStop | None = None
        self.blind = False
        """Whether a boundary went unscored before it would have stopped: nobody knows what it would have done."""

    def begin(self, question: str) -> None:
        """An attempt at this question begins."""
        session = self._scorer.session(question, None, None)
        self._session = session if isinstance(session, StateSession) else None

    @property
    def last_score(self) -> Score | None:
        """The newest score there is."""
        return next((score for score in reversed(self._scores) if score is not None), None)

    def look(self, boundary: Boundary, states: tuple[float, ...] | None, *, closing: bool) -> Score | None:
        """Score the next boundary; `states` is what heads in the engine say there."""
        score = None
        if self._session is not None and states is not None:
            try:
                score = self._session.score_at_once(replace(boundary, states=states))
            except Exception:  # a judge that looks on ends no response
                score = None
        self._scores.append(score)
        self.blind = self.blind or (score is None and not closing and self.stop is None)
        return score

    def decide(self, policy: PolicySettings, *, closing: bool) -> Decision:
        """Its verdict at the newest boundary, were the response's `policy` its own rule's."""
        rule = self._rule
        own = replace(
            policy,
            threshold=rule.threshold,
            patience=rule.patience,
            hopeless=rule.hopeless,
            min_gain=rule.min_gain,
            nudge=0,
            accept=None,
        )
        return decide(own, self._scores, closing=closing)


@dataclass(frozen=True, slots=True)
class Passed:
    """A judged boundary: its own judge's `decision` and `score`, what heads in the engine say there (`states`), and
    whether thinking `ends` there in any case: then it is nobody's stop. `thought` gives the output before it,
    `progress` how far the attempt has come."""

    boundary: Boundary
    decision: Decision
    score: Score | None
    states: tuple[float, ...] | None
    ends: bool
    thought: Callable[[], Sequence[Token]]
    progress: Callable[[], Progress]

    def stopped_by(self, decision: Decision, score: Score | None) -> WouldStop | None:
        """What has to be known of this verdict; None where a judge does not stop by it."""
        if decision.verdict is not Verdict.STOP or decision.cause not in JUDGED or score is None:
            return None
        assert decision.cause is not None
        bare = tuple(Token(token.id, token.text, injected=token.injected) for token in self.thought())
        return WouldStop(bare, self.boundary.text, decision.cause, score, self.progress())


class Watch:
    """Notes where an attempt that thinks in full would have been stopped: by its own judge, and by onlookers."""

    def __init__(self, onlookers: Sequence[Onlooker] = ()) -> None:
        self.onlookers = tuple(onlookers)
        self.stop: WouldStop | None = None
        """Where its own judge would have stopped it."""
        self.last: Score | None = None
        """Its own judge's newest score."""

    def begin(self, question: str) -> None:
        """An attempt at this question begins."""
        for onlooker in self.onlookers:
            onlooker.begin(question)

    def boundary(self, passed: Passed, policy: PolicySettings) -> None:
        """A judged boundary has been passed; `policy` is the response's."""
        self.last = passed.score or self.last
        if self.stop is None and not passed.ends:
            self.stop = passed.stopped_by(passed.decision, passed.score)
        for onlooker in self.onlookers:
            score = onlooker.look(passed.boundary, passed.states, closing=passed.ends)
            if onlooker.stop is None and not passed.ends:
                onlooker.stop = passed.stopped_by(onlooker.decide(policy, closing=False), score)

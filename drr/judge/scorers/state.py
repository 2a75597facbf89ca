"""A DM that judges by a head inside the Reasoner's engine, alone or fused with a text classifier.

What the head says comes with the Reasoner's own tokens: a boundary's with the token behind it. So without a classifier
the score is there at once, and cannot be late. Only where no such token tells it (the last token that was allowed, a
request that wants the likeliest tokens itself) the engine is asked, by a request of one token.
"""

from drr.judge.head import JUDGE_LOGITS, FusionHead
from drr.judge.scorers.dm import DmScorer, DmSession
from drr.loop.policy import Score
from drr.loop.probing import Probe
from drr.loop.scoring import Boundary

_OUTPUTS = len(JUDGE_LOGITS["head"])


class StateScorer:
    """Scores boundaries by the head that is number `place` among the engine's. `text` brings the classifier's logits
    where the DM is fused."""

    def __init__(self, id: str, head: FusionHead, place: int = 0, text: DmScorer | None = None) -> None:
        self.id = id
        self.head, self.place, self.text = head, place, text

    @property
    def dead(self) -> bool:
        """Whether a part of it is gone for good."""
        return self.text is not None and self.text.dead

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "StateScoring":
        text = None if self.text is None else self.text.session(question, probe, cache_salt)
        return StateScoring(self, probe, text)


class StateScoring:
    """Scores the boundaries of one attempt."""

    def __init__(self, scorer: StateScorer, probe: Probe | None, text: DmSession | None) -> None:
        self._scorer, self._probe, self._text = scorer, probe, text

    def score_at_once(self, boundary: Boundary) -> Score | None:
        if self._text is not None or boundary.states is None:
            return None
        return self._scorer.head.score(self._own(boundary.states), boundary.features)

    async def score(self, boundary: Boundary) -> Score:
        judged = [] if self._text is None else list(await self._text.logits(boundary))
        states = boundary.states
        if states is None and self._probe is not None:
            states = await self._probe.states(boundary.context())
        if states is None:
            raise ValueError("the Reasoner's engine does not tell what its heads say")
        return self._scorer.head.score([*judged, *self._own(states)], boundary.features)

    def _own(self, states: tuple[float, ...]) -> tuple[float, ...]:
        first = _OUTPUTS * self._scorer.place
        return states[first : first + _OUTPUTS]

"""Who judges the attempts of a response that only chat completions are had of."""

from collections.abc import Mapping

from drr.engine.upstream.chat import UpstreamChat
from drr.engine.upstream.critique import CritiqueSession
from drr.judge.scorers.registry import ScorerName
from drr.loop.chat.said import Tier
from drr.loop.scoring import Scorer, ScoringSession

SCORERS: Mapping[Tier, tuple[ScorerName, ...]] = {
    "opaque": ("dm", "self_critique", "critique", "random", "stated"),
    "prefix": ("dm", "random", "step_index", "stated"),
}
"""Who can judge in a tier: whoever needs nothing that such an upstream does not give."""

FOLLOWING_UP: tuple[ScorerName, ...] = ("self_critique", "critique")
"""Scorers that send a request of their own."""

CRITIQUE_DEADLINE = 120.0
"""Seconds to the verdict of a Reasoner that is asked about its own answer."""


class ChatJudge:
    """Gives every attempt of one response its scoring session. `name` is the scorer's, None for nobody; `scorers` are
    those that do not ask the Reasoner itself. What the Reasoner is asked goes to the costs of the response, `chat`."""

    def __init__(self, chat: UpstreamChat, scorers: Mapping[str, Scorer], name: str | None, question: str) -> None:
        self._chat, self._name, self._question = chat, name, question
        self._scorer = None if name is None or name in FOLLOWING_UP else scorers[name]
        self._critiques: list[CritiqueSession] = []

    @property
    def id(self) -> str | None:
        """The scorer's identity; None where nobody judges."""
        return self._name if self._scorer is None else self._scorer.id

    @property
    def tokens(self) -> int:
        """Tokens of the verdicts that the Reasoner was asked for."""
        return sum(critique.tokens for critique in self._critiques)

    def session(self) -> ScoringSession | None:
        """A scoring session for another attempt."""
        if self._name is None:
            return None
        if self._scorer is not None:
            return self._scorer.session(self._question)
        chat = self._chat
        critique = CritiqueSession(
            chat.client,
            chat.abilities,
            chat.request.body["model"],
            self._question,
            chat.cost,
            thorough=self._name == "critique",
        )
        self._critiques.append(critique)
        return critique

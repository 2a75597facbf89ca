"""Self-critique at an upstream: one more request, in which the Reasoner is asked whether its own answer is right."""

import contextlib
import re

from drr.engine.upstream.chat import ChatAbilities, ChatClient, counted_stream, streamed
from drr.engine.upstream.cost import Cost
from drr.judge.scorers.self_critique import critique_question
from drr.loop.chat.said import Answered, Field
from drr.loop.policy import Score
from drr.loop.scoring import Boundary
from drr.loop.stated import answer_in

_ROOM, _THOROUGH_ROOM = 2048, 8192
"""Tokens of one verdict, hidden thinking included."""

_WORD = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_UNDECIDED = 0.5


class CritiqueSession:
    """Judges the attempts of one response: 1 for yes, 0 for no, 0.5 where neither is said. With `thorough` the Reasoner
    is to check step by step, with the effort of the request; else it answers at once, with the least.

    `tokens` is what the verdicts took; their requests are in `cost`.
    """

    def __init__(
        self, client: ChatClient, abilities: ChatAbilities, model: str, question: str, cost: Cost, *, thorough: bool
    ) -> None:
        self._client, self._abilities, self._model, self._question = client, abilities, model, question
        self._cost, self._thorough = cost, thorough
        self.tokens = 0

    async def score(self, boundary: Boundary) -> Score:
        """UpstreamError where the upstream gives no verdict."""
        proposed = answer_in(boundary.steps[-1]) or boundary.text
        asked = critique_question(self._question, proposed, written=self._thorough)
        body = {"model": self._model, "messages": [{"role": "user", "content": asked}]}
        limit: dict[str, object] = {self._abilities.limit_field: _THOROUGH_ROOM if self._thorough else _ROOM}
        if self._abilities.effort and not self._thorough:
            limit["reasoning_effort"] = "low"
        sent = {**streamed(body, self._abilities), **limit}
        said, own = "", Cost()
        try:
            stream = counted_stream(self._client, sent, asked, own)
            async with contextlib.aclosing(stream) as items:
                async for item in items:
                    if not isinstance(item, Answered) and item.field is Field.CONTENT:
                        said += item.text
        finally:
            self.tokens += own.completion_tokens
            self._cost.include(own)
        value = self._verdict(said)
        return Score(value, value)

    def _verdict(self, said: str) -> float:
        """The last word counts where reasons are given, else the first."""
        words = _WORD.findall(said)
        if not words:
            return _UNDECIDED
        return float(words[-1 if self._thorough else 0].lower() == "yes")

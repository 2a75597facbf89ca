"""The DM as a scorer: a text classifier reads the question and the steps, and the fusion head makes the score.

This module does not know where the classifier runs. A causal classifier pools the last token, so with a prefix cache a
boundary costs no more than its own step. Each attempt has one input under way at a time, because two at once would both
compute the part that they share. Boundaries that close in the meantime are then judged together, in one pass.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from drr.judge.dm_input import DmInput, Tokenizer
from drr.judge.head import FusionHead
from drr.loop.policy import Score
from drr.loop.probing import Probe
from drr.loop.scoring import Boundary, ScorerUnavailableError

Logits = tuple[float, float]
"""The classifier's raw logits (now, later)."""


@dataclass(frozen=True, slots=True)
class Classified:
    """Logits at the requested ends, and how many tokens were computed and how many cached (None if unknown)."""

    logits: list[Logits]
    computed: int | None = None
    cached: int | None = None


Classify = Callable[[list[int], Sequence[int], str | None], Awaitable[Classified]]
"""Called with the ids of an input, the ends in it whose logits are wanted (each a number of leading ids, in ascending
order), and the salt of the prefix cache (None for the cache that all share). ScorerUnavailableError once the classifier
will never answer again."""


class DmScorer:
    """Scores boundaries with the DM.

    `on_death` is called once, when the classifier becomes unavailable; from then on every score fails immediately.
    `on_tokens` is called with how many tokens of an input were computed and how many were cached.
    """

    def __init__(
        self,
        id: str,
        classify: Classify,
        tokenizer: Tokenizer,
        head: FusionHead,
        max_tokens: int,
        on_death: Callable[[BaseException], None] = lambda error: None,
        on_tokens: Callable[[int, int], None] = lambda computed, cached: None,
    ) -> None:
        self.id = id
        self.dead = False
        self._classify, self._tokenizer, self._head = classify, tokenizer, head
        self._max_tokens, self._on_death, self._on_tokens = max_tokens, on_death, on_tokens

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "DmSession":
        return DmSession(self, DmInput(self._tokenizer, question, self._max_tokens), cache_salt)

    async def logits(self, ids: list[int], ends: Sequence[int], cache_salt: str | None = None) -> list[Logits]:
        """The classifier's raw logits at these ends of an input. ScorerUnavailableError once it is unavailable."""
        if self.dead:
            raise ScorerUnavailableError(self.id)
        try:
            classified = await self._classify(ids, ends, cache_salt)
        except ScorerUnavailableError as error:
            if not self.dead:
                self.dead = True
                self._on_death(error)
            raise
        if classified.computed is not None and classified.cached is not None:
            self._on_tokens(classified.computed, classified.cached)
        return classified.logits

    def fuse(self, logits: Logits, features: list[float] | None) -> Score:
        return self._head.score(logits, features)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A boundary that waits for its logits: the ids of the input up to it, and the logits once they are known."""

    ids: list[int]
    logits: Logits | None = None


class DmSession:
    """Scores the boundaries of one attempt."""

    def __init__(self, scorer: DmScorer, context: DmInput, cache_salt: str | None = None) -> None:
        self._scorer, self._context, self._cache_salt = scorer, context, cache_salt
        self._turn = asyncio.Lock()
        self._waiting: list[_Waiting] = []

    async def score(self, boundary: Boundary) -> Score:
        return self._scorer.fuse(await self.logits(boundary), boundary.features)

    async def logits(self, boundary: Boundary) -> Logits:
        """The classifier's raw logits at a boundary."""
        for step in boundary.steps:
            ids = self._context.append(step)
        waiting = _Waiting(ids)
        self._waiting.append(waiting)
        try:
            async with self._turn:
                return waiting.logits or await self._judge(waiting)
        finally:
            self._waiting.remove(waiting)

    async def _judge(self, first: _Waiting) -> Logits:
        """Judge `first`, and in the same pass the waiting boundaries whose input begins with that of `first`."""
        together = [waiting for waiting in self._waiting if waiting.ids[: len(first.ids)] == first.ids]
        all_logits = await self._scorer.logits(
            together[-1].ids, [len(waiting.ids) for waiting in together], self._cache_salt
        )
        for waiting, logits in zip(together, all_logits, strict=True):
            waiting.logits = logits
        return all_logits[0]

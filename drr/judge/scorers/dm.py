"""The DM as a scorer: a text classifier for the question and the steps, the fusion head for the rest.

Where the classifier runs is not known here. A causal one pools the last token, so a longer context reuses the shorter
one's prefix cache and a boundary costs only its own step. One input per attempt is under way at a time: two at once
would compute what they share twice. Boundaries that close meanwhile are judged together afterwards, in one pass.
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
"""The classifier's raw (now, later)."""


@dataclass(frozen=True, slots=True)
class Classified:
    """Logits at the ends that were asked for; how many tokens were computed and how many cached, None if unknown."""

    logits: list[Logits]
    computed: int | None = None
    cached: int | None = None


Classify = Callable[[list[int], Sequence[int], str | None], Awaitable[Classified]]
"""An input, the ends in it whose logits are wanted (counts of its first ids, none less than the one before), and the
salt of the prefix cache that it may use (None for the one that all share). ScorerUnavailableError once it will never answer again."""


class DmScorer:
    """Scores boundaries with the DM.

    The death of its classifier is reported through `on_death`, once; from then on every score fails at once.
    `on_tokens` is told how many tokens of an input were computed and how many cached.
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
        """The classifier's raw logits at these ends of an input; ScorerUnavailableError once there is none any more."""
        if self.dead:
            raise ScorerUnavailableError(self.id)
        try:
            found = await self._classify(ids, ends, cache_salt)
        except ScorerUnavailableError as error:
            if not self.dead:
                self.dead = True
                self._on_death(error)
            raise
        if found.computed is not None and found.cached is not None:
            self._on_tokens(found.computed, found.cached)
        return found.logits

    def fuse(self, logits: Logits, features: list[float] | None) -> Score:
        return self._head.score(logits, features)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A boundary to be judged: the input up to it, and its logits once they are known."""

    ids: list[int]
    logits: Logits | None = None


class DmSession:
    """One attempt's boundaries."""

    def __init__(self, scorer: DmScorer, context: DmInput, cache_salt: str | None = None) -> None:
        self._scorer, self._context, self._cache_salt = scorer, context, cache_salt
        self._turn = asyncio.Lock()
        self._waiting: list[_Waiting] = []

    async def score(self, boundary: Boundary) -> Score:
        for step in boundary.steps:
            ids = self._context.append(step)
        own = _Waiting(ids)
        self._waiting.append(own)
        try:
            async with self._turn:
                logits = own.logits or await self._judge(own)
        finally:
            self._waiting.remove(own)
        return self._scorer.fuse(logits, boundary.features)

    async def _judge(self, first: _Waiting) -> Logits:
        """Judge this boundary, and with it those behind it that wait already."""
        together = [own for own in self._waiting if own.ids[: len(first.ids)] == first.ids]
        found = await self._scorer.logits(together[-1].ids, [len(own.ids) for own in together], self._cache_salt)
        for own, logits in zip(together, found, strict=True):
            own.logits = logits
        return found[0]

"""A public process reward model as a scorer (Qwen2.5-Math-PRM, arXiv 2501.07301, and models of the same kind).

Such a model reads the question and all steps so far, each followed by a separator token, and gives at every separator
the probability that the step before it is right. The score is that of the worst step. Pooling at all separators cannot
use the prefix cache, so every boundary costs the whole attempt so far.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from drr.loop.policy import Score
from drr.loop.probing import Probe
from drr.loop.scoring import Boundary, ScorerUnavailableError

SEPARATOR = "<extra_0>"
"""The token that ends a step in the input of the Qwen2.5-Math-PRM models."""

Rewards = Callable[[list[int]], Awaitable[list[float]]]
"""Called with the ids of an input; returns for every separator in it the probability that the step before is right.
ScorerUnavailableError once the model will never answer again."""

_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


class ProcessRewardScorer:
    """Scores boundaries by the lowest step reward so far; `rewards` asks the model, whose tokenizer is `tokenizer`.

    `max_tokens` is the model's context: an attempt that grows longer than that keeps the last score that it had.
    """

    id = "prm"

    def __init__(self, rewards: Rewards, tokenizer: Any, max_tokens: int) -> None:
        self.dead = False
        self._rewards, self._tokenizer, self.max_tokens = rewards, tokenizer, max_tokens

    def session(
        self, question: str, probe: Probe | None = None, cache_salt: str | None = None
    ) -> "ProcessRewardSession":
        return ProcessRewardSession(self, question)

    def render(self, question: str, steps: list[str]) -> list[int]:
        """The ids of the model's input: a conversation whose reply is the steps, each followed by a separator."""
        messages = [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": question},
            {"role": "assistant", "content": "".join(step.strip() + SEPARATOR for step in steps)},
        ]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    async def rewards(self, ids: list[int]) -> list[float]:
        """Every step's probability of being right. ScorerUnavailableError once the model is unavailable."""
        if self.dead:
            raise ScorerUnavailableError(self.id)
        try:
            return await self._rewards(ids)
        except ScorerUnavailableError:
            self.dead = True
            raise

    def fits(self, ids: list[int]) -> bool:
        """Whether the model reads an input of this length."""
        return len(ids) <= self.max_tokens


class ProcessRewardSession:
    """Scores the boundaries of one attempt."""

    def __init__(self, scorer: ProcessRewardScorer, question: str) -> None:
        self._scorer, self._question = scorer, question
        self._steps: list[str] = []
        self._newest: asyncio.Future[float] | None = None

    async def score(self, boundary: Boundary) -> Score:
        self._steps.extend(boundary.steps)
        before = self._newest
        lowest = self._newest = asyncio.get_running_loop().create_future()
        try:
            lowest.set_result(await self._lowest(before))
        finally:
            lowest.cancel()  # does nothing if there is a result; else tells later boundaries that there is none
        return Score(lowest.result(), lowest.result())

    async def _lowest(self, before: "asyncio.Future[float] | None") -> float:
        ids = self._scorer.render(self._question, self._steps)
        if self._scorer.fits(ids):
            return min(await self._scorer.rewards(ids))
        if before is not None:
            await asyncio.wait([before])
        if before is None or before.cancelled():
            raise ValueError(
                f"{self._scorer.max_tokens} tokens, all that the model reads, are too few for this attempt"
            )
        return before.result()

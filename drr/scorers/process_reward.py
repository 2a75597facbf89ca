"""A public process reward model as a scorer (Qwen2.5-Math-PRM, arXiv 2501.07301, and what is made like it).

Such a model reads the question and all steps so far, each followed by a separator token, and gives at every separator
the probability that the step before it is right. An attempt is as good as its worst step. vLLM pools at the separators
(STEP), for which it reads no prefix cache: every boundary costs the whole attempt so far.
"""

import asyncio
import itertools
from typing import Any

from vllm.inputs.engine import tokens_input
from vllm.pooling_params import PoolingParams
from vllm.v1.engine.exceptions import EngineDeadError

from drr.policy import Score
from drr.probing import Probe
from drr.scorers.dm import Encode
from drr.scorers.protocol import Boundary, ScorerUnavailableError

SEPARATOR = "<extra_0>"
"""Ends a step in the input of the Qwen2.5-Math-PRM models."""

_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


class ProcessRewardScorer:
    """Scores boundaries by the lowest step reward so far; `encode` is AsyncLLM.encode of the model's engine.

    `max_tokens` is the engine's context: an attempt that outgrows it keeps its last score.
    """

    id = "prm"

    def __init__(self, encode: Encode, tokenizer: Any, max_tokens: int) -> None:
        self.dead = False
        self._encode, self._tokenizer, self.max_tokens = encode, tokenizer, max_tokens
        self._numbers = itertools.count()

    def session(self, question: str, probe: Probe | None = None) -> "ProcessRewardSession":
        return ProcessRewardSession(self, question)

    def render(self, question: str, steps: list[str]) -> list[int]:
        """The model's input: a conversation whose reply is the steps, a separator behind each."""
        messages = [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": question},
            {"role": "assistant", "content": "".join(step.strip() + SEPARATOR for step in steps)},
        ]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    async def rewards(self, ids: list[int]) -> list[float]:
        """Every step's probability of being right; ScorerUnavailableError once the engine is gone."""
        if self.dead:
            raise ScorerUnavailableError(self.id)
        params = PoolingParams(task="token_classify", use_activation=False)
        try:
            async for output in self._encode(tokens_input(ids), params, f"prm-{next(self._numbers)}"):
                logits = output.outputs.data
        except EngineDeadError as error:
            self.dead = True
            raise ScorerUnavailableError(self.id) from error
        return [float(own) for own in logits.float().softmax(-1)[:, 1]]

    def fits(self, ids: list[int]) -> bool:
        """Whether the engine takes an input of this length."""
        return len(ids) <= self.max_tokens


class ProcessRewardSession:
    """One attempt's boundaries."""

    def __init__(self, scorer: ProcessRewardScorer, question: str) -> None:
        self._scorer, self._question = scorer, question
        self._steps: list[str] = []
        self._newest: asyncio.Future[float] | None = None

    async def score(self, boundary: Boundary) -> Score:
        self._steps.extend(boundary.steps)
        before = self._newest
        own = self._newest = asyncio.get_running_loop().create_future()
        try:
            own.set_result(await self._lowest(before))
        finally:
            own.cancel()  # where there is no result: nothing is known here
        return Score(own.result(), own.result())

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

"""An engine that thinks by the numbers: `generate` in the shape of AsyncLLM's, decided by prompt and seed alone.

python -m tests.fake_engine OUT COUNT PACE      distils COUNT arithmetic questions into OUT, PACE seconds per request
"""

import asyncio
import random
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from drr import reference
from drr.engine.open_reasoner import OpenReasoner, known_format
from drr.learn.distill import distill
from drr.learn.distill_config import DistillConfig
from drr.learn.records import Manifest
from drr.loop.formats import PlainChain, ReasoningFormat
from drr.tasks import Question, Split
from drr.tasks.arithmetic import questions

TOKENIZER = AutoTokenizer.from_pretrained(reference.reasoner_folder())
FORM = known_format(TOKENIZER, "")


class FakeEngine:
    """Answers arithmetic questions rightly with probability `skill`, else with a wrong number."""

    def __init__(
        self, asked: list[Question], skill: float = 0.6, pace: float = 0.0, form: ReasoningFormat = FORM
    ) -> None:
        self.form = form
        self._gold = {question.text: question.answer for question in asked}
        self.skill, self.pace = skill, pace
        self.requests = 0
        self.running = 0

    async def generate(
        self, prompt: Any, params: SamplingParams, request_id: str, **_: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        self.requests += 1
        self.running += 1
        try:
            await asyncio.sleep(self.pace)
            ids = list(prompt["prompt_token_ids"])
            draw = f"{params.seed} {ids if params.seed is None else None}"
            text = self._text(TOKENIZER.decode(ids), random.Random(draw))
            tokens = TOKENIZER.encode(text, add_special_tokens=False)
            whole = params.output_kind is RequestOutputKind.FINAL_ONLY
            rng = random.Random(f"logprobs {draw}")
            for start in range(0, len(tokens), len(tokens) if whole else 5):
                part = tokens if whole else tokens[start : start + 5]
                last = start + len(part) >= len(tokens)
                logprobs: Any = None if params.logprobs is None else [{t: Logprob(-rng.random())} for t in part]
                reason = "stop" if last else None
                completion = CompletionOutput(
                    0, text if whole else TOKENIZER.decode(part), part, None, logprobs, finish_reason=reason
                )
                yield RequestOutput(request_id, None, ids, None, [completion], last)
        finally:
            self.running -= 1

    def _text(self, prompt: str, rng: random.Random) -> str:
        gold = next(answer for text, answer in self._gold.items() if text in prompt)
        stated = gold if rng.random() < self.skill else str(int(gold) + rng.choice((-1, 1, 10)))
        if isinstance(self.form, PlainChain):
            said = f"so: 1+2=3.\n\nIt is {stated}.\n\nThe answer is {stated}."
            return f" {stated}." if prompt.endswith(self.form.answer_prefix) else said
        if FORM.close_text in prompt:
            return f"\n\nThe answer is {stated}."
        return (
            f"so: 1+2=3.\n\nSo the answer is {stated}.\n\nLet me check.\n\n{FORM.close_text}\n\nThe answer is {stated}."
        )

    def reasoner(self, max_model_len: int = 2048) -> OpenReasoner:
        return OpenReasoner(self.generate, TOKENIZER, self.form, max_model_len, "fake", "0123456789abcdef")


def distil(
    asked: list[Question], out: Path, config: DistillConfig, engine: FakeEngine | None = None, **options: Any
) -> Manifest:
    """Distil with a fake engine."""
    chosen = engine or FakeEngine(asked)
    return asyncio.run(distill(chosen.reasoner(), asked, out, config, **options))


if __name__ == "__main__":
    folder, count, pace = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    chosen = questions(3, Split.TRAIN, count)
    distil(
        chosen, folder, DistillConfig(rollouts=3, extra_rollouts=2, shard_questions=4), FakeEngine(chosen, pace=pace)
    )

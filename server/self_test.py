"""Whether a DM that has been started says what it said when it was made; if not, nobody is to be judged by it."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from drr.engine.state_ids import StateIds
from drr.judge.head import JUDGE_LOGITS
from drr.judge.scorers.dm import DmScorer
from drr.judge.self_test import SelfTest, disagreement
from drr.loop.scoring import Boundary
from server.errors import StartupError
from server.vllm_api import AsyncLLM, SamplingParams, tokens_input

logger = logging.getLogger("drr")

_OUTPUTS = len(JUDGE_LOGITS["head"])


async def check_text(folder: Path, scorer: DmScorer) -> None:
    """StartupError where the classifier of the DM in `folder` does not say what was recorded."""
    recorded = _recorded(folder)
    for check in recorded.text if recorded is not None else ():
        session = scorer.session(check.question)
        boundaries = [Boundary(index, step, None) for index, step in enumerate(check.steps)]
        said = await asyncio.gather(*map(session.logits, boundaries))
        for one, other in zip(said, check.logits, strict=True):
            _compare(folder, "text classifier", one, other)


async def check_heads(engine: AsyncLLM, ids: StateIds, folders: Sequence[Path]) -> None:
    """StartupError where a head in the Reasoner's engine cannot be heard, or does not say what was recorded. `folders`
    are those of the DMs with a head, in the order of the heads. Asking them compiles what later requests use."""
    await _said(engine, ids, [0])
    for place, folder in enumerate(folders):
        recorded = _recorded(folder)
        for check in recorded.states if recorded is not None else ():
            said = await _said(engine, ids, check.ids)
            _compare(folder, "head", said[_OUTPUTS * place :][:_OUTPUTS], check.logits)


async def _said(engine: AsyncLLM, ids: StateIds, context: list[int]) -> tuple[float, ...]:
    """What all heads say behind this context."""
    params = SamplingParams(max_tokens=2, logprob_token_ids=ids.all, detokenize=False)
    outputs = [output async for output in engine.generate(tokens_input(context), params, "heads")]
    told = outputs[-1].outputs[0].logprobs
    said = ids.read(told[0]) if told else None
    if said is None:
        raise StartupError("the Reasoner's engine does not tell what its heads say: it has not loaded DRR's plugin")
    return said


def _recorded(folder: Path) -> SelfTest | None:
    recorded = SelfTest.load(folder)
    if recorded is None:
        logger.warning("The DM %s cannot be tested: it was made without recorded scores", folder)
    return recorded


def _compare(folder: Path, part: str, said: Sequence[float], recorded: Sequence[float]) -> None:
    difference = disagreement(said, recorded)
    if difference is not None:
        raise StartupError(f"the DM {folder} judges otherwise than when it was made: of its {part}, {difference}")

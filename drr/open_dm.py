"""A DM opened in this process, beside a Reasoner, for evaluation."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from drr.dm import DmCard, load_dm_head
from drr.engines import CPU_DM_KV_CACHE_BYTES, cpu_engine_defaults
from drr.scorers.dm import DmScorer, tokenizer_of


@contextlib.asynccontextmanager
async def open_dm(folder: Path, gpu_share: float = 0.1) -> AsyncIterator[DmScorer]:
    """The DM in `folder` on a vLLM engine of its own. Open it before the Reasoner, which takes what memory is left."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    card = DmCard.load(folder)
    options = cpu_engine_defaults(CPU_DM_KV_CACHE_BYTES) or {"gpu_memory_utilization": gpu_share}
    options["dtype"] = "float32"  # as calibrated: thresholds near 1 do not survive another precision
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(model=str(folder), runner="pooling", disable_log_stats=True, **options)
    )
    try:
        limit = min(card.max_tokens, engine.model_config.max_model_len)
        yield DmScorer(card.id, engine.encode, tokenizer_of(engine), load_dm_head(folder), limit)
    finally:
        engine.shutdown()

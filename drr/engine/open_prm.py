"""A process reward model opened in this process. Open it before the Reasoner, which takes what memory is left."""

import contextlib
from collections.abc import AsyncIterator

from vllm.config import PoolerConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from drr.engine.classifier import StepRewards, tokenizer_of
from drr.engine.defaults import PRM_GPU_SHARE
from drr.engine.devices import CPU_DM_KV_CACHE_BYTES, cpu_engine_defaults
from drr.engine.open_reasoner import load_tokenizer
from drr.engine.starting import starting
from drr.errors import InputError
from drr.judge.scorers.process_reward import SEPARATOR, ProcessRewardScorer


def start_prm(model: str, gpu_share: float = PRM_GPU_SHARE) -> tuple[AsyncLLM, ProcessRewardScorer]:
    """The process reward model in a folder or by a Hugging Face id, on a vLLM engine of its own, which the caller
    shuts down; InputError where it has no step separator."""
    separator = load_tokenizer(model, "--prm").get_vocab().get(SEPARATOR)
    if separator is None:
        raise InputError("--prm", f"{model} has no token {SEPARATOR}: not a process reward model of the known kind")
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=model,
            runner="pooling",
            pooler_config=PoolerConfig(tok_pooling_type="STEP", step_tag_id=separator),
            disable_log_stats=True,  # a second engine's would unregister the first one's metrics
            **(cpu_engine_defaults(CPU_DM_KV_CACHE_BYTES) or {"gpu_memory_utilization": gpu_share}),
        )
    )
    limit = engine.model_config.max_model_len
    return engine, ProcessRewardScorer(StepRewards(engine.encode), tokenizer_of(engine), limit)


@contextlib.asynccontextmanager
async def open_prm(model: str) -> AsyncIterator[ProcessRewardScorer]:
    """A scorer on the process reward model, for evaluation."""
    with starting("--prm", model):
        engine, scorer = start_prm(model)
    try:
        yield scorer
    finally:
        engine.shutdown()

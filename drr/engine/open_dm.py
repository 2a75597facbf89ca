"""A DM opened in this process, beside its Reasoner. Open it first: the Reasoner takes what memory is left."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from drr.engine.classifier import LocalClassifier, tokenizer_of
from drr.engine.defaults import DM_GPU_SHARE
from drr.engine.devices import CPU_DM_KV_CACHE_BYTES, cpu_engine_defaults, dm_precision
from drr.engine.starting import starting
from drr.judge.dm_folder import DmCard, load_dm_head
from drr.judge.scorers.dm import DmScorer
from drr.judge.scorers.state import StateScorer


def start_dm(
    card: DmCard,
    folder: Path,
    *,
    gpu_share: float = DM_GPU_SHARE,
    kv_cache_bytes: int | None = None,
    precision: str | None = None,
    on_death: Callable[[BaseException], None] = lambda error: None,
    on_tokens: Callable[[int, int], None] = lambda computed, cached: None,
) -> tuple[AsyncLLM, DmScorer]:
    """The DM in `folder` on a vLLM engine of its own, which the caller shuts down; and a scorer on it. `precision` is
    the data type that its classifier computes in."""
    options = cpu_engine_defaults(kv_cache_bytes or CPU_DM_KV_CACHE_BYTES)
    if not options:
        options = {"gpu_memory_utilization": gpu_share}
        if kv_cache_bytes:
            options["kv_cache_memory_bytes"] = kv_cache_bytes
    options["dtype"] = precision or dm_precision()
    # No statistics: a second engine's would unregister the first one's metrics.
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(model=str(card.classifier_in(folder)), runner="pooling", disable_log_stats=True, **options)
    )
    limit = min(card.max_tokens, engine.model_config.max_model_len)
    head, tokenizer = load_dm_head(folder), tokenizer_of(engine)
    # vLLM caches prefixes of the inputs of such poolers only whose output a later token cannot change.
    classifier = LocalClassifier(engine.encode, causal=bool(engine.vllm_config.cache_config.enable_prefix_caching))
    return engine, DmScorer(card.id, classifier, tokenizer, head, limit, on_death, on_tokens)


def scorer_of(card: DmCard, folder: Path, text: DmScorer | None, place: int = 0) -> DmScorer | StateScorer:
    """The scorer of the DM in `folder`. `text` is the one on its classifier, None where it has none; `place` is the
    number of its head among the Reasoner's engine's, where it has one."""
    if text is not None and card.kind == "text":
        return text
    return StateScorer(card.id, load_dm_head(folder), place, text)


@contextlib.asynccontextmanager
async def open_dm(folder: Path) -> AsyncIterator[DmScorer | StateScorer]:
    """A scorer on the DM in `folder`, for evaluation. If it has a head, the Reasoner's engine has to run that
    (`heads_of`)."""
    card = DmCard.load(folder)
    if card.kind == "head":
        yield scorer_of(card, folder, None)
        return
    with starting("--dm", str(folder)):
        engine, text = start_dm(card, folder)
    try:
        yield scorer_of(card, folder, text)
    finally:
        engine.shutdown()


def heads_of(folder: Path | None) -> list[Path]:
    """The files of the state heads that the Reasoner's engine has to run for the DM in `folder`."""
    head = None if folder is None else DmCard.load(folder).state_head_in(folder)
    return [] if head is None else [head]

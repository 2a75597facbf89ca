"""The engines of a server: the DM's, a process reward model's, the Reasoner's; started, checked, ended."""

import argparse
import asyncio
import contextlib
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from drr.engine.devices import engine_on, give_way, on_cpu, parse_cpus
from drr.engine.open_dm import start_dm
from drr.engine.open_prm import start_prm
from drr.engine.remote_dm import RemoteClassifier, remote_dm
from drr.judge.dm_folder import DmCard, DmMismatchError, fingerprint
from drr.judge.scorers.dm import DmScorer
from drr.judge.scorers.process_reward import ProcessRewardScorer
from drr.loop.scoring import Boundary
from drr.loop.steps import StepRule
from server import metrics
from server.engine import ThinkingEngine
from server.vllm_api import AsyncEngineArgs, AsyncLLM, UsageContext

logger = logging.getLogger("drr")


class StartupError(Exception):
    """The server cannot start as asked; the message is for the operator."""


@dataclass(slots=True)
class Dm:
    """A DM that is running: its card and scorer, and its engine where that is here."""

    card: DmCard
    scorer: DmScorer
    engine: AsyncLLM | None = None
    remote: RemoteClassifier | None = None

    @property
    def dead(self) -> bool:
        """Whether its engine is gone for good."""
        return self.scorer.dead or (self.engine is not None and self.engine.errored)


@dataclass(slots=True)
class Models:
    """What has been started."""

    reasoner: ThinkingEngine | None = None
    dm: Dm | None = None
    prm: tuple[AsyncLLM, ProcessRewardScorer] | None = None

    async def shutdown(self) -> None:
        """End all of it."""
        if self.reasoner is not None:
            self.reasoner.shutdown()
        if self.dm is not None and self.dm.engine is not None:
            self.dm.engine.shutdown()
        if self.dm is not None and self.dm.remote is not None:
            await self.dm.remote.aclose()
        if self.prm is not None:
            self.prm[0].shutdown()


async def start_models(
    models: Models, card: DmCard | None, args: argparse.Namespace, engine_class: type[ThinkingEngine]
) -> None:
    """Start every model that is asked for: side by side where that is safe, else the judges first, which take a share
    of the memory, and then the Reasoner, which takes what is left."""
    cpus = {
        option: None if text is None else parse_cpus(option, text)
        for option, text in (("--dm-cpus", args.dm_cpus), ("--drr-reasoner-cpus", args.drr_reasoner_cpus))
    }

    def start_judge() -> None:
        assert card is not None
        with _named(f"the DM {args.dm}"), engine_on(cpus["--dm-cpus"]):
            models.dm = _start_dm(card, args)

    def start_process_reward() -> None:
        with _named(f"the process reward model {args.prm}"):
            models.prm = start_prm(args.prm, args.prm_gpu_memory_utilization)

    def start_reasoner() -> None:
        with _named(f"the Reasoner {args.model}"), engine_on(cpus["--drr-reasoner-cpus"]):
            models.reasoner = _start_reasoner(args, engine_class)

    starts = [start_judge] if card is not None else []
    starts += [start_process_reward] if args.prm else []
    starts.append(start_reasoner)
    if on_cpu() and not any(cpus.values()):  # on a GPU engines measure free memory; cores are given by environment
        await _side_by_side(starts)
    else:
        for start in starts:
            start()
    if models.dm is not None:
        await _warm_up(models.dm)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors that are raised inside say, as a note, what could not be started."""
    try:
        yield
    except Exception as error:
        error.add_note(what)
        raise


async def _side_by_side(starts: Sequence[Callable[[], None]]) -> None:
    """Run all of them at once, each begun when the engine process of the one before is there; the first error is
    raised when all have ended."""
    tasks = []
    for start in starts:
        before = len(multiprocessing.active_children())
        tasks.append(asyncio.create_task(asyncio.to_thread(start)))
        while len(multiprocessing.active_children()) == before and not tasks[-1].done():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    for failed in await asyncio.gather(*tasks, return_exceptions=True):
        if failed is not None:
            raise failed


async def _warm_up(dm: Dm) -> None:
    """Have the DM judge something before anybody waits for it: the first verdict compiles what later ones use."""
    try:
        await dm.scorer.session("What is 1 + 1?").score(Boundary(0, "1 + 1 is 2.\n\n", None))
    except Exception as error:
        logger.warning("The DM could not be warmed up: %r", error)


def _start_dm(card: DmCard, args: argparse.Namespace) -> Dm:
    if args.dm_url:
        remote, scorer = remote_dm(card, Path(args.dm), args.dm_url)
        return Dm(card, scorer, remote=remote)

    def on_death(error: BaseException) -> None:
        metrics.DM_UP.set(0)
        logger.error("The DM's engine is gone; requests go on without it, thinking in full. %s", error)

    engine, scorer = start_dm(
        card,
        Path(args.dm),
        gpu_share=args.dm_gpu_memory_utilization,
        kv_cache_bytes=args.dm_kv_cache_memory_bytes,
        on_death=on_death,
        on_tokens=metrics.observe_dm_tokens,
    )
    if args.dm_nice:
        give_way(engine, args.dm_nice)
    return Dm(card, scorer, engine)


def _start_reasoner(args: argparse.Namespace, engine_class: type[ThinkingEngine]) -> ThinkingEngine:
    engine_args = AsyncEngineArgs.from_cli_args(args)
    config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    engine = engine_class.from_vllm_config(
        vllm_config=config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        enable_log_requests=engine_args.enable_log_requests,
        aggregate_engine_logging=engine_args.aggregate_engine_logging,
        disable_log_stats=engine_args.disable_log_stats,
    )
    assert isinstance(engine, engine_class)
    return engine


def read_dm_card(args: argparse.Namespace, rule: StepRule) -> DmCard | None:
    """The DM's card, checked against a Reasoner that is a folder before anything is started."""
    if not args.dm:
        return None
    card = DmCard.load(Path(args.dm))
    if Path(args.model).is_dir():
        _check_dm(card, Path(args.model), rule, args.dm_allow_mismatch)
    return card


def check_downloaded(card: DmCard, engine: AsyncLLM, args: argparse.Namespace, rule: StepRule) -> None:
    """Check a DM against a Reasoner named by a hub's id, whose weights are here only once its engine has started."""
    if not Path(args.model).is_dir():
        _check_dm(card, weights_of(args, engine), rule, args.dm_allow_mismatch)


def weights_of(args: argparse.Namespace, engine: AsyncLLM) -> Path:
    """The folder of a started Reasoner's weights."""
    if Path(args.model).is_dir():
        return Path(args.model)
    config = engine.model_config
    return Path(snapshot_download(config.model, revision=config.revision, local_files_only=True))


def _check_dm(card: DmCard, reasoner: Path, rule: StepRule, allow_mismatch: bool) -> None:
    try:
        card.check(fingerprint(reasoner), rule)
    except DmMismatchError as error:
        if not allow_mismatch:
            raise StartupError(f"{error}; --dm-allow-mismatch serves it all the same") from error
        logger.warning("%s; served all the same, as asked", error)

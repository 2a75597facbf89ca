"""The engines of a server: the DMs', a process reward model's, the Reasoner's; started and ended."""

import argparse
import asyncio
import contextlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drr.engine.children import kill_engines
from drr.engine.devices import engine_on, on_cpu, parse_cpus
from drr.engine.judging_engine import prepare_to_judge
from drr.engine.open_prm import start_prm
from drr.engine.state_ids import StateIds
from drr.judge.scorers.process_reward import ProcessRewardScorer
from server.dm_flags import DmFolder
from server.engine import ThinkingEngine
from server.judges import Dm, start_judge, warm_up
from server.self_test import check_heads
from server.upstream import Upstream, start_engine
from server.vllm_api import AsyncEngineArgs, AsyncLLM, UsageContext


@dataclass(slots=True)
class Models:
    """What has been started."""

    reasoner: ThinkingEngine | None = None
    state_ids: StateIds | None = None
    dms: list[Dm] = field(default_factory=list)
    """In the order in which they were asked for."""
    prm: tuple[AsyncLLM, ProcessRewardScorer] | None = None

    def engines(self) -> dict[str, AsyncLLM]:
        """The engines that run here for good, by what they are for."""
        found: dict[str, AsyncLLM] = {} if self.reasoner is None else {"reasoner": self.reasoner}
        if self.prm is not None:
            found["prm"] = self.prm[0]
        return found

    async def shutdown(self) -> None:
        """End all of it."""
        if self.reasoner is not None:
            if self.reasoner.drr is not None and self.reasoner.drr.canaries is not None:
                await self.reasoner.drr.canaries.close()
            self.reasoner.shutdown()
        for dm in self.dms:
            await dm.shutdown()
        if self.prm is not None:
            self.prm[0].shutdown()


async def start_models(
    models: Models,
    dms: Sequence[DmFolder],
    args: argparse.Namespace,
    engine_class: type[ThinkingEngine],
    upstream: Upstream | None = None,
) -> None:
    """Start every model that is asked for: side by side where that is safe, else the judges first, which take a share
    of the memory, and then the Reasoner, which takes what is left. `upstream` runs the Reasoner in its stead."""
    cpus = {
        option: None if text is None else parse_cpus(option, text)
        for option, text in (("--dm-cpus", args.dm_cpus), ("--drr-reasoner-cpus", args.drr_reasoner_cpus))
    }

    heads = [dm.head_file for dm in dms if dm.head_file is not None]

    def start_judges() -> None:
        for dm in dms:
            place = heads.index(dm.head_file) if dm.head_file is not None else 0
            with _named(f"the DM {dm.path}"), engine_on(cpus["--dm-cpus"]):
                models.dms.append(start_judge(dm, place, args))

    def start_process_reward() -> None:
        with _named(f"the process reward model {args.prm}"):
            models.prm = start_prm(args.prm, args.prm_gpu_memory_utilization)

    def start_reasoner() -> None:
        with _named(f"the Reasoner {args.model}"), engine_on(cpus["--drr-reasoner-cpus"]):
            models.reasoner, models.state_ids = _start_reasoner(args, engine_class, heads)

    starts = [start_judges] if dms else []
    starts += [start_process_reward] if args.prm else []
    if upstream is None:
        starts.append(start_reasoner)
    else:
        with _named(f"the front end of {args.model}"):
            models.reasoner = start_engine(args, upstream)
    # On a GPU, engines that are not told their memory measure what is free; cores are given by the environment.
    told = bool(args.kv_cache_memory_bytes and args.dm_kv_cache_memory_bytes) and not args.prm
    if (on_cpu() or told) and not any(cpus.values()):
        await _side_by_side(starts)
    else:
        for start in starts:
            start()
    await warm_up(models.dms)
    if models.reasoner is not None and models.state_ids is not None:
        made_for_it = [] if args.dm_allow_mismatch else [dm.path for dm in dms if dm.head_file is not None]
        await check_heads(models.reasoner, models.state_ids, made_for_it)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors that are raised inside say, as a note, what could not be started."""
    try:
        yield
    except Exception as error:
        error.add_note(what)
        raise


async def _side_by_side(starts: Sequence[Callable[[], None]]) -> None:
    """Run all of them at once, each begun when the engine process of the one before is there. Once one has failed, the
    others are ended and its error is raised: nobody waits for a Reasoner to be told that the DM cannot be started."""
    tasks = list[asyncio.Task[None]]()
    for start in starts:
        before = len(multiprocessing.active_children())
        tasks.append(asyncio.create_task(asyncio.to_thread(start)))
        while len(multiprocessing.active_children()) == before and not tasks[-1].done():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        if _failed(tasks):
            break
    if not tasks:  # a Reasoner elsewhere, and nobody who judges by an engine
        return
    ended, going_on = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    first = next(iter(_failed(ended)), None)
    while going_on:
        kill_engines()
        going_on = (await asyncio.wait(going_on, timeout=0.2))[1]
    if first is not None:
        _failed(tasks)  # those that were killed have failed, too, and nobody need be told
        raise first


def _failed(tasks: Iterable["asyncio.Task[None]"]) -> list[BaseException]:
    """The errors of those that have ended with one."""
    return [error for task in tasks if task.done() and (error := task.exception()) is not None]


def _start_reasoner(
    args: argparse.Namespace, engine_class: type[ThinkingEngine], heads: Sequence[Path]
) -> tuple[ThinkingEngine, StateIds | None]:
    engine_args = AsyncEngineArgs.from_cli_args(args)
    config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    state_ids = prepare_to_judge(config, heads) if heads else None
    engine = engine_class.from_vllm_config(
        vllm_config=config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        enable_log_requests=engine_args.enable_log_requests,
        aggregate_engine_logging=engine_args.aggregate_engine_logging,
        disable_log_stats=engine_args.disable_log_stats,
    )
    assert isinstance(engine, engine_class)
    return engine, state_ids

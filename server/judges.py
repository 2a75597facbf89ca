"""The DMs of a server: their cards, checked against the Reasoner, and what each of them needs running."""

import argparse
import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from huggingface_hub import snapshot_download

from drr.engine.devices import dm_precision, engine_on, give_way, parse_cpus
from drr.engine.open_dm import scorer_of, start_dm
from drr.engine.remote_dm import RemoteClassifier, check_remote, remote_dm
from drr.errors import InputError
from drr.judge.dm_folder import DmCard, DmMismatchError, fingerprint
from drr.judge.judging_cost import hint
from drr.judge.scorers.dm import DmScorer
from drr.judge.scorers.state import StateScorer
from drr.loop.scoring import Boundary
from drr.loop.steps import StepRule
from server import metrics
from server.arguments import given_flags
from server.dm_flags import DmFolder, dm_folders
from server.errors import StartupError
from server.self_test import check_text
from server.vllm_api import AsyncLLM

logger = logging.getLogger("drr")


@dataclass(slots=True)
class Dm:
    """A DM that is running: its card and scorer, its classifier, and the engine of that where it is here."""

    card: DmCard
    scorer: DmScorer | StateScorer
    text: DmScorer | None = None
    engine: AsyncLLM | None = None
    remote: RemoteClassifier | None = None
    name: str = ""
    folder: Path | None = None
    again: "Callable[[], Dm] | None" = None
    """Starts what runs for it alone once more."""

    async def take_over(self, other: "Dm") -> None:
        """Judge by what has been started for `other`, warmed up."""
        self.engine = other.engine  # to be ended with this DM, whatever becomes of it
        await other.warm_up()
        self.scorer, self.text = other.scorer, other.text

    @property
    def dead(self) -> bool:
        """Whether a part of it is gone for good."""
        return self.scorer.dead or (self.engine is not None and self.engine.errored)

    async def shutdown(self) -> None:
        """End what runs for it alone."""
        if self.engine is not None:
            self.engine.shutdown()
        if self.remote is not None:
            await self.remote.aclose()

    async def warm_up(self) -> None:
        """Have the classifier judge before anybody waits for it, one boundary and several at once: the first verdicts
        compile what later ones use. StartupError where it does not say what it said when it was made."""
        if self.text is None:
            return
        session = self.text.session("What is 1 + 1?")
        boundaries = [Boundary(index, "1 + 1 is 2.\n\n", None) for index in range(4)]
        try:
            await session.logits(boundaries[0])
            await asyncio.gather(*map(session.logits, boundaries[1:]))
        except Exception as error:
            logger.warning("The DM could not be warmed up: %r", error)
        if self.folder is not None:
            await check_text(self.folder, self.text)


def read_dms(args: argparse.Namespace, rule: StepRule) -> list[DmFolder]:
    """The DMs that are asked for, that of `--dm` first, checked against a Reasoner that is a folder before anything is
    started. InputError or StartupError says what is wrong."""
    found = dm_folders(given_flags(args))
    for dm in found if args.upstream else ():
        if dm.head_file is not None:
            reason = (
                "is a head, which runs inside the Reasoner's engine: behind --upstream only a text classifier judges"
            )
            raise InputError("--dm", f"{dm.path} {reason}")
    if found and args.dm_url:
        check_remote(found[0].card, args.dm_url)
    if found and Path(args.model).is_dir():
        check_dms(found, Path(args.model), rule, args)
        told = None if args.dm_url else hint(found[0].card, found[0].path, Path(args.model))
        if told is not None:
            logger.warning("%s", told)
    return found


def check_dms(dms: Sequence[DmFolder], reasoner: Path, rule: StepRule, args: argparse.Namespace) -> None:
    """StartupError where a DM was made for another Reasoner than the one in this folder, or for other steps, unless
    `--dm-allow-mismatch` was given."""
    weights = fingerprint(reasoner)
    if args.upstream and not weights:
        logger.warning("The upstream's weights cannot be compared with those that the DM was made for")
    for dm in dms:
        try:
            dm.card.check(weights if weights or not args.upstream else dm.card.reasoner, rule)
        except DmMismatchError as error:
            if not args.dm_allow_mismatch:
                raise StartupError(f"{error}; --dm-allow-mismatch serves it all the same") from error
            logger.warning("%s; served all the same, as asked", error)


def check_downloaded(dms: Sequence[DmFolder], engine: AsyncLLM, rule: StepRule, args: argparse.Namespace) -> None:
    """The same for a Reasoner named by a hub's id: its weights are here only once its engine has started. Without DMs
    nothing is looked for: vLLM also loads models that are in no hub's cache."""
    if dms and not Path(args.model).is_dir():
        check_dms(dms, weights_of(args, engine), rule, args)


def weights_of(args: argparse.Namespace, engine: AsyncLLM) -> Path:
    """The folder of a started Reasoner's weights."""
    if Path(args.model).is_dir():
        return Path(args.model)
    config = engine.model_config
    return Path(snapshot_download(config.model, revision=config.revision, local_files_only=True))


def start_judge(folder: DmFolder, place: int, args: argparse.Namespace) -> Dm:
    """Start what this DM needs beside the Reasoner; `place` is the number of its head among the engine's, if it has
    one."""
    if folder.card.kind == "head":
        return Dm(folder.card, scorer_of(folder.card, folder.path, None, place), name=folder.name)
    dm = _start_text(folder, args)
    dm.folder = folder.path
    dm.scorer = scorer_of(folder.card, folder.path, dm.text, place)
    dm.again = partial(_again, folder, place, args)
    return dm


def _again(folder: DmFolder, place: int, args: argparse.Namespace) -> Dm:
    """The same once more, on the same cores."""
    cpus = None if args.dm_cpus is None else parse_cpus("--dm-cpus", args.dm_cpus)
    with engine_on(cpus):
        return start_judge(folder, place, args)


def _start_text(folder: DmFolder, args: argparse.Namespace) -> Dm:
    if args.dm_url:
        remote, scorer = remote_dm(folder.card, folder.path, args.dm_url)
        return Dm(folder.card, scorer, scorer, remote=remote)

    def on_death(error: BaseException) -> None:
        metrics.DM_UP.set(0)
        logger.error("The DM's engine is gone; requests go on without it, thinking in full. %s", error)

    engine, scorer = start_dm(
        folder.card,
        folder.path,
        gpu_share=args.dm_gpu_memory_utilization,
        kv_cache_bytes=args.dm_kv_cache_memory_bytes,
        precision=args.dm_dtype or dm_precision(str(args.dtype)),
        on_death=on_death,
        on_tokens=metrics.observe_dm_tokens,
    )
    if args.dm_nice:
        give_way(engine, args.dm_nice)
    return Dm(folder.card, scorer, scorer, engine)


async def warm_up(dms: Sequence[Dm]) -> None:
    """Warm all classifiers up."""
    await asyncio.gather(*(dm.warm_up() for dm in dms))

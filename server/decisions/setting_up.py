"""Begins and ends a server's decision log. The writer, which brings pyarrow, is loaded only where one is asked for."""

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from drr.judge.dm_folder import fingerprint
from server import metrics
from server.decisions.log import DecisionLog
from server.decisions.rows import LogIdentity
from server.judges import weights_of
from server.vllm_api import AsyncLLM

logger = logging.getLogger("drr")

KEY_NAME = "question.key"
"""The file in a log's folder with the key of its questions' hashes."""

_KEY_BYTES = 32


@contextlib.asynccontextmanager
async def logging_decisions(args: argparse.Namespace, engine: Any) -> AsyncIterator[None]:
    """Log the engine's decisions inside, where that is asked for; leaving it writes what there is."""
    if not args.drr_decision_log:
        yield
        return
    writer, engine.drr.log = await asyncio.to_thread(_open, args, engine)
    try:
        yield
    finally:
        engine.drr.log = None
        await asyncio.to_thread(writer.close)


def _open(args: argparse.Namespace, engine: AsyncLLM) -> tuple[Any, DecisionLog]:
    from drr.decisions.writer import Limits, LogWriter  # brings pyarrow

    folder = Path(args.drr_decision_log)
    limits = Limits(
        round(args.drr_decision_log_mb * 1e6),
        round(args.drr_decision_log_total_mb * 1e6),
        args.drr_decision_log_seconds,
    )
    name = (args.served_model_name or [args.model])[0]
    identity = LogIdentity(name, _reasoner(args, engine), args.drr_step_rule, _key(folder))
    writer = LogWriter(folder, limits, metrics.DecisionLogWatcher())
    return writer, DecisionLog(writer, identity, args.drr_decision_log_share, args.drr_decision_log_text)


def _reasoner(args: argparse.Namespace, engine: AsyncLLM) -> str:
    """The fingerprint of the Reasoner's weights; empty where they are no files here."""
    try:
        return fingerprint(weights_of(args, engine))
    except (OSError, ValueError):
        return ""


def _key(folder: Path) -> bytes:
    """The folder's key, made for its first server. Where it cannot be kept, equal questions are known as such only as
    long as this server runs."""
    path = folder / KEY_NAME
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
        key = path.read_bytes()
        if len(key) < _KEY_BYTES:
            raise OSError(0, "it is damaged")
    except OSError as error:
        logger.error("The decision log's %s cannot be used: %s", path, error.strerror)
        return secrets.token_bytes(_KEY_BYTES)
    return key

"""The door, as the server's flags want it."""

import argparse
import asyncio
import logging
import os
import signal
from pathlib import Path

from drr.errors import InputError
from server import metrics
from server.admission.api_keys import ApiKeys, KeyLimits
from server.admission.bodies import BodyLimits
from server.admission.gate import Gate
from server.admission.middleware import Door
from server.admission.under_way import UnderWay
from server.playground.files import playground_paths
from server.vllm_api import AsyncLLM

logger = logging.getLogger("drr")

_BYTES_PER_TOKEN = 32
"""Of a body, for each token of context: several times what text takes, escaped as JSON may be."""

_LEAST_BODY, _PICTURES = 1 << 20, 64 << 20
_BODY_SECONDS = 60.0
_TOGETHER = 16
"""Bodies of the largest size that are held at once, however many smaller ones that makes."""

_MEMORY = 256 << 20
"""Bytes that may always be held."""


def api_keys(args: argparse.Namespace) -> ApiKeys:
    """The keys of --api-key, or of VLLM_API_KEY, and of the file. vLLM's own check, which leaves some routes open, is
    switched off. On SIGHUP the file is read again. InputError where the file cannot be used."""
    given = [key for key in (*(args.api_key or ()), os.environ.pop("VLLM_API_KEY", "")) if key]
    args.api_key = None
    path = Path(args.drr_api_keys) if args.drr_api_keys else None
    keys = ApiKeys(given, path, KeyLimits(args.drr_key_running, args.drr_key_tokens))
    if path is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _read_again, keys)
    if not keys and (args.drr_key_running or args.drr_key_tokens or args.drr_protect_metrics):
        flags = ("--drr-key-running", "--drr-key-tokens", "--drr-protect-metrics")
        named = next(flag for flag in flags if getattr(args, flag[2:].replace("-", "_")))
        raise InputError(named, "needs --drr-api-keys or --api-key")
    return keys


def make_door(args: argparse.Namespace, keys: ApiKeys, engine: AsyncLLM) -> Door:
    """The door of a server with this engine."""
    running = args.drr_max_running or engine.vllm_config.scheduler_config.max_num_seqs
    waiting = args.drr_max_waiting if args.drr_max_waiting is not None else -(-running // 4)
    gate = Gate(running, waiting)
    metrics.RUNNING.set_function(lambda: gate.running)
    metrics.WAITING.set_function(lambda: gate.waiting)
    size = args.drr_max_body_bytes or _largest_body(engine)
    limits = BodyLimits(size, args.drr_max_messages, _BODY_SECONDS, max(_MEMORY, size * _TOGETHER))
    under_way = UnderWay(args.drr_request_seconds, args.drr_stall_seconds)
    if not keys and args.host not in ("127.0.0.1", "localhost", "::1") and not args.uds:
        logger.warning("Anybody who reaches this address may use the server: no API keys were given")
    return Door.of(
        keys,
        limits,
        gate,
        under_way,
        protect_metrics=args.drr_protect_metrics,
        most_branches=args.drr_max_branches,
        also_open=frozenset() if args.drr_no_playground else playground_paths(),
    )


def _read_again(keys: ApiKeys) -> None:
    try:
        logger.warning("The API keys were read again: there are %d", keys.reload())
    except InputError as error:
        logger.error("The API keys stay as they were: %s", error)


def _largest_body(engine: AsyncLLM) -> int:
    model = engine.model_config
    return _PICTURES if model.is_multimodal_model else max(_LEAST_BODY, _BYTES_PER_TOKEN * model.max_model_len)

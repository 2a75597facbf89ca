"""DRR's log lines, written as vLLM writes its own: with times, in text or in JSON, wherever vLLM's go."""

import argparse
import logging

from server.vllm_api import configure_logging_from_args

_FORMAT = "%(levelname)s %(asctime)s %(name)s: %(message)s"
"""Where the operator keeps vLLM from setting up its logs."""


def set_up(args: argparse.Namespace) -> None:
    """Have vLLM set up its logs (`--logging-config`, `--log-level`), and write DRR's by the same handlers."""
    configure_logging_from_args(args)
    handlers = logging.getLogger("vllm").handlers
    own = logging.getLogger("drr")
    if handlers:
        own.handlers, own.propagate = list(handlers), False
    else:
        logging.basicConfig(format=_FORMAT)

"""DRR's log lines, written as vLLM writes its own: with times, in text or in JSON, wherever vLLM's go."""

import argparse
import logging

from server.vllm_api import VLLMClientError, configure_logging_from_args

_FORMAT = "%(levelname)s %(asctime)s %(name)s: %(message)s"
"""Where the operator keeps vLLM from setting up its logs."""


def set_up(args: argparse.Namespace) -> None:
    """Have vLLM set up its logs (`--logging-config`, `--log-level`), and write DRR's by the same handlers."""
    configure_logging_from_args(args)
    handlers = logging.getLogger("vllm").handlers
    for handler in handlers:
        handler.addFilter(_is_no_clients_mistake)
    own = logging.getLogger("drr")
    if handlers:
        own.handlers, own.propagate = list(handlers), False
    else:
        logging.basicConfig(format=_FORMAT)


def _is_no_clients_mistake(record: logging.LogRecord) -> bool:
    """vLLM logs a traceback for every stream whose request was refused; the client has been told."""
    return record.exc_info is None or not isinstance(record.exc_info[1], VLLMClientError)

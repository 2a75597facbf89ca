"""What several commands check."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from drr.checks import check_url
from drr.cli.options import API_KEY_VARIABLE
from drr.cli.parser import needed
from drr.errors import InputError
from drr.learn.records import Manifest
from drr.loop.steps import StepRule

if TYPE_CHECKING:  # brings vLLM, which no mistake in an option has to wait for
    from drr.engine.open_reasoner import ServedAt


def step_rule(options: argparse.Namespace) -> StepRule | None:
    """The step rule that is asked for; None where the default will do."""
    if options.step_rule is None:
        return None
    try:
        return StepRule.parse(options.step_rule)
    except ValueError as error:
        raise InputError("--step-rule", str(error)) from error


def check_server(options: argparse.Namespace, *, chat: bool = False) -> None:
    """InputError unless the options of `--server` say all that is needed; with `chat` that is less."""
    check_url("--server", options.server)
    if not chat:
        needed(options, "tokenizer", f"is needed with --server: the Reasoner's folder or id{_or_chat(options)}")
    if options.api_key_env and options.api_key_env not in os.environ:
        raise InputError("--api-key-env", f"the environment has no {options.api_key_env}")


def _or_chat(options: argparse.Namespace) -> str:
    return " (or --chat)" if hasattr(options, "chat") else ""


def server_key(options: argparse.Namespace) -> str | None:
    """The server's key, None where the environment has none."""
    return os.environ.get(options.api_key_env or API_KEY_VARIABLE)


def served_at(options: argparse.Namespace) -> "ServedAt | None":
    """The server that is asked for; None without --server."""
    if not options.server:
        return None
    from drr.engine.open_reasoner import ServedAt

    return ServedAt(options.server, options.tokenizer, server_key(options))


def complete_records(folder: Path) -> Manifest:
    """The manifest of behaviour records that are complete; InputError says what is wrong with them."""
    manifest = Manifest.load(folder)
    if not manifest.complete:
        raise InputError(str(folder), "is not complete yet: run drr distill again to finish it")
    return manifest

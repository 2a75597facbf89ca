"""The entry point of `drr serve`: what can be said at once is said before vLLM is imported, which takes seconds."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from drr.failures import guarded
from server.arguments import asks_for_own_help, own_help
from server.early import check_early


def main(argv: Sequence[str], engine_class: type[Any] | None = None) -> int:
    """Run the server; returns the exit status. `engine_class` replaces the ThinkingEngine."""
    if asks_for_own_help(argv):
        sys.stdout.write(own_help())
        return 0
    return guarded("drr serve", partial(_run, argv, engine_class))


def _run(argv: Sequence[str], engine_class: type[Any] | None) -> int:
    check_early(argv)
    from server.serving import run

    return run(argv, engine_class)

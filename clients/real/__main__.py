"""Ask a server with clients as they are, and tell what arrives in each.

    python -m clients.real --environment FOLDER              starts a server with the reference models
    python -m clients.real --environment FOLDER --url URL    asks one that runs; it answers to --model

The clients are installed into FOLDER, with the versions in requirements.txt and package.json beside this script; one
that cannot be installed is skipped. The exit status is 1 if a call fails that worked in the record of an earlier run
(--before).
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
from rich.console import Console

from benchmarks.launch import served
from benchmarks.pages import check_section, write_section
from clients.real import results as records
from clients.real.environment import CLIENTS, Client, Environment
from clients.real.results import Result
from clients.real.run import SERVE, run
from clients.real.table import markdown, rich_table

RECORD = Path(__file__).parent / "record.json"
SECTION = "clients"
_WIDTH = 200
_COMMAND = "python -m clients.real"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the clients; returns the exit status."""
    options = _parser().parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    try:
        if options.write is not None:
            check_section(options.write, SECTION)  # now, not after minutes of asking
        before = records.read(options.before) if options.before is not None else []
        if options.url is not None:
            httpx.get(f"{_root(options.url)}/health").raise_for_status()
    except (OSError, ValueError, httpx.HTTPError) as error:
        where = f"{options.url}: " if isinstance(error, httpx.HTTPError) else ""
        console.print(f"{where}{error}", markup=False)
        return 2
    environment = Environment(options.environment)
    chosen = [client for client in CLIENTS if not options.client or client.name in options.client]
    skipped = environment.prepare(chosen)
    for name, reason in skipped.items():
        console.print(f"{name} is skipped: {reason}", markup=False)
    present = [client for client in chosen if client.name not in skipped]
    found = asyncio.run(_ask(present, environment, options, console))
    console.print(rich_table(found))
    if options.json is not None:
        records.write(options.json, found, skipped)
    if options.write is not None:
        write_section(options.write, SECTION, _COMMAND, markdown(found, skipped))
    broken = records.broken(found, before)
    for sentence in broken:
        console.print(sentence, markup=False)
    return 1 if broken else 0


async def _ask(
    clients: Sequence[Client], environment: Environment, options: argparse.Namespace, console: Console
) -> list[Result]:
    """Every client, one after the other; the server is started where no URL is given."""

    async def all_of_them(url: str) -> list[Result]:
        found: list[Result] = []
        for client in clients:
            console.print(f"{client.name} ...", style="dim")
            found += await asyncio.to_thread(run, client, environment, url, options.model)
        return found

    if options.url is not None:
        return await all_of_them(_root(options.url))
    async with served(SERVE) as url:
        return await all_of_them(url)


def _root(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environment", type=Path, required=True, help="folder for the clients; made where it is not")
    parser.add_argument("--url", help="a running server; default: start one with the reference models")
    parser.add_argument("--model", default="drr-reference", help="the model's name there")
    parser.add_argument(
        "--client", action="append", choices=[client.name for client in CLIENTS], help="only this one; may be repeated"
    )
    parser.add_argument("--json", type=Path, help="write everything that was seen to this file")
    parser.add_argument(
        "--write", type=Path, metavar="docs/clients.md", help=f"put the table into the section {SECTION!r}"
    )
    parser.add_argument(
        "--before",
        type=Path,
        default=RECORD if RECORD.exists() else None,
        help="record of an earlier run, made by --json; default: the one beside this script",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

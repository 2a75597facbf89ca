"""Write the tables that are made from the server's own data into the pages of docs/: python -m server.tables"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from server import causes, endpoints, keys, wire
from server.arguments import own_parser
from server.upstream_chat import tiers

DOCS = Path("docs")


def flags_table() -> str:
    """The table of the options of `drr serve` that are DRR's own."""
    rows = ["| option | meaning | default |", "| --- | --- | --- |"]
    for action in own_parser()._actions:
        (name,) = action.option_strings
        named = " ".join(action.metavar) if isinstance(action.metavar, tuple) else action.metavar
        value = "" if action.nargs == 0 else f" {named or _choices(action) or _values(action)}"
        meaning, _, told = (action.help or "").partition("; default: ")
        rows.append(f"| `{name}{value}` | {meaning} | {told or _default(action)} |")
    return "\n".join(rows)


def _values(action: argparse.Action) -> str:
    return "TEXT" if action.type is None else "NUMBER"


def _choices(action: argparse.Action) -> str:
    return "{" + ",".join(action.choices) + "}" if action.choices else ""


def _default(action: argparse.Action) -> str:
    if action.default in (None, False):
        return ""
    if not isinstance(action.default, str):
        return f"`{action.default:g}`"
    return f"`{action.default}`" if action.default.split() == [action.default] else f"`{action.default!r}`"


PAGES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "drr-object.md": {
        "keys": keys.markdown_table,
        "endpoints": endpoints.markdown_table,
        "account": wire.markdown_table,
    },
    "closed-models.md": {"tiers": tiers.markdown_table},
    "causes.md": {"causes": causes.markdown_table},
    "flags.md": {"flags": flags_table},
}
"""The sections of each page of docs/, and what makes them."""


def section(name: str, text: str) -> str:
    """A section as it stands in its page."""
    return f"<!-- {name}: written by python -m server.tables -->\n{text}\n<!-- end of {name} -->"


def write(folder: Path) -> None:
    """Put every table between its markers. ValueError where a page has none."""
    for page, sections in PAGES.items():
        path = folder / page
        text = path.read_text()
        for name, table in sections.items():
            before, begins, rest = text.partition(f"<!-- {name}: written by python -m server.tables -->\n")
            _, ends, after = rest.partition(f"<!-- end of {name} -->")
            if not begins or not ends:
                raise ValueError(f"{path} has no section {name}")
            text = f"{before}{section(name, table())}{after}"
        path.write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)

"""Sections of pages that commands write. Each is between two markers, the first of which names the command."""

import os
from pathlib import Path

EVIDENCE_PAGE = Path("docs/evidence.md")
REFERENCE_PAGE = Path("docs/evidence-reference.md")
PERFORMANCE_PAGE = Path("docs/performance.md")
SCALING_PAGE = Path("docs/scaling.md")


def link_to(folder: Path, page: Path) -> str:
    """What leads from the page to the folder, as the beginning of a link."""
    return f"{os.path.relpath(folder, page.parent)}/"


def check_section(path: Path, name: str) -> None:
    """ValueError if the file has no section `name`."""
    _parts(path, name)


def write_section(path: Path, name: str, command: str, text: str) -> None:
    """Put `text` between the markers of section `name`. ValueError if the file has no such section."""
    before, after = _parts(path, name)
    path.write_text(f"{before}<!-- {name}: written by {command} -->\n{text}\n<!-- end of {name} -->{after}")


def _parts(path: Path, name: str) -> tuple[str, str]:
    """The text before the section and the text after it."""
    before, found, rest = path.read_text().partition(f"<!-- {name}: written by")
    _, closed, after = rest.partition(f"<!-- end of {name} -->")
    if not found or not closed:
        raise ValueError(f"{path} has no section {name}")
    return before, after

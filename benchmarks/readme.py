"""Sections of the README that commands write: between two markers that say by what."""

from pathlib import Path


def write_section(path: Path, name: str, command: str, text: str) -> None:
    """Put `text` between the markers of section `name`; ValueError where the file has no such section."""
    begin, end = f"<!-- {name}: written by", f"<!-- end of {name} -->"
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path} has no section {name}")
    path.write_text(f"{before}{begin} {command} -->\n{text}\n{end}{after}")

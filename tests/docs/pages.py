"""README and the pages of docs/, taken apart for tests."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^ *(`{3,}|~{3,})(\w*)\s*$")
_HEADING = re.compile(r"^(#{1,6}) +(.+?)\s*#*$")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_SPAN = re.compile(r"(`+)(.+?)\1")


@dataclass(frozen=True)
class Block:
    """A block of code, with the language that it is said to be in and the line on which it begins."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}, line {self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of code of a page. ValueError where one is not closed."""
    opened: tuple[int, str] | None = None
    held = list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if fence is None:
            held.append(line)
        elif opened is None:
            opened, held = (number, fence.group(2)), []
        else:
            yield Block(page, opened[0], opened[1], "\n".join(held))
            opened = None
    if opened is not None:
        raise ValueError(f"{page}: the block of line {opened[0]} is not closed")


def all_blocks(*languages: str) -> list[Block]:
    """The blocks of all pages that are in one of these languages."""
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def prose(page: Path) -> list[str]:
    """The lines of a page that are no code; those that are are empty."""
    lines, code = list[str](), False
    for line in page.read_text().splitlines():
        fence = _FENCE.match(line) is not None
        lines.append("" if code or fence else line)
        code = code != fence
    return lines


def headings(page: Path) -> list[str]:
    """The headings of a page, as they are written."""
    return [found.group(2) for line in prose(page) if (found := _HEADING.match(line))]


def anchors(page: Path) -> list[str]:
    """What can stand behind `#` in a link to a page, by GitHub's rule and by that of mkdocs.yml."""
    return [anchor(heading) for heading in headings(page)]


def anchor(heading: str) -> str:
    """A heading's anchor."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    kept = "".join(
        character
        for character in unicodedata.normalize("NFC", plain).lower()
        if character.isalnum() or character in "-_ "
    )
    return kept.strip().replace(" ", "-")


def links(page: Path) -> Iterator[tuple[int, str]]:
    """(line, target) of every link and picture of a page."""
    text = "\n".join(prose(page))
    for found in _LINK.finditer(text):
        yield text.count("\n", 0, found.start()) + 1, found.group(1)


def code_spans(page: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every piece of code in the prose of a page."""
    for number, line in enumerate(prose(page), 1):
        for found in _SPAN.finditer(line):
            yield number, found.group(2)


def commands(block: Block) -> Iterator[str]:
    """The commands of a block in a shell's language, each on one line and without its comment."""
    joined = block.text.replace("\\\n", " ")
    for line in joined.splitlines():
        command = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if command:
            yield command

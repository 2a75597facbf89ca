"""Hooks of the documentation's build (mkdocs.yml names this file).

Pages of docs/ link to files of the repository, as GitHub wants it. The site holds a copy of those that a browser can
show (pictures, other Markdown files); a link to any other file becomes its plain text. The site also gets llms.txt, an
index for language models, llms-full.txt, all pages in one, and every page as Markdown.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
COPIES = "repository"
"""The site's folder for files from outside docs/."""

PICTURES = (".png", ".svg", ".jpg", ".webp")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
_HIDDEN_FROM_SEARCH = "---\nsearch:\n  exclude: true\n---\n"
_SUMMARY_LENGTH = 300
_NO_PROSE = ("#", "<!", "|", "```", "- ", "> ", "![")
"""What a heading, a comment, a table, code, a list, a quotation and a picture begin with."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages that the navigation does not name to its end."""
    assert config.nav is not None
    named = set(_pages_in(config.nav))
    docs = Path(config.docs_dir)
    others = sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))
    unnamed = [page for page in others if page not in named]
    if unnamed:
        config.nav.append({"More": unnamed})
    return config


def _pages_in(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from _pages_in(part)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside docs/, and what that links to."""
    waiting = [_source(file) for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        for _, _, target in _links(page.read_text()):
            path = _path(page, target)
            if path is None or not path.is_file() or _in_docs(path, config):
                continue
            place = f"{COPIES}/{path.relative_to(ROOT).as_posix()}"
            if files.get_file_from_path(place) is not None:
                continue
            if path.suffix in PICTURES:
                files.append(File.generated(config, place, abs_src_path=str(path)))
            elif path.suffix == ".md":
                files.append(File.generated(config, place, content=_HIDDEN_FROM_SEARCH + path.read_text()))
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files outside docs/ into links to their copies, or into their text where there is none."""
    own = page.file.src_uri
    source = _source(page.file)

    def replaced(found: re.Match[str]) -> str:
        mark, text, target = found.groups()
        path = _path(source, target)
        if path is None or not path.exists():
            return found.group()  # mkdocs complains of it
        anchor = target.partition("#")[2]
        inside = _in_docs(path, config)
        place = path.relative_to(config.docs_dir if inside else ROOT).as_posix()
        place = place if inside else f"{COPIES}/{place}"
        if files.get_file_from_path(place) is None:
            return str(text)
        to = relpath(place, str(Path(own).parent)) + (f"#{anchor}" if anchor else "")
        return f"{mark}[{text}]({to})"

    return "".join(part if code else _LINK.sub(replaced, part) for code, part in _parts(markdown))


def on_post_build(config: MkDocsConfig) -> None:
    """Write llms.txt, llms-full.txt and the pages as Markdown."""
    assert config.nav is not None
    docs, site = Path(config.docs_dir), Path(config.site_dir)
    index = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    whole = list[str]()
    for group in config.nav:
        ((name, own),) = group.items()
        index += [f"## {name}", ""]
        for page in _pages_in(own):
            text = (docs / page).read_text()
            (site / page).parent.mkdir(parents=True, exist_ok=True)
            (site / page).write_text(text)
            index.append(f"- [{title_of(text)}]({page}): {summary_of(text)}")
            whole.append(f"<!-- {page} -->\n\n{text.strip()}\n")
        index.append("")
    (site / "llms.txt").write_text("\n".join(index))
    (site / "llms-full.txt").write_text("\n".join(whole))


def title_of(text: str) -> str:
    """A page's heading. ValueError where it has none."""
    found = _TITLE.search(text)
    if found is None:
        raise ValueError("a page without a heading")
    return found.group(1)


def summary_of(text: str) -> str:
    """A page's first paragraph, without links and line breaks."""
    paragraphs = [part.strip() for part in text.split("\n\n")]
    first = next((part for part in paragraphs if part and not part.startswith(_NO_PROSE)), "")
    plain = " ".join(_LINK.sub(r"\2", first).split())
    return plain if len(plain) <= _SUMMARY_LENGTH else plain[:_SUMMARY_LENGTH].rpartition(" ")[0] + " ..."


def _source(file: File) -> Path:
    """The file of the repository that a page is made from."""
    if file.src_uri.startswith(f"{COPIES}/"):
        return ROOT / file.src_uri.removeprefix(f"{COPIES}/")
    assert file.abs_src_path is not None
    return Path(file.abs_src_path).resolve()


def _path(page: Path, target: str) -> Path | None:
    """The file that a link of a page leads to; None for an address and for a place on the page itself."""
    name = target.partition("#")[0]
    return None if not name or ":" in name else (page.parent / name).resolve()


def _in_docs(path: Path, config: MkDocsConfig) -> bool:
    return path.is_relative_to(Path(config.docs_dir).resolve())


def _links(markdown: str) -> Iterator[tuple[str, str, str]]:
    """(`!` for a picture, text, target) of every link that stands outside of code."""
    for code, part in _parts(markdown):
        if not code:
            for found in _LINK.finditer(part):
                yield found.group(1), found.group(2), found.group(3)


def _parts(markdown: str) -> Iterator[tuple[bool, str]]:
    """The text in pieces, each with whether it is a block of code."""
    piece, code = list[str](), False
    for line in markdown.splitlines(keepends=True):
        if not _FENCE.match(line):
            piece.append(line)
            continue
        yield code, "".join(piece)
        yield True, line
        piece, code = [], not code
    yield code, "".join(piece)

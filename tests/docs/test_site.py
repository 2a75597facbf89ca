"""The site that `make docs` builds: it builds without a warning, and needs nothing from elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, README, ROOT

pytest.importorskip("mkdocs", reason="mkdocs is not installed (pip install 'drr[dev]')")


class Page(HTMLParser):
    """What a page of the site loads, links to, and can be linked to by."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads, self.links, self.ids = list[str](), list[str](), list[str]()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if named.get("id"):
            self.ids.append(str(named["id"]))
        address = named.get("src") or (named.get("href") if tag in ("link", "a") else None)
        if address is not None:
            (self.links if tag == "a" else self.loads).append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_there(pages: dict[Path, Page], site: Path) -> None:
    wanted = {page.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for page in PAGES if page != README}
    assert wanted <= {path.relative_to(site).as_posix() for path in pages}


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page], site: Path) -> None:
    for path, page in pages.items():
        elsewhere = [address for address in page.loads if re.match(r"(https?:)?//", address)]
        assert not elsewhere, path
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text()), sheet


def test_links_lead_somewhere(pages: dict[Path, Page], site: Path) -> None:
    for path, page in pages.items():
        for address in [*page.links, *page.loads]:
            name, _, place = address.partition("#")
            if re.match(r"[a-z]+:", address) or path.name == "404.html":
                continue
            target = (path.parent / name.partition("?")[0]).resolve() if name else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.relative_to(site)}: {address}"
            if place and target in pages and not place.startswith("__"):
                assert place in pages[target].ids, f"{path.relative_to(site)}: {address}"


def test_language_models_find_an_index(site: Path) -> None:
    index = (site / "llms.txt").read_text()
    assert index.startswith("# DRR\n\n> ")
    entries = re.findall(r"^- \[(.+)\]\((.+)\): (.*)$", index, re.MULTILINE)
    assert {address for _, address, _ in entries} == {
        page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page != README
    }
    for title, address, summary in entries:
        assert (site / address).read_text() == (ROOT / "docs" / address).read_text()
        assert title
        assert summary, f"{address} begins with no sentence that says what it is about"
    assert (site / "llms-full.txt").read_text().count("<!-- concepts.md -->") == 1

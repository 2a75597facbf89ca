"""The map of the server's modules on the page of the architecture."""

import tomllib
from pathlib import Path

import pytest

from scripts.module_map import PAGE, ROOT, first_sentence, section
from tests.docs.pages import blocks


def test_the_page_has_todays_map() -> None:
    assert section() in PAGE.read_text(), "write it with: python scripts/module_map.py"


def test_the_page_has_todays_layers() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "rooms")
    (block,) = (block.text for block in blocks(PAGE) if "arguments | checks" in block.text)
    assert [line.partition("<-")[0].strip() for line in block.splitlines()] == layers
    rooms = [room for layer in layers[:-2] for room in layer.split(" | ")]
    assert [room for room in rooms if f"| `drr/{room}/` |" not in PAGE.read_text()] == []


def test_a_module_without_a_word_is_told(tmp_path: Path) -> None:
    path = tmp_path / "silent.py"
    path.write_text("x = 1\n")
    with pytest.raises(ValueError, match="does not say"):
        first_sentence(path)
    path.write_text('"""What it is for. And more.\n\nDetails."""\n')
    assert first_sentence(path) == "What it is for"

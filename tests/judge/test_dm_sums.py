"""A DM's files: what is missing, damaged or replaced is told before the DM judges anybody."""

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from drr import reference
from drr.engine.dm_files import check_dm
from drr.errors import InputError
from drr.judge.dm_folder import CARD_NAME, DmCard
from drr.judge.dm_sums import SUMS_NAME, check_sums, write_sums


@pytest.fixture
def text_dm(tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference.dm_folder("text"), tmp_path / "dm"))


@pytest.mark.parametrize("kind", ["text", "head"])
def test_the_shipped_dms_are_whole(kind: Any) -> None:
    folder = reference.dm_folder(kind)
    assert (folder / SUMS_NAME).is_file()
    assert check_dm(folder, "--dm").kind == kind
    checked = subprocess.run(["sha256sum", "-c", SUMS_NAME], cwd=folder, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors", "head.json"]
)
def test_every_file_counts(text_dm: Path, name: str) -> None:
    path = text_dm / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=f"{name}.* is damaged, or has been replaced"):
        check_sums(text_dm)
    path.unlink()
    with pytest.raises(InputError, match=f"{name}.* is missing"):
        check_sums(text_dm)


def test_a_classifier_elsewhere_counts_too(text_dm: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("head.json", CARD_NAME):
        shutil.copyfile(text_dm / name, other / name)
    card = json.loads((other / CARD_NAME).read_text())
    (other / CARD_NAME).write_text(json.dumps({**card, "classifier": "../dm"}))
    write_sums(other)
    check_sums(other)
    (text_dm / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json.* is missing"):
        check_sums(other)


def test_what_people_may_change_is_not_damage(text_dm: Path) -> None:
    card = json.loads((text_dm / CARD_NAME).read_text())
    (text_dm / CARD_NAME).write_text(json.dumps({**card, "threshold": 0.5}))
    (text_dm / "notes.txt").write_text("mine")
    check_sums(text_dm)
    (text_dm / SUMS_NAME).unlink()
    (text_dm / "tokenizer.json").unlink()
    check_sums(text_dm)  # nothing is known of it


def test_sums_that_are_none_are_told(text_dm: Path) -> None:
    (text_dm / SUMS_NAME).write_text("nonsense\n")
    with pytest.raises(InputError, match="line 1"):
        check_sums(text_dm)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", math.nan),
        ("threshold", 7.0),
        ("patience", -1),
        ("patience", 0),
        ("nudge", -2),
        ("nudge_below", math.inf),
        ("max_tokens", -5),
        ("max_tokens", 0),
    ],
)
def test_a_card_is_within_its_ranges(text_dm: Path, field: str, value: float) -> None:
    card = json.loads((text_dm / CARD_NAME).read_text())
    (text_dm / CARD_NAME).write_text(json.dumps({**card, field: value}))
    with pytest.raises(InputError, match=f"{field}.*must be from"):
        DmCard.load(text_dm)

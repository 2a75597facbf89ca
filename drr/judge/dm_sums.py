"""SHA256SUMS: what the files of a DM were when it was made. A file that is missing or damaged since would judge wrongly
without a word: a tokenizer that is gone is replaced by a guess, weights of random bytes still give numbers."""

import functools
import hashlib
from pathlib import Path

from drr.errors import InputError
from drr.files import write_whole
from drr.judge.dm_folder import CARD_NAME, HEAD_NAME, STATE_HEAD_NAME, DmCard
from drr.judge.self_test import SELF_TEST_NAME

SUMS_NAME = "SHA256SUMS"
"""In the format of the command `sha256sum`, which checks it by `sha256sum -c`."""

_CLASSIFIER = (
    *("*.safetensors", "*.bin", "*.index.json", "config.json", "tokenizer*", "vocab.*", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json"),
)
"""The files that a text classifier's scores depend on."""


def write_sums(folder: Path) -> None:
    """Write down what the files of the DM in `folder` are now."""
    lines = [f"{_digest(folder / name)}  {name}\n" for name in _judging_files(folder)]
    write_whole(folder / SUMS_NAME, "".join(lines))


def check_sums(folder: Path) -> None:
    """InputError for a file of the DM in `folder` that is missing, or is not what it was when the DM was made. DMs of
    which nothing is written down pass."""
    path = folder / SUMS_NAME
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        digest, _, name = line.partition("  ")
        if not name:
            raise InputError(f"{path}, line {number}", "is not as sha256sum writes it")
        file = folder / name
        if not file.is_file():
            raise InputError(str(file), f"is missing: the DM was made with it ({SUMS_NAME})")
        if _digest(file) != digest:
            raise InputError(str(file), f"is damaged, or has been replaced since the DM was made ({SUMS_NAME})")


def _judging_files(folder: Path) -> list[str]:
    """The names, from `folder` on, of the files that the DM's scores depend on, but for the card, which people edit."""
    card = DmCard.load(folder)
    names = {HEAD_NAME, SELF_TEST_NAME, *([] if card.kind == "text" else [STATE_HEAD_NAME])}
    if card.kind != "head":
        classifier = card.classifier_in(folder)
        found = (path.name for pattern in _CLASSIFIER for path in classifier.glob(pattern) if path.is_file())
        names |= {str(Path(card.classifier) / name) for name in found}
    assert CARD_NAME not in names
    return sorted(name for name in names if (folder / name).is_file())


def _digest(path: Path) -> str:
    found = path.stat()
    return _digest_of(path, found.st_ino, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest_of(path: Path, *identity: int) -> str:
    """A server looks at its DM before vLLM is loaded and after: large weights are read once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

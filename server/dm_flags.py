"""The DMs that `--dm` and `--dm-beside` name: which they are, and whether they can be served. No vLLM in here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drr.engine.dm_files import check_dm
from drr.errors import InputError
from drr.judge.dm_folder import DmCard
from server.contradictions import check_kind


@dataclass(frozen=True, slots=True)
class DmFolder:
    """A DM before it runs. `name` is what requests call it by; that of `--dm` has none."""

    card: DmCard
    path: Path
    name: str = ""

    @property
    def head_file(self) -> Path | None:
        """What the Reasoner's engine has to run for it."""
        return self.card.state_head_in(self.path)


def dm_folders(given: Mapping[str, Any]) -> list[DmFolder]:
    """The DMs that the flags in `given` ask for (by their names in the namespace), that of `--dm` first. InputError,
    which names the flag or the file, for whatever is missing, damaged, or of a kind that cannot be served so."""
    found = []
    if given.get("dm"):
        found.append(_read("--dm", Path(given["dm"])))
        check_kind(given, found[0].card.kind)
    for entry in given.get("dm_beside") or ():
        name, _, folder = entry.partition("=")
        beside = _read("--dm-beside", Path(folder), name)
        if beside.card.kind != "head":
            raise InputError("--dm-beside", f"{folder} is of kind {beside.card.kind}: it must be a head")
        found.append(beside)
    return found


def _read(option: str, folder: Path, name: str = "") -> DmFolder:
    return DmFolder(check_dm(folder, option), folder, name)

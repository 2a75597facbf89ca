"""A DM on disk: a Hugging Face sequence classifier, a fusion head, and `drr.json` that says what it is for."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from drr.dm_input import RENDERING_VERSION
from drr.head import FusionHead, load_head
from drr.steps import StepRule

CARD_NAME = "drr.json"
HEAD_NAME = "head.json"


class DmMismatchError(ValueError):
    """The DM was made for another Reasoner or another rendering than it would be served with."""


@dataclass(frozen=True, slots=True)
class DmCard:
    """`drr.json`: what the DM was trained for. `reasoner` is the fingerprint of the Reasoner's weights."""

    id: str
    reasoner: str
    reasoner_name: str
    step_rule: str
    threshold: float
    patience: int = 1
    nudge: int = 0
    nudge_below: float = 0.5
    nudge_cue: str = "Wait,"
    rendering: int = RENDERING_VERSION
    metrics: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The card in `folder`; ValueError names what is missing or unknown."""
        path = folder / CARD_NAME
        if not path.is_file():
            raise ValueError(f"{folder} is no DM: it has no {CARD_NAME}")
        try:
            data = json.loads(path.read_text())
            return cls(**data)
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    def save(self, folder: Path) -> None:
        (folder / CARD_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n")

    def check(self, reasoner_fingerprint: str, step_rule: StepRule) -> None:
        """DmMismatchError, saying how, unless this DM may judge that Reasoner's steps."""
        if self.rendering != RENDERING_VERSION:
            raise DmMismatchError(
                f"DM {self.id} was trained on input rendering {self.rendering}, this version uses {RENDERING_VERSION}"
            )
        if self.reasoner != reasoner_fingerprint:
            raise DmMismatchError(
                f"DM {self.id} was trained on the behaviour of {self.reasoner_name}, not of this Reasoner"
            )
        if self.step_rule != str(step_rule):
            raise DmMismatchError(f"DM {self.id} was trained on steps by {self.step_rule}, not by {step_rule}")


def load_dm_head(folder: Path) -> FusionHead:
    """The fusion head of the DM in `folder`."""
    return load_head(folder / HEAD_NAME)


def fingerprint(folder: Path) -> str:
    """Identifies a model folder's weights: SHA-256 over the names and contents of its weight files.

    Files beyond 64 MiB count by their size and their first and last 1 MiB, so that the start of a server does not
    wait for hundreds of gigabytes to be read.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= 64 << 20:
                digest.update(file.read())
            else:
                digest.update(file.read(1 << 20))
                file.seek(-(1 << 20), 2)
                digest.update(file.read())
    return digest.hexdigest()[:16]

"""A DM on disk: `drr.json`, which says what the DM is for, a fusion head, and what the DM judges by: a Hugging Face
sequence classifier, a state head for the Reasoner's engine, or both."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from drr.errors import InputError
from drr.files import read_json_as, write_whole
from drr.judge.dm_input import RENDERING_VERSION
from drr.judge.head import JUDGE_LOGITS, FusionHead, load_head
from drr.loop.steps import StepRule

CARD_NAME = "drr.json"
HEAD_NAME = "head.json"
STATE_HEAD_NAME = "state_head.safetensors"
TRAINED_ON_NAME = "trained_on.txt"
DEFAULT_NUDGE_CUE = "Wait,"
DEFAULT_MAX_TOKENS = 1024
_CHUNK = 8 << 20
_KINDS = ", ".join(JUDGE_LOGITS)
_RANGES = (
    ("threshold", 0.0, 1.0),
    ("patience", 1, 1_000),
    ("nudge", 0, 64),
    ("nudge_below", 0.0, 1.0),
    ("max_tokens", 1, 1 << 24),
)
"""What may stand in a card, by its field."""


class DmMismatchError(ValueError):
    """The DM was made for another Reasoner, another step rule or another input rendering than it would be used with."""


@dataclass(frozen=True, slots=True)
class DmCard:
    """`drr.json`: what the DM was trained for. `reasoner` is the fingerprint of the Reasoner's weights, `kind` what the
    DM judges by (drr.judge.head.Kind; cards from before there were kinds are of text classifiers).

    `classifier` is where the text classifier is, as a path from this DM's folder on (empty: in it), `max_tokens` the
    longest input that it was trained on. `trained_on` and `metrics` are for people; `calibration`
    (drr.judge.calibration.Calibration as JSON) is None until `drr calibrate` has been run.
    """

    id: str
    reasoner: str
    reasoner_name: str
    step_rule: str
    threshold: float
    patience: int = 1
    nudge: int = 0
    nudge_below: float = 0.5
    nudge_cue: str = DEFAULT_NUDGE_CUE
    rendering: int = RENDERING_VERSION
    max_tokens: int = DEFAULT_MAX_TOKENS
    trained_on: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None
    kind: str = "text"
    classifier: str = ""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The card in `folder`. InputError names what is missing, unknown or of the wrong type."""
        path = folder / CARD_NAME
        if not path.is_file():
            raise InputError(str(folder), f"is no DM: it has no {CARD_NAME}")
        card = read_json_as(cls, path)
        if card.kind not in JUDGE_LOGITS:
            raise InputError(str(path), f"must be {_KINDS}, not {card.kind}", field="kind")
        for name, least, most in _RANGES:
            value = getattr(card, name)
            if not least <= value <= most:  # also what is no number at all
                raise InputError(str(path), f"must be from {least:g} to {most:g}, not {value}", field=name)
        return card

    def save(self, folder: Path) -> None:
        write_whole(folder / CARD_NAME, json.dumps(asdict(self), indent=2) + "\n")

    def classifier_in(self, folder: Path) -> Path:
        """The folder of the text classifier of the DM in `folder`."""
        return folder / self.classifier

    def state_head_in(self, folder: Path) -> Path | None:
        """The file that the Reasoner's engine has to run for the DM in `folder`; None where it judges by text alone."""
        return None if self.kind == "text" else folder / STATE_HEAD_NAME

    def check(self, reasoner_fingerprint: str, step_rule: StepRule) -> None:
        """DmMismatchError, which says why, unless this DM was made for that Reasoner, that step rule and this version's
        input rendering."""
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


def classifier_folder(folder: Path) -> Path:
    """Where the text classifier of the DM in `folder` is, also while that DM is being made."""
    return DmCard.load(folder).classifier_in(folder) if (folder / CARD_NAME).is_file() else folder


def load_dm_head(folder: Path) -> FusionHead:
    """The fusion head of the DM in `folder`. InputError if it cannot be read or is not of the kind that the card
    says."""
    path = folder / HEAD_NAME
    try:
        head = load_head(path)
    except (OSError, ValueError) as error:
        raise InputError(str(path), str(error)) from error
    kind = DmCard.load(folder).kind if (folder / CARD_NAME).is_file() else head.kind
    if head.kind != kind:
        raise InputError(str(path), f"is of a DM of kind {head.kind}, {CARD_NAME} says {kind}", field="inputs")
    return head


def dm_state(folder: Path) -> str:
    """16 hex digits that identify everything that a DM's scores and rules depend on: the weights of its classifier and
    its state head, the fusion head, and the card."""
    digest = hashlib.sha256(fingerprint(folder).encode())
    if classifier := DmCard.load(folder).classifier:
        digest.update(fingerprint(folder / classifier).encode())
    for name in (CARD_NAME, HEAD_NAME):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def read_trained_on(folder: Path) -> set[str]:
    """Keys (drr.learn.records.question_key) of the questions that any part of the DM was trained on. InputError if the
    folder does not list them."""
    path = folder / TRAINED_ON_NAME
    if not path.is_file():
        raise InputError(str(folder), f"does not say which questions it was trained on: it has no {TRAINED_ON_NAME}")
    return set(path.read_text().split())


def fingerprint(folder: Path) -> str:
    """16 hex digits that identify a model folder's weights; empty if it has no weight files.

    They come from a SHA-256 over the names and the whole contents of the weight files, because a fine-tuned model may
    differ from its base in any byte. Reading takes about a second per GB.
    """
    digest = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not weights:
        return ""
    for path in weights:
        digest.update(f"{path.name}:{path.stat().st_size}:".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]

"""Calibrations of scorers without a DM on disk: a folder with one JSON file per scorer, `NAME.json`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, get_args

from drr.errors import InputError
from drr.files import read_json_as, write_whole
from drr.judge.calibration import Calibration
from drr.judge.dm_folder import fingerprint
from drr.judge.scorers.registry import ScorerName


@dataclass(frozen=True, slots=True)
class ScorerCard:
    """A scorer's calibration (drr.judge.calibration.Calibration as JSON) on one Reasoner.

    `reasoner` is the fingerprint of that Reasoner's weights. `model` is the fingerprint of the scorer's own model, or
    its name on a hub; empty for a scorer without a model.
    """

    scorer: str
    reasoner: str
    reasoner_name: str
    step_rule: str
    calibration: dict[str, Any]
    model: str = ""

    @classmethod
    def load(cls, path: Path) -> Self:
        """The card in a file. InputError names what is missing, unknown or of the wrong type."""
        card = read_json_as(cls, path)
        if card.scorer not in get_args(ScorerName):
            raise InputError(str(path), f"{card.scorer!r} is no scorer", field="scorer")
        Calibration.from_json(card.calibration)
        return card

    def save(self, folder: Path) -> Path:
        """Write the card into `folder`; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.scorer}.json"
        write_whole(path, json.dumps(asdict(self), indent=2) + "\n")
        return path

    def check(self, source: str, reasoner_fingerprint: str, step_rule: str, prm: str | None) -> None:
        """InputError, which says why, unless this card was made with that Reasoner and that step rule. The card of a
        process reward model must also have been made with `prm`, if that is not None."""
        if self.scorer == "prm" and prm is not None and self.model != model_key(prm):
            raise InputError(source, f"prm was calibrated with another process reward model than {prm}")
        if self.reasoner != reasoner_fingerprint:
            raise InputError(source, f"{self.scorer} was calibrated on {self.reasoner_name}, not on this Reasoner")
        if self.step_rule != step_rule:
            raise InputError(source, f"{self.scorer} was calibrated on steps by {self.step_rule}, not by {step_rule}")


def model_key(model: str) -> str:
    """Identifies a model: the fingerprint of a folder's weights, or else its name on a hub."""
    return fingerprint(Path(model)) if Path(model).is_dir() else model


def load_cards(folder: Path) -> list[ScorerCard]:
    """Every scorer's card in `folder`. InputError if there is none."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError(str(folder), "holds no calibrated scorers: drr calibrate --scorer makes them")
    return [ScorerCard.load(path) for path in paths]

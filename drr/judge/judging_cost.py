"""What a text classifier costs beside its Reasoner, told before anybody waits for it."""

import json
import math
import struct
from pathlib import Path

from drr.judge.calibration import Calibration
from drr.judge.dm_folder import STATE_HEAD_NAME, DmCard

_READ_PER_TOKEN = 1.42
"""Tokens that a causal classifier computes for each token of thinking, the question included (docs/scaling.md)."""


def parameters(folder: Path) -> int:
    """How many parameters the safetensors files of a model folder hold, a state head left out; 0 where there are none
    that can be read."""
    return sum(_parameters_in(path) for path in folder.glob("*.safetensors") if path.name != STATE_HEAD_NAME)


def _parameters_in(path: Path) -> int:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entries = json.loads(file.read(length))
    except (OSError, struct.error, ValueError):
        return 0  # whoever loads it will say what is wrong
    return sum(math.prod(entry["shape"]) for name, entry in entries.items() if name != "__metadata__")


def judging_share(classifier: int, reasoner: int) -> float:
    """About which share of the work goes to judging, where classifier and Reasoner share their processors: by the
    parameters of both. 0 where one of them is not known."""
    if not classifier or not reasoner:
        return 0.0
    judging = _READ_PER_TOKEN * classifier / reasoner
    return judging / (1 + judging)


def hint(card: DmCard, folder: Path, reasoner: Path) -> str | None:
    """One sentence where the classifier of the DM in `folder` will cost more than its default rule saves; None where it
    pays, or where it cannot be told."""
    if card.kind == "head" or card.calibration is None:
        return None
    share = judging_share(parameters(card.classifier_in(folder)), parameters(reasoner))
    saved = float(Calibration.from_json(card.calibration).default["saved"])
    if share <= saved:
        return None
    return (
        f"Judging by the classifier of {card.id} takes about {100 * share:.0f} % of the work, and its default rule "
        f"saves {100 * saved:.0f} % of the tokens: a head costs next to nothing (drr train --kind head)"
    )

"""What a DM said when it was made, kept beside it, so that a server can see at its start that it still says the same:
that kernels, versions and precisions of today read its weights as those of its training did.

Kept are the raw logits of its parts, which a calibration does not change.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from drr.files import read_json_as, write_whole

SELF_TEST_NAME = "self_test.json"

_ABSOLUTE, _RELATIVE = 0.3, 0.1
"""How far a logit may be from the one that was recorded: 16 bits instead of 32 move one by a few hundredths."""


@dataclass(frozen=True, slots=True)
class TextCheck:
    """A question, the steps of an attempt, and the text classifier's logits (now, later) after every step."""

    question: str
    steps: list[str]
    logits: list[list[float]]


@dataclass(frozen=True, slots=True)
class StateCheck:
    """The ids of a prompt and the beginning of an attempt, and the state head's logits (now, later) behind them."""

    ids: list[int]
    logits: list[float]


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What was recorded of a DM; a part that it does not have has no checks."""

    text: list[TextCheck] = field(default_factory=list)
    states: list[StateCheck] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        write_whole(folder / SELF_TEST_NAME, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What is kept in `folder`; None where nothing is. InputError where it cannot be read."""
        path = folder / SELF_TEST_NAME
        return read_json_as(cls, path) if path.is_file() else None


def disagreement(said: Sequence[float], recorded: Sequence[float]) -> str | None:
    """How logits differ from those that were recorded; None where they agree."""
    if not all(map(math.isfinite, said)):
        return f"it gives no number ({_listed(said)})"
    near = len(said) == len(recorded) and all(
        abs(one - other) <= _ABSOLUTE + _RELATIVE * abs(other) for one, other in zip(said, recorded, strict=True)
    )
    return None if near else f"it says {_listed(said)} where it said {_listed(recorded)} when it was made"


def _listed(logits: Sequence[float]) -> str:
    return " and ".join(f"{logit:.3g}" for logit in logits)

"""The fusion head: from the DM's two logits and the behaviour features to calibrated probabilities.

A perceptron with one small hidden layer, stored as JSON and evaluated with numpy. drr.learn.fusion trains it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drr.files import write_whole
from drr.loop.features import FEATURE_NAMES
from drr.loop.policy import Score

INPUT_NAMES = ("logit_now", "logit_later", *FEATURE_NAMES)


@dataclass(frozen=True, slots=True, eq=False)
class FusionHead:
    """Weights of the head. Shapes: mean, scale [I]; hidden [H, I]; hidden_bias [H]; out [2, H]; out_bias [2].

    `temperature` [2] divides the outputs. At boundaries without behaviour features the text logits are used alone:
    divided by `text_temperature` [2], then added to `text_bias` [2].
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    hidden: NDArray[np.float64]
    hidden_bias: NDArray[np.float64]
    out: NDArray[np.float64]
    out_bias: NDArray[np.float64]
    temperature: NDArray[np.float64]
    text_temperature: NDArray[np.float64]
    text_bias: NDArray[np.float64]

    @property
    def reads_behaviour(self) -> bool:
        """Whether the behaviour features have any weight beside the text logits."""
        return bool(self.hidden[:, 2:].any())

    def logits(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, I] inputs in the order of INPUT_NAMES -> [N, 2] logits before temperature."""
        standard = np.clip((inputs - self.mean) / self.scale, -8.0, 8.0)
        activated = np.tanh(standard @ self.hidden.T + self.hidden_bias)
        return np.asarray(activated @ self.out.T + self.out_bias)

    def score(self, text_logits: tuple[float, float], features: list[float] | None) -> Score:
        """The calibrated score of one boundary, from the text logits alone if `features` is None."""
        if features is None:
            now, later = np.asarray(text_logits) / self.text_temperature + self.text_bias
        else:
            now, later = self.logits(np.asarray([[*text_logits, *features]]))[0] / self.temperature
        return Score(_sigmoid(now), _sigmoid(later))

    def to_json(self) -> dict[str, Any]:
        weights = {name: getattr(self, name).tolist() for name in self.__slots__}
        return {"inputs": list(INPUT_NAMES), **weights}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """ValueError if the head cannot be read or was made for other inputs than this version computes."""
        if tuple(data.get("inputs", ())) != INPUT_NAMES:
            raise ValueError("the DM's head was trained on other behaviour features than this version computes")
        try:
            return cls(**{name: np.asarray(data[name], dtype=np.float64) for name in cls.__slots__})
        except (KeyError, TypeError) as error:
            raise ValueError(f"the DM's head cannot be read: {error}") from error


def _sigmoid(value: float) -> float:
    return float(1.0 / (1.0 + np.exp(-np.clip(value, -40.0, 40.0))))


def load_head(path: Path) -> FusionHead:
    """The head saved at `path`."""
    return FusionHead.from_json(json.loads(path.read_text()))


def save_head(head: FusionHead, path: Path) -> None:
    """Write the head as JSON."""
    write_whole(path, json.dumps(head.to_json()) + "\n")

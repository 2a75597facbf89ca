"""The fusion head: from the DM's logits and the behaviour features to calibrated probabilities.

A perceptron with one small hidden layer, stored as JSON and evaluated with numpy. drr.learn.fusion trains it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from drr.files import write_whole
from drr.loop.features import FEATURE_NAMES
from drr.loop.policy import Score

Kind = Literal["text", "head", "fused"]
"""What a DM judges by: a text classifier over question and steps, a state head inside the Reasoner, or both."""

_TEXT, _STATE = ("logit_now", "logit_later"), ("state_now", "state_later")

JUDGE_LOGITS: dict[Kind, tuple[str, ...]] = {"text": _TEXT, "head": _STATE, "fused": (*_TEXT, *_STATE)}
"""By kind, the names of the judge's logits, in order: two of every part, `now` before `later`."""


def input_names(kind: Kind) -> tuple[str, ...]:
    """The inputs of a fusion head of this kind, in order."""
    return (*JUDGE_LOGITS[kind], *FEATURE_NAMES)


@dataclass(frozen=True, slots=True, eq=False)
class FusionHead:
    """Weights of the head. Shapes: mean, scale [I]; hidden [H, I]; hidden_bias [H]; out [2, H]; out_bias [2].

    `temperature` [2] divides the outputs. At boundaries without behaviour features the J logits of the judge are used
    alone, through `judge_weight` [2, J] and `judge_bias` [2].
    """

    kind: Kind
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    hidden: NDArray[np.float64]
    hidden_bias: NDArray[np.float64]
    out: NDArray[np.float64]
    out_bias: NDArray[np.float64]
    temperature: NDArray[np.float64]
    judge_weight: NDArray[np.float64]
    judge_bias: NDArray[np.float64]

    @property
    def reads_behaviour(self) -> bool:
        """Whether the behaviour features have any weight beside the judge's logits."""
        return bool(self.hidden[:, len(JUDGE_LOGITS[self.kind]) :].any())

    def logits(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, I] inputs in the order of `input_names` -> [N, 2] logits before temperature."""
        standard = np.clip((inputs - self.mean) / self.scale, -8.0, 8.0)
        activated = np.tanh(standard @ self.hidden.T + self.hidden_bias)
        return np.asarray(activated @ self.out.T + self.out_bias)

    def judged(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, J] the judge's logits -> [N, 2] calibrated logits from them alone."""
        return np.asarray(logits @ self.judge_weight.T + self.judge_bias)

    def score(self, logits: Sequence[float], features: list[float] | None) -> Score:
        """The calibrated score of one boundary, from the judge's logits (in the order of JUDGE_LOGITS) alone if
        `features` is None. ValueError if there are more or fewer logits than this kind has, or if they give no
        number: a classifier whose weights are damaged."""
        if len(logits) != len(JUDGE_LOGITS[self.kind]):
            raise ValueError(
                f"a head of kind {self.kind} reads {len(JUDGE_LOGITS[self.kind])} logits, not {len(logits)}"
            )
        if features is None:
            now, later = self.judged(np.asarray([logits]))[0]
        else:
            now, later = self.logits(np.asarray([[*logits, *features]]))[0] / self.temperature
        if not np.isfinite((*logits, now, later)).all():
            raise ValueError(f"the judge's logits {[float(logit) for logit in logits]} give no score")
        return Score(_sigmoid(now), _sigmoid(later))

    def to_json(self) -> dict[str, Any]:
        weights = {name: getattr(self, name).tolist() for name in _weights()}
        return {"inputs": list(input_names(self.kind)), **weights}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """ValueError if the head cannot be read or was made for other inputs than this version computes."""
        inputs = tuple(data.get("inputs", ()))
        kind = next((kind for kind in JUDGE_LOGITS if input_names(kind) == inputs), None)
        if kind is None:
            raise ValueError("the DM's head was trained on other behaviour features than this version computes")
        try:
            weights = {**_before_kinds(data), **data}
            head = cls(kind, **{name: np.asarray(weights[name], dtype=np.float64) for name in _weights()})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the DM's head cannot be read: {error}") from error
        head._check()
        return head

    def _check(self) -> None:
        """ValueError unless the weights are numbers, of shapes that go together."""
        inputs, judged = len(input_names(self.kind)), len(JUDGE_LOGITS[self.kind])
        units = self.hidden_bias.size
        shapes = {
            "mean": (inputs,),
            "scale": (inputs,),
            "hidden": (units, inputs),
            "hidden_bias": (units,),
            "out": (2, units),
            "out_bias": (2,),
            "temperature": (2,),
            "judge_weight": (2, judged),
            "judge_bias": (2,),
        }
        for name, shape in shapes.items():
            weight = getattr(self, name)
            if weight.shape != shape:
                raise ValueError(f"{name} of the DM's head has the shape {weight.shape}, not {shape}")
            if not np.isfinite(weight).all() or (name in ("scale", "temperature") and (weight <= 0).any()):
                raise ValueError(f"{name} of the DM's head holds what is no usable number")


def _weights() -> tuple[str, ...]:
    return tuple(name for name in FusionHead.__slots__ if name != "kind")


def _before_kinds(data: dict[str, Any]) -> dict[str, Any]:
    """The judge's weights in a file from before there were kinds, which has a temperature and a bias for each logit."""
    if "text_temperature" not in data:
        return {}
    temperature = np.asarray(data["text_temperature"], dtype=np.float64)
    return {"judge_weight": np.diag(1 / temperature), "judge_bias": data["text_bias"]}


def _sigmoid(value: float) -> float:
    return float(1.0 / (1.0 + np.exp(-np.clip(value, -40.0, 40.0))))


def load_head(path: Path) -> FusionHead:
    """The head saved at `path`."""
    return FusionHead.from_json(json.loads(path.read_text()))


def save_head(head: FusionHead, path: Path) -> None:
    """Write the head as JSON."""
    write_whole(path, json.dumps(head.to_json()) + "\n")

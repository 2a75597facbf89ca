"""A state head: a small network from the Reasoner's hidden state at a token to the logits of `now` and `later` there.

`drr.learn` trains it, `drr.engine.judged_model` runs it inside the Reasoner's forward pass. On disk it is one
safetensors file of float32 weights, a few hundred kilobytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from drr.errors import InputError, first_line

OUTPUTS = ("now", "later")
"""What a head says at a token, in order: two logits."""


class StateHead(nn.Module):
    """Layer norm, one hidden layer, two logits. Everything is float32, whatever the Reasoner computes in."""

    def __init__(self, size: int, hidden: int) -> None:
        """`size` is that of the Reasoner's hidden state, `hidden` the number of hidden units."""
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.hidden = nn.Linear(size, hidden)
        self.out = nn.Linear(hidden, len(OUTPUTS))

    @property
    def size(self) -> int:
        """Numbers in a hidden state that it reads."""
        return int(self.hidden.in_features)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States [..., size] -> logits [..., 2], in the order of OUTPUTS."""
        inner = functional.gelu(self.hidden(self.norm(states.float())))
        logits: torch.Tensor = self.out(inner)
        return logits

    def save(self, path: Path) -> None:
        """Write the weights to `path`, whole or not at all. InputError where they cannot be written."""
        partial = path.with_name(f"{path.name}.partial")
        weights = {name: weight.detach().float().contiguous() for name, weight in self.state_dict().items()}
        try:
            save_file(weights, partial, metadata={"format": "pt", "outputs": ",".join(OUTPUTS)})
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise InputError(str(path), f"cannot be written: {first_line(error)}") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """The head in the file `path`. InputError if there is none, or none that this version can run."""
        weights = _read(path)
        shape = weights["hidden.weight"].shape if "hidden.weight" in weights else ()
        if len(shape) != 2 or not all(shape):
            raise InputError(str(path), "holds no state head of this version: it has no hidden layer")
        if not all(weight.is_floating_point() for weight in weights.values()):
            raise InputError(str(path), "holds no state head of this version: its weights are no fractions")
        with torch.device("meta"):  # draws no random numbers, of which vLLM keeps account
            head = cls(size=shape[1], hidden=shape[0])
        wrong = _shapes(weights) ^ _shapes(head.state_dict())
        if wrong:
            raise InputError(str(path), f"holds no state head of this version: {min(wrong)[0]} is not as it should be")
        # Assigned, not copied: vLLM makes its models under another default type.
        head.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
        if not all(bool(weight.isfinite().all()) for weight in head.state_dict().values()):
            raise InputError(str(path), "holds weights that are not finite")
        return head.eval().requires_grad_(False)


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("outputs") != ",".join(OUTPUTS):
                raise InputError(str(path), f"is no state head: its outputs are not {', '.join(OUTPUTS)}")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(str(path), f"cannot be read: {first_line(error)}") from error


def _shapes(weights: Mapping[str, torch.Tensor]) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(weight.shape)) for name, weight in weights.items()}

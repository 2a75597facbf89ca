"""The Reasoner's states where a served head does not look: in inner layers, and behind a question about its answer.

One forward pass per attempt reads both: the question stands behind the attempt, so that nothing before it changes. They
are kept in one file per set of attempts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer

from drr.learn.records import Rollout
from drr.learn.states import BoundaryStates, attempt_ids, attempt_key, load_layers, outputs, step_ends
from drr.progress import Progress

ASKED = "Is this answer right? Answer yes or no."
"""What the Reasoner is asked of its attempt; what it would say is never generated."""

_DEPTHS = (1 / 2, 2 / 3, 5 / 6)
_ATTEMPT = "\u241e"
_ASKED_NAME, _KEYS = "asked", "keys"
_ATTEMPTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class InnerStates:
    """Of every attempt, the states at its boundaries by layer (its number from the first, the last one's behind the
    final norm), and its one state behind the question whether its answer is right."""

    layers: dict[int, BoundaryStates]
    asked: BoundaryStates


def read_inner_states(rollouts: Sequence[Rollout], reasoner: str, dtype: str | None, path: Path) -> InnerStates:
    """The inner states of `rollouts`, computed with `reasoner`, a Hugging Face folder or id, or read from `path`, where
    they are kept."""
    keys = [attempt_key(rollout) for rollout in rollouts]
    joined = b"".join(keys).hex()
    found = _kept(path, joined)
    if found is None:
        found = _computed(rollouts, reasoner, dtype)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(found, path, metadata={"format": "pt", _KEYS: joined})
    asked = BoundaryStates(dict(zip(keys, found.pop(_ASKED_NAME).unsqueeze(1), strict=True)))
    lengths = [len(rollout.steps) for rollout in rollouts]
    layers = {
        int(name): BoundaryStates(dict(zip(keys, torch.split(states, lengths), strict=True)))
        for name, states in found.items()
    }
    return InnerStates(dict(sorted(layers.items())), asked)


def _kept(path: Path, keys: str) -> dict[str, torch.Tensor] | None:
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get(_KEYS) != keys:
            return None
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _computed(rollouts: Sequence[Rollout], reasoner: str, dtype: str | None) -> dict[str, torch.Tensor]:
    """By layer, [N, size] states at all boundaries; and [attempts, size] those behind the question."""
    model, question = load_layers(reasoner, dtype), question_ids(AutoTokenizer.from_pretrained(reasoner))
    depth = model.config.num_hidden_layers
    layers = [*sorted({max(1, round(depth * share)) for share in _DEPTHS} - {depth}), depth]
    parts: list[dict[str, torch.Tensor]] = []
    with Progress("Inner states", len(rollouts)) as progress:
        for start in range(0, len(rollouts), _ATTEMPTS_AT_ONCE):
            some = rollouts[start : start + _ATTEMPTS_AT_ONCE]
            parts.append(_of(model, some, layers, question))
            for _ in some:
                progress.advance()
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _of(model: Any, rollouts: Sequence[Rollout], layers: Sequence[int], question: list[int]) -> dict[str, torch.Tensor]:
    rows = [[*attempt_ids(rollout), *question] for rollout in rollouts]
    found: dict[tuple[str, int], torch.Tensor] = {}
    for number, place, out in outputs(model, rows, output_hidden_states=True):
        for layer in layers:
            found[str(layer), number] = out.hidden_states[layer][place, step_ends(rollouts[number])].cpu()
        found[_ASKED_NAME, number] = out.last_hidden_state[place, [len(rows[number]) - 1]].cpu()
    names = [*map(str, layers), _ASKED_NAME]
    return {name: torch.cat([found[name, number] for number in range(len(rollouts))]).contiguous() for name in names}


def question_ids(tokenizer: Any) -> list[int]:
    """What stands between an attempt and the Reasoner's verdict on it: the end of its turn, the question, and the start
    of the next turn."""
    turns = [("user", "Q"), ("assistant", _ATTEMPT), ("user", ASKED)]
    messages = [{"role": role, "content": content} for role, content in turns]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer.encode(rendered.split(_ATTEMPT)[1], add_special_tokens=False)
    return ids

"""The Reasoner's hidden states at the step boundaries of recorded attempts, kept on disk beside the records.

A state is the last one, after the final norm: what transformers calls `last_hidden_state`, and what a state head is
given in serving. One forward pass per attempt finds those of all its boundaries. They are kept in
RECORDS/states/FINGERPRINT, one file per shard of the records, which names the shard's contents: the states of another
Reasoner, or of a shard that has changed, are never used.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from drr.engine.model_source import check_model
from drr.errors import InputError, first_line
from drr.learn.records import Manifest, Rollout, read_shard, shards
from drr.progress import Progress

STATES_NAME = "states"
_TOKENS_PER_BATCH = 8_192
_TENSOR, _SHARD = "states", "shard"

Key = bytes
"""Identifies an attempt by its token ids and steps; states depend on nothing else."""


@dataclass(frozen=True, slots=True)
class BoundaryStates:
    """States [steps, size] of attempts, by key."""

    by_key: dict[Key, torch.Tensor]

    @property
    def size(self) -> int:
        """Numbers in a state."""
        return next(iter(self.by_key.values())).shape[1]

    def of(self, rollouts: Sequence[Rollout]) -> torch.Tensor:
        """[N, size] states (float32) at all boundaries of `rollouts`, rollout by rollout. KeyError for an attempt of
        other records."""
        found = [self.by_key[attempt_key(rollout)] for rollout in rollouts]
        return torch.cat([*found, torch.zeros((0, self.size))]).float()

    def joined(self, other: "BoundaryStates") -> "BoundaryStates":
        """The states of these attempts and of those in `other`."""
        return BoundaryStates({**self.by_key, **other.by_key})


def read_states(records: Path, manifest: Manifest, reasoner: str | None = None) -> BoundaryStates:
    """The states at all boundaries of complete `records`. What is not kept yet is computed with `reasoner`, a Hugging
    Face folder or id, and kept.

    InputError if the records hold no token ids, if `reasoner` is another model than the one that made them, or if it is
    None and needed.
    """
    made_by = manifest.settings["reasoner"]
    attempts = _attempts(records, manifest)
    if reasoner is not None:
        check_model(reasoner, "--reasoner")
        from drr.engine.open_reasoner import reasoner_identity

        if reasoner_identity(reasoner)[1] != made_by["fingerprint"]:
            raise InputError("--reasoner", f"{reasoner} is not the Reasoner of {records}, {made_by['name']}")
    folder = records / STATES_NAME / made_by["fingerprint"]
    kept = {path: _kept(folder, path) for path in attempts}
    if reasoner is None and None in kept.values():
        raise InputError("--reasoner", f"is needed: the states of {made_by['name']} for {records} are not kept yet")
    by_key: dict[Key, torch.Tensor] = {}
    model = None
    with Progress("States", len(kept), sum(states is not None for states in kept.values())) as progress:
        for path, rollouts in attempts.items():
            states = kept.pop(path)
            if states is None:
                assert reasoner is not None
                model = model or load_layers(reasoner, manifest.settings.get("dtype"))
                states = _states(model, rollouts)
                _keep(states, folder, path)
                progress.advance()
            by_key.update(zip(map(attempt_key, rollouts), _by_rollout(states, rollouts), strict=True))
    if not by_key:
        raise InputError(str(records), "holds no attempt with a step")
    return BoundaryStates(by_key)


def _attempts(records: Path, manifest: Manifest) -> dict[Path, list[Rollout]]:
    """The attempts with steps, by shard. InputError unless all are on record with their token ids and the Reasoner's
    weights are known."""
    if manifest.settings.get("labels") == "recorded":
        raise InputError(str(records), "holds recorded solutions: no Reasoner has states for them")
    if not manifest.settings["reasoner"]["fingerprint"]:
        reason = "is empty: the Reasoner was served elsewhere, and the folder of --tokenizer held no weights"
        raise InputError(str(records), reason, field="settings.reasoner.fingerprint")
    attempts: dict[Path, list[Rollout]] = {}
    for path in shards(records):
        attempts[path] = []
        for number, rollout in enumerate(read_shard(path), start=1):
            if not rollout.steps:
                continue
            for name in ("prompt_ids", "thought_ids"):
                if getattr(rollout, name) is None:
                    reason = "is unknown: records of an earlier version hold no token ids; roll the questions out again"
                    raise InputError(str(path), reason, number, name)
            attempts[path].append(rollout)
    return attempts


def attempt_key(rollout: Rollout) -> Key:
    """What identifies an attempt."""
    parts = (rollout.prompt_ids or (), rollout.thought_ids or (), rollout.step_tokens)
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(np.asarray([len(part), *part], dtype=np.int64).tobytes())
    return digest.digest()


def _by_rollout(states: torch.Tensor, rollouts: Sequence[Rollout]) -> tuple[torch.Tensor, ...]:
    return torch.split(states, [len(rollout.steps) for rollout in rollouts])


def load_layers(reasoner: str, dtype: str | None) -> Any:
    """The Reasoner without its output layer, in the number format in which it made the records; where that was left to
    the engine, float32 on a CPU and its own on a GPU."""
    on_gpu = torch.cuda.is_available()
    try:
        model = AutoModelForCausalLM.from_pretrained(reasoner, dtype=dtype or ("auto" if on_gpu else "float32"))
    except (OSError, ValueError) as error:
        raise InputError("--reasoner", f"{reasoner} cannot be loaded: {first_line(error)}") from error
    return model.base_model.to("cuda" if on_gpu else "cpu").eval()


def _states(model: Any, rollouts: Sequence[Rollout]) -> torch.Tensor:
    """[N, size] states at the boundaries of `rollouts`."""
    found: list[torch.Tensor] = [torch.zeros(0)] * len(rollouts)
    rows = [attempt_ids(rollout) for rollout in rollouts]
    for number, place, out in outputs(model, rows):
        found[number] = out.last_hidden_state[place, step_ends(rollouts[number])].cpu()
    return torch.cat(found) if found else torch.zeros((0, model.config.hidden_size))


def attempt_ids(rollout: Rollout) -> list[int]:
    """The token ids of prompt and attempt."""
    return [*(rollout.prompt_ids or ()), *(rollout.thought_ids or ())]


def step_ends(rollout: Rollout) -> list[int]:
    """The position in `attempt_ids` of the last token of each step."""
    start = len(rollout.prompt_ids or ())
    return [start + end - 1 for end in itertools.accumulate(rollout.step_tokens)]


def outputs(model: Any, rows: Sequence[Sequence[int]], **options: Any) -> Iterator[tuple[int, int, Any]]:
    """Run `model` over rows of token ids, some at a time. Yields each row's number, its place in the batch, and the
    batch's output. `options` are for the model's forward pass."""
    for group in _batches(rows):
        ids = torch.zeros((len(group), len(rows[group[0]])), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, number in enumerate(group):
            ids[place, : len(rows[number])] = torch.tensor(rows[number])
            mask[place, : len(rows[number])] = 1
        with torch.inference_mode():
            out = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), **options)
        for place, number in enumerate(group):
            yield number, place, out


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The numbers of the rows of each batch, longest row first; rows of one batch are of about the same length."""
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    start = 0
    while start < len(order):
        size = max(1, _TOKENS_PER_BATCH // max(1, len(rows[order[start]])))
        yield order[start : start + size]
        start += size


def _file(folder: Path, shard: Path) -> Path:
    return folder / f"{shard.stem}.safetensors"


def _digest(shard: Path) -> str:
    return hashlib.sha256(shard.read_bytes()).hexdigest()


def _keep(states: torch.Tensor, folder: Path, shard: Path) -> None:
    """Write the states of a shard, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _file(folder, shard)
    partial = path.with_suffix(".partial")
    save_file({_TENSOR: states.contiguous()}, partial, metadata={"format": "pt", _SHARD: _digest(shard)})
    partial.replace(path)


def _kept(folder: Path, shard: Path) -> torch.Tensor | None:
    """The states kept for this very shard; None if there are none that can be used."""
    try:
        with safe_open(_file(folder, shard), "pt") as file:
            if (file.metadata() or {}).get(_SHARD) != _digest(shard):
                return None
            states: torch.Tensor = file.get_tensor(_TENSOR)
            return states
    except (OSError, SafetensorError):
        return None

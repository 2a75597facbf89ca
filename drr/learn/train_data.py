"""The training data of the text classifier: rollouts as batches of boundaries."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from drr.learn.boundaries import Stretch, answers_stated, one_by_one, pad_rows, stretches
from drr.learn.records import Rollout, behaviour_features
from drr.learn.train_config import TrainConfig
from drr.loop.features import FEATURE_NAMES

NO_LABEL = -1.0
PLAIN, FIRST, LAST = 0, 1, 2
"""Kinds of boundaries: FIRST states the attempt's first answer, LAST is the attempt's last one, PLAIN is any other."""

_NO_FEATURES = [float("nan")] * len(FEATURE_NAMES)
_STEPS_AFTER_ANSWER = 2
_LEAST_WEIGHT, _MOST_WEIGHT = 0.2, 5.0


class RolloutDataset(Dataset[list[dict[str, Any]]]):
    """One item per rollout: a list of rows, each an input with its labels. Most rollouts need one row; an encoder needs
    one per boundary."""

    def __init__(
        self, rollouts: Sequence[Rollout], tokenizer: Any, config: TrainConfig, causal: bool, *, augment: bool
    ) -> None:
        self.rollouts, self._tokenizer, self._config = rollouts, tokenizer, config
        self._causal = causal
        self._merge, self._cut = (config.merge, config.cut) if augment else (0.0, 0.0)
        self._random = random.Random(config.seed)
        identities = [rollout.identity for rollout in rollouts]
        numbers = {identity: number for number, identity in enumerate(dict.fromkeys(identities))}
        self.groups = [numbers[identity] for identity in identities]

    def __len__(self) -> int:
        return len(self.rollouts)

    def __getitem__(self, item: int) -> list[dict[str, Any]]:
        rollout = self.rollouts[item]
        shown = replace(rollout, steps=rollout.steps[: self._steps_shown(rollout)])
        merged = [self._random.random() < self._merge for _ in shown.steps]
        rows = list(stretches(self._tokenizer, shown, self._config.max_tokens, merged))
        if not self._causal:
            rows = self._chosen([row for stretch in rows for row in one_by_one(stretch)])
        kinds, features = boundary_kinds(rollout), behaviour_features(rollout)
        return [
            {
                "stretch": row,
                "labels": [_labels(rollout, step) for step in row.steps],
                "kinds": [kinds[step] for step in row.steps],
                "features": [features[step] or _NO_FEATURES for step in row.steps],
                "group": self.groups[item],
            }
            for row in rows
        ]

    def _steps_shown(self, rollout: Rollout) -> int:
        """How many steps are shown: all, or those up to the first stated answer and at most two more."""
        counts = answers_stated(rollout)
        if 1 not in counts or self._random.random() >= self._cut:
            return len(counts)
        return counts.index(1) + 1 + self._random.randint(0, _STEPS_AFTER_ANSWER)

    def _chosen(self, rows: list[Stretch]) -> list[Stretch]:
        """The last boundary and a random choice of the others."""
        some = self._random.sample(rows[:-1], min(len(rows) - 1, self._config.boundaries_per_rollout - 1))
        return [*some, rows[-1]]


def _labels(rollout: Rollout, step: int) -> list[float]:
    now = rollout.now[step]
    return [NO_LABEL if now is None else float(now), float(rollout.later)]


def boundary_kinds(rollout: Rollout) -> list[int]:
    """The kind of each boundary. The ranking loss compares boundaries of the kinds FIRST and LAST."""
    counts = answers_stated(rollout)
    kinds = [PLAIN] * len(counts)
    kinds[-1] = LAST
    if 1 in counts:
        kinds[counts.index(1)] = FIRST
    return kinds


def collate(items: Sequence[Sequence[Mapping[str, Any]]], pad: int) -> dict[str, torch.Tensor]:
    """A batch of the rows of `items`: ids, mask [B, T]; positions, kinds [B, S]; labels [B, S, 2] (-1 where unknown);
    features [B, S, F] (NaN where unknown); group [B], the number of the question."""
    rows = [row for item in items for row in item]
    batch = pad_rows([row["stretch"] for row in rows], pad)
    labels = torch.full((*batch["positions"].shape, 2), NO_LABEL)
    kinds = torch.zeros(batch["positions"].shape, dtype=torch.long)
    features = torch.full((*batch["positions"].shape, len(FEATURE_NAMES)), torch.nan)
    for number, row in enumerate(rows):
        labels[number, : len(row["labels"])] = torch.tensor(row["labels"])
        kinds[number, : len(row["kinds"])] = torch.tensor(row["kinds"])
        features[number, : len(row["features"])] = torch.tensor(row["features"])
    group = torch.tensor([row["group"] for row in rows])
    return {**batch, "labels": labels, "kinds": kinds, "features": features, "group": group}


class ByQuestion(Sampler[int]):
    """Shuffles the questions and keeps the rollouts of each together, so that a batch holds attempts to compare."""

    def __init__(self, groups: Sequence[int], seed: int) -> None:
        self._groups, self._seed, self._epoch = np.asarray(groups), seed, 0

    def __len__(self) -> int:
        return len(self._groups)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self._seed, self._epoch))
        rank = rng.permutation(int(self._groups.max()) + 1)
        order = np.lexsort((rng.random(len(self._groups)), rank[self._groups]))
        return iter(order.tolist())


def label_weights(rollouts: Sequence[Rollout], config: TrainConfig) -> torch.Tensor:
    """Weights [2, 2] of wrong (row 0) and right (row 1) labels, for `now` (column 0) and `later` (column 1)."""
    if not config.balance:
        return torch.ones(2, 2)
    now = [float(flag) for rollout in rollouts for flag in rollout.now if flag is not None]
    later = [float(rollout.later) for rollout in rollouts for _ in rollout.steps]
    right = torch.tensor([np.mean(now or [0.5]), np.mean(later or [0.5])])
    weights = 0.5 / torch.stack([1 - right, right])
    return weights.clamp(_LEAST_WEIGHT, _MOST_WEIGHT).float()


def feature_moments(rollouts: Sequence[Rollout]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and scale [F] of the known behaviour features; 0 and 1 if none are known."""
    known = [features for rollout in rollouts for features in behaviour_features(rollout) if features is not None]
    if not known:
        return torch.zeros(len(FEATURE_NAMES)), torch.ones(len(FEATURE_NAMES))
    values = torch.tensor(known)
    return values.mean(0), values.std(0) + 1e-6

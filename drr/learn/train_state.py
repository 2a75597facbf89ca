"""Train a state head: a small network from the Reasoner's state at a boundary to the logits of `now` and `later`.

It takes minutes: the states are computed once (drr.learn.states), and only the network is trained.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from drr.engine.state_head import OUTPUTS, StateHead
from drr.errors import InputError
from drr.learn.boundaries import Boundaries, flatten
from drr.learn.fusion import rollout_weights
from drr.learn.records import Rollout
from drr.learn.state_config import StateConfig
from drr.learn.states import BoundaryStates
from drr.progress import Progress


@dataclass(frozen=True, slots=True)
class _Lessons:
    """N boundaries: states [N, size], normalised; labels and their weights [N, 2]; the number of the question [N]."""

    states: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    question: NDArray[np.int64]


class _Members(nn.Module):
    """K networks with one hidden layer each, side by side."""

    def __init__(self, size: int, config: StateConfig) -> None:
        super().__init__()
        self.members = config.members
        self.hidden = nn.Linear(size, config.members * config.hidden)
        self.out = nn.Parameter(torch.empty(config.members, len(OUTPUTS), config.hidden))
        nn.init.uniform_(self.out, -(config.hidden**-0.5), config.hidden**-0.5)
        self.out_bias = nn.Parameter(torch.zeros(config.members, len(OUTPUTS)))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Standardised states [N, size] -> logits [N, K, 2]."""
        inner = self.dropout(functional.gelu(self.hidden(self.dropout(states))))
        return torch.einsum("nkh,koh->nko", inner.unflatten(1, (self.members, -1)), self.out) + self.out_bias

    def averaged(self, mean: torch.Tensor, scale: torch.Tensor) -> StateHead:
        """The average of the members, for states that are not standardised (by `mean` and `scale` [size]), as one
        head."""
        head = StateHead(self.hidden.in_features, self.hidden.out_features)
        weight = self.hidden.weight / scale
        head.load_state_dict(
            {
                "norm.weight": torch.ones_like(mean),
                "norm.bias": torch.zeros_like(mean),
                "hidden.weight": weight,
                "hidden.bias": self.hidden.bias - weight @ mean,
                "out.weight": self.out.transpose(0, 1).flatten(1) / self.members,
                "out.bias": self.out_bias.mean(0),
            }
        )
        return head.eval().requires_grad_(False)


def train_state_head(
    rollouts: Sequence[Rollout], held_back: Sequence[Rollout], states: BoundaryStates, config: StateConfig
) -> tuple[StateHead, dict[str, Any]]:
    """A head trained on the rollouts' boundaries, and the figures of its training.

    Training ends early once the loss on `held_back` (rollouts of other questions) has not fallen for `config.patience`
    epochs, and the best state is kept. The same arguments give the same head. InputError if the loss is never a number.
    """
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    train, held = _lessons(rollouts, states), _lessons(held_back, states)
    mean, scale = train.states.mean(0), train.states.std(0) + 1e-4
    train.states.sub_(mean).div_(scale)
    held.states.sub_(mean).div_(scale)
    members = _Members(train.states.shape[1], config)
    best, best_loss, best_epoch, epoch = None, float("inf"), 0, 0
    with Progress("State head", config.epochs) as progress:
        for epoch in _epochs(members, train, config, rng):
            held_loss = _held_loss(members, held)
            if held_loss < best_loss:
                best, best_loss, best_epoch = members.averaged(mean, scale), held_loss, epoch
            progress.advance(f"loss {held_loss:.4f}")
            if epoch - best_epoch >= config.patience:
                break
        seconds = progress.seconds
    if best is None:
        raise InputError("records", "teach nothing: the loss of the state head is no number")
    figures = {
        "parameters": sum(parameter.numel() for parameter in best.parameters()),
        "rollouts": len(rollouts),
        "boundaries": len(train.states),
        "epochs": epoch,
        "best_epoch": best_epoch,
        "best_loss": round(best_loss, 4),
        "seconds": round(seconds),
    }
    return best, figures


def _epochs(members: _Members, train: _Lessons, config: StateConfig, rng: np.random.Generator) -> Iterator[int]:
    """Train the members, each on a bootstrap sample of the questions; yields the number of every epoch that is done."""
    count = int(train.question.max()) + 1
    samples = [np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(config.members)]
    drawn = torch.tensor(np.stack(samples, axis=1), dtype=torch.float32)
    steps = -(-count // config.questions) * config.epochs
    optimizer = torch.optim.AdamW(members.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(1, config.epochs + 1):
        members.train()
        for rows in _batches(train, rng, config.questions):
            optimizer.zero_grad()
            loss = _loss(members(train.states[rows]), train, rows, drawn[train.question[rows]])
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        yield epoch


def state_logits(head: StateHead, rollouts: Sequence[Rollout], states: BoundaryStates) -> Boundaries:
    """The boundaries of `rollouts` with the head's logits, computed as in serving."""
    with torch.inference_mode():
        logits = head(states.of(rollouts)).double().numpy()
    lengths = np.cumsum([len(rollout.steps) for rollout in rollouts])[:-1]
    return flatten(rollouts, np.split(logits, lengths), "head")


def _lessons(rollouts: Sequence[Rollout], states: BoundaryStates) -> _Lessons:
    found = states.of(rollouts)
    data = flatten(rollouts, [np.zeros((len(rollout.steps), 2)) for rollout in rollouts])
    weights = rollout_weights(data)
    identities = [rollout.identity for rollout in rollouts]
    numbers = {identity: number for number, identity in enumerate(dict.fromkeys(identities))}
    question = np.asarray([numbers[identity] for identity in identities], dtype=np.int64)[data.rollout]
    return _Lessons(
        functional.layer_norm(found, found.shape[1:]),
        torch.tensor(np.stack([data.now, data.later], axis=1), dtype=torch.float32),
        torch.tensor(np.stack([weights * data.known, weights], axis=1), dtype=torch.float32),
        question,
    )


def _batches(data: _Lessons, rng: np.random.Generator, questions: int) -> Iterator[NDArray[np.int64]]:
    """The rows of so many questions at a time: every question once, shuffled."""
    order = rng.permutation(int(data.question.max()) + 1)
    for start in range(0, len(order), questions):
        yield np.flatnonzero(np.isin(data.question, order[start : start + questions]))


def _loss(logits: torch.Tensor, data: _Lessons, rows: NDArray[np.int64], drawn: torch.Tensor) -> torch.Tensor:
    """Mean log loss of all members; `drawn` [N, K] is how often a member's sample holds the row's question."""
    labels = data.labels[rows][:, None].expand_as(logits)
    weights = data.weights[rows][:, None] * drawn[:, :, None]
    losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)


def _held_loss(members: _Members, data: _Lessons) -> float:
    """The log loss of the members' average."""
    members.eval()
    with torch.inference_mode():
        logits = members(data.states).mean(1, keepdim=True)
        everything = np.arange(len(data.question))
        return float(_loss(logits, data, everything, torch.ones(len(everything), 1)))

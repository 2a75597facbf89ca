"""Train a state head: a small network from the Reasoner's state at a boundary to the logits of `now` and `later`.

It takes minutes: the states are computed once (drr.learn.states), and only the network is trained. The head is the
average of several members, each trained on a bootstrap sample of the questions. The members that never saw a question
judge it as the head judges a new one, so every question trains the head, decides when training ends, and fits what
reads the head's logits (Breiman, "Out-of-bag estimation", 1996).
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
from drr.learn.arrays import Reals
from drr.learn.boundaries import Boundaries, flatten
from drr.learn.fusion import rollout_weights
from drr.learn.records import Rollout
from drr.learn.state_config import StateConfig
from drr.learn.states import BoundaryStates, attempt_key
from drr.learn.train_data import FIRST, LAST, boundary_kinds
from drr.progress import Progress


@dataclass(frozen=True, slots=True)
class _Lessons:
    """N boundaries: states [N, size], normalised; labels and their weights [N, 2]; the number of the question [N], and
    the kind of boundary [N] (drr.learn.train_data)."""

    states: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    question: NDArray[np.int64]
    kinds: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrainedStateHead:
    """A state head, the figures of its training, and the rollouts that trained it. `unseen` are their boundaries with
    the mean logits of the members that were not trained on the question; NaN where all members were."""

    head: StateHead
    unseen: Boundaries
    figures: dict[str, Any]
    rollouts: Sequence[Rollout]

    def unseen_of(self, rollouts: Sequence[Rollout]) -> Boundaries:
        """`unseen` of some of the rollouts that trained it, in their order. KeyError for any other."""
        number = {attempt_key(rollout): number for number, rollout in enumerate(self.rollouts)}
        ends = np.cumsum([len(rollout.steps) for rollout in self.rollouts])[:-1]
        logits = np.split(self.unseen.logits, ends)
        return flatten(rollouts, [logits[number[attempt_key(rollout)]] for rollout in rollouts], "head")


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


def train_state_head(rollouts: Sequence[Rollout], states: BoundaryStates, config: StateConfig) -> TrainedStateHead:
    """A head trained on the rollouts' boundaries.

    Training ends early once the loss at unseen questions has not fallen for `config.patience` epochs, and the best
    state is kept. The same arguments give the same head. InputError if the loss is never a number.
    """
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    train = _lessons(rollouts, states)
    mean, scale = train.states.mean(0), train.states.std(0) + 1e-4
    train.states.sub_(mean).div_(scale)
    members = _Members(train.states.shape[1], config)
    drawn = _bootstrap(train.question, config.members, rng)
    best, best_unseen, best_loss, best_epoch, epoch = None, None, float("inf"), 0, 0
    with Progress("State head", config.epochs) as progress:
        for epoch in _epochs(members, train, drawn, config, rng):
            unseen = _unseen_logits(members, train, drawn)
            loss = _unseen_loss(unseen, train, drawn)
            if loss < best_loss:
                best, best_unseen, best_loss, best_epoch = members.averaged(mean, scale), unseen, loss, epoch
            progress.advance(f"loss {loss:.4f}")
            if epoch - best_epoch >= config.patience:
                break
        seconds = progress.seconds
    if best is None or best_unseen is None:
        raise InputError("records", "teach nothing: the loss of the state head is no number")
    figures = {
        "parameters": sum(parameter.numel() for parameter in best.parameters()),
        "questions": len(drawn),
        "rollouts": len(rollouts),
        "boundaries": len(train.states),
        "epochs": epoch,
        "best_epoch": best_epoch,
        "best_loss": round(best_loss, 4),
        "seconds": round(seconds),
    }
    return TrainedStateHead(best, _boundaries(rollouts, best_unseen.double().numpy()), figures, rollouts)


def _bootstrap(question: NDArray[np.int64], members: int, rng: np.random.Generator) -> torch.Tensor:
    """[Q, K] how often each member's sample holds each question."""
    count = int(question.max()) + 1
    samples = [np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(members)]
    return torch.tensor(np.stack(samples, axis=1), dtype=torch.float32)


def _epochs(
    members: _Members, train: _Lessons, drawn: torch.Tensor, config: StateConfig, rng: np.random.Generator
) -> Iterator[int]:
    """Train the members, each on its sample of the questions; yields the number of every epoch that is done."""
    steps = -(-len(drawn) // config.questions) * config.epochs
    optimizer = torch.optim.AdamW(members.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(1, config.epochs + 1):
        members.train()
        for rows in _batches(train, rng, config.questions):
            optimizer.zero_grad()
            logits, times = members(train.states[rows]), drawn[train.question[rows]]
            loss = _loss(logits, train, rows, times)
            if config.ranking:
                loss = loss + config.ranking * _ranking_loss(logits[..., 0], train, rows, times)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        yield epoch


def state_logits(head: StateHead, rollouts: Sequence[Rollout], states: BoundaryStates) -> Boundaries:
    """The boundaries of `rollouts` with the head's logits, computed as in serving."""
    with torch.inference_mode():
        logits = head(states.of(rollouts)).double().numpy()
    return _boundaries(rollouts, logits)


def _boundaries(rollouts: Sequence[Rollout], logits: Reals) -> Boundaries:
    """The boundaries of `rollouts` with these logits [N, 2]."""
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
        np.asarray([kind for rollout in rollouts for kind in boundary_kinds(rollout)], dtype=np.int64),
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


def _ranking_loss(logits: torch.Tensor, data: _Lessons, rows: NDArray[np.int64], drawn: torch.Tensor) -> torch.Tensor:
    """Mean logistic loss of all members, `logits` [N, K] of `now`, over pairs of a right and a wrong boundary of the
    same kind, FIRST or LAST, in attempts at the same question. Zero if there is no such pair."""
    loss, weight = logits.sum() * 0.0, logits.new_zeros(())
    for kind in (FIRST, LAST):
        mask = torch.from_numpy(data.kinds[rows] == kind) & (data.weights[rows][:, 0] > 0)
        scores, right, question = logits[mask], data.labels[rows][mask, 0] > 0.5, torch.from_numpy(data.question[rows])
        alike = question[mask][:, None] == question[mask][None, :]
        one, other = torch.nonzero(alike & right[:, None] & ~right[None, :], as_tuple=True)
        loss = loss + (functional.softplus(scores[other] - scores[one]) * drawn[mask][one]).sum()
        weight = weight + drawn[mask][one].sum()
    return loss / weight.clamp(min=1e-6)


def _unseen_logits(members: _Members, data: _Lessons, drawn: torch.Tensor) -> torch.Tensor:
    """[N, 2] the mean logits of the members whose sample does not hold the boundary's question; NaN where none is."""
    members.eval()
    without = (drawn[data.question] == 0).float()[:, :, None]
    with torch.inference_mode():
        logits: torch.Tensor = (members(data.states) * without).sum(1) / without.sum(1)
        return logits


def _unseen_loss(logits: torch.Tensor, data: _Lessons, drawn: torch.Tensor) -> float:
    """The mean log loss of such logits, over the boundaries that a member did not see."""
    rows = (drawn[data.question] == 0).any(1)
    losses = functional.binary_cross_entropy_with_logits(logits[rows], data.labels[rows], reduction="none")
    return float((losses * data.weights[rows]).sum() / data.weights[rows].sum().clamp(min=1e-6))

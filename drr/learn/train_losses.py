"""The losses of the text classifier: for the labels, for the order within a question, and for behaviour features
predicted from the text."""

import torch
from torch import nn
from torch.nn import functional

from drr.learn.boundaries import BoundaryModel
from drr.learn.train_config import TrainConfig
from drr.learn.train_data import FIRST, LAST, NO_LABEL
from drr.loop.features import FEATURE_NAMES


class TrainedModel(nn.Module):
    """A boundary model together with its losses, as Hugging Face's Trainer expects it."""

    def __init__(
        self,
        model: BoundaryModel,
        config: TrainConfig,
        weights: torch.Tensor,
        moments: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        super().__init__()
        self.model, self._config = model, config
        self.register_buffer("label_weights", weights, persistent=False)
        mean, scale = moments
        self.register_buffer("feature_mean", mean, persistent=False)
        self.register_buffer("feature_scale", scale, persistent=False)
        size = model.plain.config.hidden_size
        self.behaving = nn.Linear(size, len(FEATURE_NAMES)) if config.behaviour and model.causal else None

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        positions: torch.Tensor,
        labels: torch.Tensor,
        kinds: torch.Tensor,
        features: torch.Tensor,
        group: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        logits, picked = self.model(input_ids, attention_mask, positions)
        logits = logits.float()
        known = labels != NO_LABEL
        losses = functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0.0), reduction="none")
        weights = torch.where(labels > 0.5, self.label_weights[1], self.label_weights[0]) * known  # type: ignore[index]
        loss = (losses * weights).sum() / weights.sum().clamp(min=1e-6)
        if self.training and self._config.ranking:
            loss = loss + self._config.ranking * ranking_loss(logits[..., 0], labels[..., 0], kinds, group)
        if self.training and picked is not None and self.behaving is not None:
            loss = loss + self._config.behaviour * self._behaviour_loss(picked, features)
        return {"loss": loss, "logits": logits}

    def _behaviour_loss(self, picked: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Smooth L1 loss of the standardised features; zero if none are known."""
        known = ~features.isnan().any(-1)
        if not known.any():
            return picked.sum() * 0.0
        assert self.behaving is not None
        mean, scale = self.feature_mean, self.feature_scale
        assert isinstance(mean, torch.Tensor)
        assert isinstance(scale, torch.Tensor)
        wanted = ((features - mean) / scale)[known].clamp(-_CLIP, _CLIP)
        return functional.smooth_l1_loss(self.behaving(picked[known]).float(), wanted)


_CLIP = 5.0


def ranking_loss(scores: torch.Tensor, labels: torch.Tensor, kinds: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Mean logistic loss over pairs of a right and a wrong boundary of the same kind, FIRST or LAST, in attempts at the
    same question.

    `scores`, `labels`, `kinds` [B, S]; `group` [B]. Zero if the batch holds no such pair.
    """
    loss, pairs = scores.sum() * 0.0, 0
    for kind in (FIRST, LAST):
        mask = (kinds == kind) & (labels != NO_LABEL)
        kind_scores, right = scores[mask], labels[mask] > 0.5
        question = group[:, None].expand_as(kinds)[mask]
        pair = (question[:, None] == question[None, :]) & right[:, None] & ~right[None, :]
        if pair.any():
            loss = loss + functional.softplus(kind_scores[None, :] - kind_scores[:, None])[pair].sum()
            pairs += int(pair.sum())
    return loss / max(1, pairs)

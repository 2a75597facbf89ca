"""Which questions of behaviour records are used for what when a DM is trained."""

from collections.abc import Sequence
from dataclasses import dataclass

from drr.learn.records import Rollout, share_of

_PART_SALT, _TRAIN_SALT = "part", "train"
_TEXT_SHARE, _DEV_SHARE = 0.73, 0.09


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Rollouts by use: `text` trains the classifier, `dev` decides its early stopping, `head` trains the head, and
    `held_out` gives the reported figures. No question is in two of them."""

    text: list[Rollout]
    dev: list[Rollout]
    head: list[Rollout]
    held_out: list[Rollout]

    @property
    def trained_on(self) -> list[Rollout]:
        return [*self.text, *self.dev, *self.head]


def split_for_training(rollouts: Sequence[Rollout], train_share: float) -> TrainingData:
    """Split the rollouts by question. The question's text decides, so every run on any machine splits the same way."""
    data = TrainingData([], [], [], [])
    for rollout in rollouts:
        if share_of(rollout.question, _TRAIN_SALT) >= train_share:
            data.held_out.append(rollout)
            continue
        position = share_of(rollout.question, _PART_SALT)
        (
            data.text if position < _TEXT_SHARE else data.dev if position < _TEXT_SHARE + _DEV_SHARE else data.head
        ).append(rollout)
    return data

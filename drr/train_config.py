"""The settings of a training of the text classifier."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training of the text classifier.

    `merge` is the share of step pairs merged into one as augmentation. `ranking` weighs the loss that ranks right
    attempts above wrong ones of the same question. Two auxiliary losses teach a causal classifier to see in the text
    what the Reasoner's own probabilities tell: `surprise` weighs telling which tokens the Reasoner found unlikely,
    read before the last layer, which can then gather it; `behaviour` weighs telling each boundary's behaviour features.
    `fresh_rate` multiplies the learning rate of what has no pretraining (heads, added layers). `balance` weighs labels
    so that right and wrong count alike.
    `boundaries_per_rollout` bounds what an encoder, which reads every boundary by itself, is shown of a rollout.
    `extra_layers` grows a causal backbone by layers that at first pass everything on unchanged.
    """

    epochs: float = 3.0
    rollouts_per_batch: int = 32
    learning_rate: float = 2e-4
    fresh_rate: float = 10.0
    warmup: float = 0.05
    weight_decay: float = 0.01
    merge: float = 0.15
    ranking: float = 0.5
    surprise: float = 0.0
    behaviour: float = 0.0
    balance: bool = True
    max_tokens: int = 1024
    boundaries_per_rollout: int = 4
    lora_rank: int = 0
    extra_layers: int = 0
    evaluations_per_epoch: int = 2
    patience: int = 4
    seed: int = 0

"""The settings of a training of the text classifier."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training of the text classifier.

    `merge` is the share of step pairs merged into one as augmentation, `cut` the share of rollouts cut soon after they
    first state an answer, where most is to be learned for the fewest tokens. `ranking` weighs the loss that ranks right
    attempts above wrong ones of the same question; `behaviour` weighs telling each boundary's behaviour features, which
    makes a causal classifier look in the text for what no label tells.
    `fresh_rate` multiplies the learning rate of what has no pretraining (heads, added layers). `balance` weighs labels
    so that right and wrong count alike.
    `boundaries_per_rollout` bounds what an encoder, which reads every boundary by itself, is shown of a rollout.
    `extra_layers` grows a causal backbone by layers that at first pass everything on unchanged; `freeze` trains only
    them and the heads, so that what the backbone knows stays as it is.
    """

    epochs: float = 3.0
    rollouts_per_batch: int = 32
    learning_rate: float = 2e-4
    fresh_rate: float = 10.0
    warmup: float = 0.05
    weight_decay: float = 0.01
    merge: float = 0.15
    cut: float = 0.0
    ranking: float = 0.5
    behaviour: float = 0.0
    balance: bool = True
    max_tokens: int = 1024
    boundaries_per_rollout: int = 4
    lora_rank: int = 0
    extra_layers: int = 0
    freeze: bool = False
    evaluations_per_epoch: int = 2
    patience: int = 4
    seed: int = 0

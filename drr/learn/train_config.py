"""The settings of a training of the text classifier."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training of the text classifier.

    `merge` is the share of step pairs merged into one step as augmentation. `cut` is the share of rollouts cut soon
    after they first state an answer, where few tokens teach most. `ranking` is the weight of the loss that ranks right
    attempts above wrong ones at the same question. `behaviour` is the weight of the loss for predicting each boundary's
    behaviour features from the text; it makes a causal classifier use signs in the text that the labels do not point
    to. `fresh_rate` multiplies the learning rate of parameters without pretraining (heads, added layers). `balance`
    weighs labels so that right and wrong ones count equally. `boundaries_per_rollout` is how many boundaries of a
    rollout an encoder, which reads each one separately, is shown at most. `extra_layers` is how many layers are added
    to a causal backbone; at first they pass their input on unchanged. `freeze` trains only them and the heads.
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

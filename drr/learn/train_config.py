"""The settings of a training of the text classifier."""

from dataclasses import dataclass

from drr.checks import LARGEST_SEED, check_range
from drr.errors import InputError
from drr.judge.head import Kind

TRAIN_SHARE = 0.55
"""Of the questions of the records, for training; the rest is for calibration."""

DEFAULT_KIND: Kind = "head"
"""Of a DM. It needs no second model and trains in minutes."""


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
    behaviour: float = 0.5
    balance: bool = True
    max_tokens: int = 1024
    boundaries_per_rollout: int = 4
    lora_rank: int = 0
    extra_layers: int = 0
    freeze: bool = False
    evaluations_per_epoch: int = 2
    patience: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value in (
            ("--epochs", self.epochs),
            ("--learning-rate", self.learning_rate),
            ("--fresh-rate", self.fresh_rate),
        ):
            check_range(option, value, above=0)
        for option, count in (
            ("--batch", self.rollouts_per_batch),
            ("--max-tokens", self.max_tokens),
            ("--boundaries-per-rollout", self.boundaries_per_rollout),
            ("--patience", self.patience),
        ):
            check_range(option, count, least=1)
        for option, value in (
            ("--extra-layers", self.extra_layers),
            ("--lora-rank", self.lora_rank),
            ("--ranking", self.ranking),
            ("--behaviour", self.behaviour),
        ):
            check_range(option, value, least=0)
        for option, share in (("--cut", self.cut), ("--merge", self.merge)):
            check_range(option, share, least=0, most=1)
        check_range("--seed", self.seed, least=0, most=LARGEST_SEED)
        if self.freeze and not self.extra_layers:
            raise InputError("--freeze", "leaves nothing to train but a head: needs --extra-layers")
        if self.freeze and self.lora_rank:
            raise InputError("--freeze", "trains only the extra layers and the head, --lora-rank adapters beside them")

"""The settings of a training of a state head."""

from dataclasses import dataclass

from drr.checks import LARGEST_SEED, check_range


@dataclass(frozen=True, slots=True)
class StateConfig:
    """One training of a state head.

    The head is the average of `members` small networks of `hidden` units, each trained on a bootstrap sample of the
    questions, because a single one overfits. `dropout` acts on states and hidden units. `ranking` is the weight of the
    loss that ranks right attempts above wrong ones at the same question. A batch holds all attempts at `questions`
    questions. Training ends once the loss on other questions has not fallen for `patience` epochs.
    """

    epochs: int = 30
    questions: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    hidden: int = 64
    members: int = 8
    dropout: float = 0.2
    ranking: float = 0.5
    patience: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value in (("--epochs", self.epochs), ("--learning-rate", self.learning_rate)):
            check_range(option, value, above=0)
        check_range("--patience", self.patience, least=1)
        check_range("--ranking", self.ranking, least=0)
        check_range("--seed", self.seed, least=0, most=LARGEST_SEED)

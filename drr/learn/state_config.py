"""The settings of a training of a state head."""

from dataclasses import dataclass

from drr.checks import LARGEST_SEED, check_range


@dataclass(frozen=True, slots=True)
class StateConfig:
    """One training of a state head.

    The head is the average of `members` small networks of `hidden` units, each trained on a bootstrap sample of the
    questions, because a single one overfits. `dropout` acts on states and hidden units. A batch holds all attempts at
    `questions` questions. `ranking` is the weight of the loss that ranks right above wrong attempts at the same
    question. Training ends once the loss on the questions that a member's sample left out has not fallen
    for `patience` epochs.
    """

    epochs: int = 24
    questions: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 1.0
    hidden: int = 32
    members: int = 12
    dropout: float = 0.1
    ranking: float = 0.0
    patience: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value in (("--epochs", self.epochs), ("--learning-rate", self.learning_rate)):
            check_range(option, value, above=0)
        check_range("--ranking", self.ranking, least=0)
        check_range("--patience", self.patience, least=1)
        check_range("--seed", self.seed, least=0, most=LARGEST_SEED)

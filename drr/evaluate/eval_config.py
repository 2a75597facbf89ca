"""How answers are sampled when strategies are compared."""

from dataclasses import dataclass, field

from drr.checks import LARGEST_SEED, check_range
from drr.judge.dm_folder import DEFAULT_NUDGE_CUE
from drr.loop.steps import StepRule


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """How answers are sampled. An attempt has at most `max_tokens`; `answer_tokens` of them are kept for its answer."""

    temperature: float = 0.8
    max_tokens: int = 1024
    answer_tokens: int = 256
    seed: int = 0
    step_rule: StepRule = field(default_factory=StepRule)
    nudge_cue: str = DEFAULT_NUDGE_CUE
    concurrency: int = 48

    def __post_init__(self) -> None:
        check_range("--temperature", self.temperature, above=0, most=2)
        check_range("--max-tokens", self.max_tokens, least=16)
        check_range("--answer-tokens", self.answer_tokens, least=1)
        check_range("--concurrency", self.concurrency, least=1)
        check_range("--seed", self.seed, least=0, most=LARGEST_SEED)

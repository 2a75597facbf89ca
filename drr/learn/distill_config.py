"""How behaviour is sampled when it is distilled."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from drr.checks import LARGEST_SEED, check_range
from drr.errors import InputError
from drr.loop.steps import StepRule

Labels = Literal["gold", "consistency"]


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """How behaviour is sampled. At most `concurrency` rollouts are under way at once.

    An attempt has at most `max_tokens` tokens. `answer_tokens` of them are kept free for its answer, and a forced
    answer has at most that many, as in serving. Every question gets `rollouts` attempts, and `extra_rollouts` more if
    its outcomes are mixed. `labels` says what an answer is graded against: the dataset's gold answer, or the majority
    answer of the rollouts. `dtype` is what the Reasoner computes in, None for what its engine chooses.
    """

    rollouts: int = 8
    extra_rollouts: int = 8
    temperature: float = 0.8
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 1024
    answer_tokens: int = 256
    seed: int = 0
    step_rule: StepRule = field(default_factory=StepRule)
    labels: Labels = "gold"
    grader: str = "auto"
    concurrency: int = 96
    shard_questions: int = 64
    answer_cue: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("rollouts", 1),
            ("extra_rollouts", 0),
            ("max_tokens", 16),
            ("answer_tokens", 1),
            ("concurrency", 1),
            ("top_k", 0),
        ):
            check_range(f"--{name.replace('_', '-')}", getattr(self, name), least=least)
        check_range("--temperature", self.temperature, least=0, most=2)
        check_range("--top-p", self.top_p, above=0, most=1)
        check_range("--seed", self.seed, least=0, most=LARGEST_SEED)
        if self.labels == "consistency" and self.rollouts < 3:
            raise InputError("--labels", f"consistency needs at least 3 rollouts to agree, not {self.rollouts}")
        if self.temperature == 0 and self.rollouts + self.extra_rollouts > 1:
            raise InputError("--temperature", "0 makes every rollout the same; ask for one rollout and no extra ones")

    def recorded_settings(self) -> dict[str, Any]:
        """The settings that every record depends on: all but `concurrency`."""
        settings = asdict(self)
        del settings["concurrency"]
        for name in ("answer_cue", "dtype"):
            if settings[name] is None:
                del settings[name]
        return {**settings, "step_rule": str(self.step_rule)}

"""How long a run will take, from the speed that was measured while the sampling was chosen."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.real.questions import Use
from benchmarks.real.sampling import Sampling

FORCED = 0.3
"""Tokens of the answers that are forced at an attempt's boundaries, for each token of the attempt (0.29 on GSM8K)."""

MIXED = 0.4
"""Share of questions whose first attempts disagree, and which are attempted more often."""

PASSES = 10
"""What all strategies spend on a test question, in attempts, where what they begin alike is generated once."""

_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Plan:
    """Hours by stage, and how many questions of each set will train."""

    hours: dict[str, float]
    train: int


def plan(
    found: Sampling, sets: int, sizes: Mapping[Use, int], rollouts: Mapping[Use, tuple[int, int]], hours: float | None
) -> Plan:
    """The plan for so many sets. With `hours`, as many questions train as these leave time for, at least 20 of each
    set and at most `sizes` has; else as many as `sizes` says."""
    attempt = next(one.tokens for one in found.tried if one.temperature == found.chosen)
    an_attempt = attempt / found.tokens_per_second / _SECONDS
    record = {use: (first + MIXED * more) * (1 + FORCED) * an_attempt for use, (first, more) in rollouts.items()}
    needed = {f"records-{use}": sets * sizes[use] * record[use] for use in rollouts if use != "train"}
    needed["outcomes"] = sets * sizes["test"] * PASSES * an_attempt
    train = sizes["train"]
    if hours is not None:
        left = hours - sum(needed.values())
        train = min(train, max(20, int(left / (sets * record["train"]))))
    needed["records-train"] = sets * train * record["train"]
    return Plan({stage: round(spent, 2) for stage, spent in needed.items()}, train)

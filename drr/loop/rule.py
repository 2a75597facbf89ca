"""A stopping rule: the part of a policy that is chosen by calibration, kept with a DM and replayed on records."""

from dataclasses import dataclass
from typing import Any

from drr.loop.policy import PolicySettings


@dataclass(frozen=True, slots=True)
class Rule:
    """When to stop: the part of PolicySettings that calibration chooses."""

    threshold: float | None
    patience: int = 1
    hopeless: float | None = None
    min_gain: float | None = None

    def settings(self) -> PolicySettings:
        return PolicySettings(
            threshold=self.threshold, patience=self.patience, hopeless=self.hopeless, min_gain=self.min_gain
        )

    @property
    def never_ends(self) -> bool:
        """Whether thinking runs to its own end."""
        return self.threshold is None and self.hopeless is None and self.min_gain is None

    @property
    def caution(self) -> tuple[float, int]:
        """Orders rules: the higher, the later this one stops."""
        return (2.0 if self.threshold is None else self.threshold, self.patience)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

"""What the checks have found so far."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something in vLLM that our code counts on and that is not so."""

    file: str
    line: int
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.name}: {self.what}"


@dataclass(slots=True)
class Findings:
    """How much of each kind was checked, and what is wrong. `seen` tells every check."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: set[Problem] = field(default_factory=set)
    seen: list[str] = field(default_factory=list)

    def checked(self, kind: str, file: str, line: int, name: str, faults: list[str]) -> None:
        """One thing of this kind was checked, and has these faults."""
        self.counts[kind] += 1
        self.seen.append(f"{file}:{line}: {kind[:-1]} {name}")
        self.problems.update(Problem(file, line, name, fault) for fault in faults)

    def summary(self, version: str) -> str:
        counted = ", ".join(f"{self.counts[kind]} {kind}" for kind in ("imports", "calls", "overrides", "attributes"))
        return f"vLLM {version}: {counted} checked; {len(self.problems)} problems"

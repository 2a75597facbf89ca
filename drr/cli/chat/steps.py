"""Which text belongs to which step: the server tells a step's length in tokens, and its text comes without marks."""

import re
from dataclasses import dataclass, field
from typing import Any

_ENDS = {
    "blank_line": re.compile(r"\n[ \t]*\n\s*"),
    "line": re.compile(r"\n\s*"),
    "sentence": re.compile(r"[.!?][\"')\]]*\s+"),
}
"""What a step of a rule ends with. Steps of other rules are taken to end where text came."""


@dataclass(frozen=True, slots=True)
class ClosedStep:
    """A step's object as it came, and its text: empty where the server sent none, as for attempts that lose a race."""

    told: dict[str, Any]
    text: str

    @property
    def attempt(self) -> int:
        """From 0."""
        return int(self.told.get("attempt") or 0)


@dataclass(slots=True)
class StepTexts:
    """Takes texts and steps in the order in which they come. A step's last text comes just before the step is told, or
    just after."""

    rule: str = "blank_line"
    open: str = ""
    """The text of the step in progress."""
    _waiting: list[dict[str, Any]] = field(default_factory=list)

    def add_step(self, told: dict[str, Any]) -> list[ClosedStep]:
        """A step has closed; returns it if its text is there."""
        self._waiting.append(told)
        here = len(self._waiting) == 1 and self.open.strip() and self._end(0) == len(self.open)
        return [self._close(len(self.open))] if here else []

    def add_text(self, text: str) -> list[ClosedStep]:
        """Text has come; returns the steps that it completes."""
        before, self.open = len(self.open), self.open + text
        closed = []
        while self._waiting:
            end = self._end(before if len(self._waiting) == 1 else 0)
            end = len(self.open) if end is None else end
            closed.append(self._close(end))
            before = max(0, before - end)
        return closed

    def finish(self) -> list[ClosedStep]:
        """Nothing more comes: the steps that still wait for their texts, the last of which gets what there is."""
        closed = []
        while self._waiting:
            end = self._end(0) if len(self._waiting) > 1 else None
            closed.append(self._close(len(self.open) if end is None else end))
        return closed

    def _close(self, end: int) -> ClosedStep:
        step = ClosedStep(self._waiting.pop(0), self.open[:end])
        self.open = self.open[end:]
        return step

    def _end(self, after: int) -> int | None:
        """The first place behind so many characters where the step in progress ends; None where nothing shows it."""
        pattern = _ENDS.get(self.rule)
        if pattern is None:
            return len(self.open) if self.open.strip() else None
        for found in pattern.finditer(self.open):
            if found.end() > after and self.open[: found.start()].strip():
                return found.end()
        return None

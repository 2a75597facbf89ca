"""What a model thought and how it was judged, as a file: written by `drr chat` and by `clients.record`, read by the
page that the server shows."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drr.cli.chat.stream import Event

FORMAT, VERSION = "drr-trace", 1


@dataclass(slots=True)
class Run:
    """One response. `name` says how it was asked for: `drr` as usual, `full` where nothing ended the thinking."""

    name: str
    request: Mapping[str, Any]
    events: list[Event] = field(default_factory=list)
    right: bool | None = None
    """Whether the answer is right, where that is known."""
    step_rule: str = "blank_line"

    def text(self, kind: str) -> str:
        """All text of a kind."""
        return "".join(event.value for event in self.events if event.kind == kind)

    def told(self, kind: str) -> Any:
        """The last object of a kind; None where none came."""
        return next((event.value for event in reversed(self.events) if event.kind == kind), None)

    def to_json(self) -> dict[str, Any]:
        """Steps stand in the events: the account repeats none."""
        streamed = any(event.kind == "step" for event in self.events)
        events = [
            [
                round(event.ms),
                event.kind,
                {name: value for name, value in event.value.items() if name != "steps"}
                if event.kind == "account" and streamed
                else event.value,
            ]
            for event in self.events
        ]
        known = {} if self.right is None else {"right": self.right}
        head = {"name": self.name, "request": dict(self.request), **known, "step_rule": self.step_rule}
        return {**head, "events": events}


def trace_object(question: str, runs: Iterable[Run], **more: Any) -> dict[str, Any]:
    """A trace as JSON; `more` are what else is known of it."""
    recorded = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"format": FORMAT, "version": VERSION, "recorded": recorded, **more}
    return {**head, "question": question, "runs": [run.to_json() for run in runs]}


def write_trace(path: Path, trace: Mapping[str, Any]) -> None:
    """Write it where nothing is yet. OSError where that cannot be done."""
    with path.open("x", encoding="utf-8") as file:
        json.dump(trace, file, ensure_ascii=False, indent=1)
        file.write("\n")

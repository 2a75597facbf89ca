"""What looks on while a response is made: the decision log, canaries, traces. None of them changes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from drr.loop.response import Event, Outcome
from server.metrics import Ended


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The choices that did not come to their end: what each of them was by then, how they `ended`, and the `fault`, in
    one word, where it was nobody's wish."""

    outcomes: Mapping[int, Outcome]
    ended: Ended
    fault: str | None


class Watcher(Protocol):
    """Looks on while the choices of one request are made."""

    def note(self, index: int, event: Event) -> None:
        """An event of choice `index`."""
        ...

    def close(self, unfinished: Unfinished | None) -> None:
        """The request is over; None where all its choices are complete."""
        ...

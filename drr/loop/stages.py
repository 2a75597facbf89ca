"""The stages of an attempt and the moves between them, as a table."""

from collections.abc import Mapping
from enum import Enum, auto


class Stage(Enum):
    """Where an attempt stands."""

    UNDECIDED = auto()
    """The prompt did not say whether the output begins with thinking."""
    THINKING = auto()
    CLOSED = auto()
    """The Reasoner closed its thinking; the close may still be refused."""
    ENDED = auto()
    """The thinking's stream is over without a close, or out of room."""
    ANSWERING = auto()
    REJECTED = auto()


class Move(Enum):
    """What takes an attempt from one stage to another."""

    OPEN = auto()
    """Thinking begins."""
    SKIP = auto()
    """The output begins with an answer."""
    CLOSE = auto()
    END = auto()
    NUDGE = auto()
    """A close is refused."""
    ACCEPT = auto()
    """The thinking stands; an answer follows."""
    REJECT = auto()


TRANSITIONS: Mapping[Stage, Mapping[Move, Stage]] = {
    Stage.UNDECIDED: {
        Move.OPEN: Stage.THINKING,
        Move.SKIP: Stage.CLOSED,
        Move.END: Stage.ENDED,
        Move.ACCEPT: Stage.ANSWERING,
    },
    Stage.THINKING: {
        Move.CLOSE: Stage.CLOSED,
        Move.END: Stage.ENDED,
        Move.ACCEPT: Stage.ANSWERING,
        Move.REJECT: Stage.REJECTED,
    },
    Stage.CLOSED: {
        Move.NUDGE: Stage.THINKING,
        Move.ACCEPT: Stage.ANSWERING,
        Move.REJECT: Stage.REJECTED,
    },
    Stage.ENDED: {
        Move.NUDGE: Stage.THINKING,
        Move.ACCEPT: Stage.ANSWERING,
        Move.REJECT: Stage.REJECTED,
    },
    Stage.ANSWERING: {},
    Stage.REJECTED: {Move.ACCEPT: Stage.ANSWERING},
}
"""For every stage, where each move that is possible there leads. An answer that has begun is never taken back."""

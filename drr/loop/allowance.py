"""How much an attempt may still generate: by its own limits, and by those that it shares with a response's others.

Everything is decided by token positions: what an attempt may do depends on what was kept, and not on when a verdict
came.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from drr.loop.policy import StopCause
from drr.loop.response import LoopSettings, Spent, Used


@dataclass(slots=True)
class Share:
    """The most that one of several attempts at the same time may generate and think; None where nothing limits the
    latter."""

    generated: int
    thought: int | None


class Allowance:
    """One attempt's. `others` is what the response's other attempts have used up; whoever holds it may change it.
    `share` bounds an attempt that runs beside others."""

    def __init__(self, settings: LoopSettings, others: Spent, *, prompt_tokens: int, marker_tokens: int) -> None:
        """`marker_tokens` close the thinking."""
        self.share: Share | None = None
        self._settings, self._others = settings, others
        self._prompt_tokens, self._marker_tokens = prompt_tokens, marker_tokens
        self._thinking_room, self._attempt_room = settings.thinking_room, settings.attempt_room(prompt_tokens)

    def forbidden_by(self, used: Used, tokens: int = 1) -> StopCause | None:
        """What forbids so many more thinking tokens; None where they may follow."""
        for left, cause in self._limits(used):
            if tokens > left:
                return cause
        return None

    def may_think(self, used: Used) -> int:
        """How many more thinking tokens may follow."""
        return min(left for left, _ in self._limits(used))

    def room(self, used: Used) -> int:
        """How many tokens may follow, those kept free for the answer included."""
        reserve = self._settings.max_tokens - self._thinking_room  # which is there, whatever was cut away
        probed = self._others.probed + used.probed
        left = self._settings.max_tokens - self._others.generated - used.generated
        room = max(left, reserve - used.answered) - probed
        if self._settings.context_limit is not None:
            room = min(room, self._settings.context_limit - self._prompt_tokens - used.output)
        return room

    def to_think(self, used: Used, markers: int) -> int:
        """How many tokens a request that thinks may generate; `markers` of them may be no thinking."""
        room = min(self.room(used), self._thinking_left(used))
        thought = self._thoughts_left(used)
        return room if thought is None else min(room, thought + markers)

    def _limits(self, used: Used) -> Iterator[tuple[int, StopCause]]:
        """How many thinking tokens each limit leaves."""
        thought = self._thoughts_left(used)
        if thought is not None:
            yield thought, self._settings.thinking_limit
        if self._attempt_room is not None:
            yield self._attempt_room - used.output - self._marker_tokens, StopCause.CONTEXT_LENGTH
        yield self._thinking_left(used), self._no_room

    @property
    def _no_room(self) -> StopCause:
        """Which limit `max_tokens` stands for: a client that names none may fill the context."""
        limit = self._settings.context_limit
        fills_context = limit is not None and self._settings.max_tokens >= limit - self._prompt_tokens
        return StopCause.CONTEXT_LENGTH if fills_context else StopCause.ANSWER_RESERVE

    def _thinking_left(self, used: Used) -> int:
        left = self._thinking_room - self._others.generated - self._others.probed - used.generated - used.probed
        return left if self.share is None else min(left, self.share.generated - used.generated - used.probed)

    def _thoughts_left(self, used: Used) -> int | None:
        limit = self._settings.max_thinking_tokens
        if limit is None:
            return None
        left = limit - self._others.thought - used.thought
        share = None if self.share is None else self.share.thought
        return left if share is None else min(left, share - used.thought)

"""What an attempt has put out so far: its tokens, where thinking begins and ends, what the client has seen."""

from collections.abc import Sequence

from drr.reasoner import Token, injected
from drr.response import Emit, Spent
from drr.steps import Step, StepRule, StepSegmenter


class Trace:
    """The output of one attempt. `spent` counts its thinking, with that of the response's other attempts."""

    def __init__(self, prompt_ids: Sequence[int], rule: StepRule, spent: Spent) -> None:
        self.tokens: list[Token] = []
        self.thinking_from = self.thinking_to = 0
        self.started = False
        """Whether there is any thinking in it."""
        self._prompt_ids, self._rule, self._spent = list(prompt_ids), rule, spent
        self._segmenter = StepSegmenter(rule)
        self._released = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def context(self, end: int) -> list[int]:
        """The prompt's ids and those of the first `end` tokens."""
        return [*self._prompt_ids, *(token.id for token in self.tokens[:end])]

    @property
    def carried(self) -> list[int]:
        """The ids of all tokens."""
        return [token.id for token in self.tokens]

    def ends_with(self, ids: tuple[int, ...]) -> bool:
        """Whether the last tokens are these."""
        return tuple(token.id for token in self.tokens[-len(ids) :]) == ids

    def begins(self, ids: tuple[int, ...]) -> int:
        """How many of the last tokens are the beginning of `ids`, and not yet all of it."""
        return next((count for count in range(len(ids) - 1, 0, -1) if self.ends_with(ids[:count])), 0)

    def inject(self, ids: Sequence[int], text: str) -> None:
        """Add tokens that nobody generated."""
        self.tokens.extend(injected(ids, text))

    # Thinking ----------------------------------------------------------------------------------------------

    def start_thinking(self) -> None:
        """What is added from here on is thinking."""
        self.started = True
        self.thinking_from = self.thinking_to = len(self.tokens)
        self._segmenter = StepSegmenter(self._rule, start=len(self.tokens))

    def think(self) -> Step | None:
        """Take the newest token for thinking; returns the step that it closes, if it closes one."""
        self._think_up_to(len(self.tokens))
        return self._segmenter.feed(self.tokens[-1].text)

    def close_thinking(self, marker: int) -> None:
        """The last `marker` tokens close the thinking: all but the last of them were taken for it until now."""
        self._think_up_to(len(self.tokens) - marker)
        self._segmenter.drop(marker - 1)

    def last_step(self) -> Step | None:
        """Close the step in progress; None if nothing is in it."""
        return self._segmenter.finish()

    @property
    def undecided_from(self) -> int | None:
        """The first token that may belong to the next step although its boundary is not known yet."""
        return self._segmenter.held_from

    @property
    def thinking(self) -> tuple[Token, ...]:
        """What has been thought and kept, the opening marker included where it is part of the output."""
        return tuple(self.tokens[: self.thinking_to])

    def _think_up_to(self, end: int) -> None:
        self._spent.thought += end - self.thinking_to
        self.thinking_to = end

    # Release and cut ---------------------------------------------------------------------------------------

    def release(self, limit: int) -> Emit | None:
        """The tokens before `limit` that have not been released yet."""
        if limit <= self._released:
            return None
        tokens = tuple(self.tokens[self._released : limit])
        self._released = limit
        return Emit(tokens, "".join(token.text for token in tokens))

    def add_released(self, tokens: Sequence[Token]) -> None:
        """Add tokens that the client is shown in another way; all before must have been released."""
        self.tokens.extend(tokens)
        self._released = len(self.tokens)

    def cut(self, end: int) -> int:
        """Drop everything behind `end`; returns how many tokens that were."""
        dropped = len(self.tokens) - end
        del self.tokens[end:]
        self._think_up_to(min(self.thinking_to, end))
        return dropped

"""How much an attempt may still generate: by its own limits, and by those that it shares with a response's others."""

from drr.loop.response import LoopSettings, Spent


class Allowance:
    """One attempt's. `spent` is the account of all attempts; `sharing` of them, this one and those that begin right
    after it, divide what is left of it."""

    def __init__(
        self, settings: LoopSettings, spent: Spent, *, prompt_tokens: int, marker_tokens: int, sharing: int
    ) -> None:
        """`marker_tokens` close the thinking."""
        self._settings, self._spent, self._sharing = settings, spent, sharing
        self._prompt_tokens, self._marker_tokens = prompt_tokens, marker_tokens
        self._thinking_room, self._attempt_room = settings.thinking_room, settings.attempt_room(prompt_tokens)
        self._granted = 0

    def grant(self, tokens: int) -> None:
        """This attempt's engine request may generate so many from now on."""
        self._spent.granted += tokens - self._granted
        self._granted = tokens

    def count(self, tokens: int) -> None:
        """Its engine request has generated these."""
        self._spent.generated += tokens
        self.grant(self._granted - tokens)

    @property
    def kept(self) -> bool:
        """Whether all that was granted has been generated."""
        return self._granted == 0

    def may_think(self, output: int, tokens: int = 1) -> bool:
        """Whether this many more thinking tokens may follow an output of `output` tokens."""
        limit, room = self._settings.max_thinking_tokens, self._attempt_room
        return (
            (limit is None or self._spent.thought + tokens <= limit)
            and (room is None or output + tokens + self._marker_tokens <= room)
            and tokens <= self._left(self._thinking_room)
        )

    def room(self, output: int) -> int:
        """How many tokens may follow an output of `output` tokens, those kept free for the answer included."""
        room = self._left(self._settings.max_tokens)
        if self._settings.context_limit is not None:
            room = min(room, self._settings.context_limit - self._prompt_tokens - output)
        return room

    def next_share(self, output: int) -> int:
        """How many tokens a request that thinks may generate behind an output of `output` tokens."""
        share = self._left(self._thinking_room) // self._sharing
        self._sharing = 1  # those that begin after this one have begun when it asks again
        return min(self.room(output), share)

    def _left(self, tokens: int) -> int:
        return tokens - self._spent.generated - (self._spent.granted - self._granted)

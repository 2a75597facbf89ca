"""Attempts that run at the same time: which of them wins, and who may use the room that another has left.

Both are decided by token positions and never by the clock, so that the same attempts have the same winner however long
an engine or a judge takes. The attempt that stands after the fewest tokens wins; of several, the one that began first.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from drr.loop.allowance import Share
from drr.loop.response import Used


class Race:
    """Attempts number 0 to `size` - 1. `total` is what they may generate and think together; each begins with an equal
    share of it. `on_won` is called with the winner, which goes on when `go_on` has been called."""

    def __init__(self, size: int, total: Share, on_won: Callable[[int], None]) -> None:
        self._total, self._on_won, self._released = total, on_won, asyncio.Event()
        thought = None if total.thought is None else total.thought // size
        self.shares = [Share(total.generated // size, thought) for _ in range(size)]
        self._passed = [0] * size
        self._used = [Used(0, 0, 0)] * size
        self._standing: dict[int, int] = {}
        self._over: set[int] = set()
        self._waiting: set[int] = set()
        self._changed = asyncio.Event()

    @property
    def winner(self) -> int | None:
        """The winner, once none of the others can do better."""
        if not self._standing:
            return None
        position, best = min((position, number) for number, position in self._standing.items())
        settled = self._standing.keys() | self._over | self._waiting
        others = (number for number in range(len(self.shares)) if number not in settled)
        return best if all((self._passed[number], number) > (position, best) for number in others) else None

    def passed(self, number: int, position: int) -> None:
        """This attempt will not stand at any position before `position`."""
        if position > self._passed[number]:
            self._passed[number] = position
            self._tell()

    def over(self, number: int, used: Used) -> None:
        """This attempt was rejected where it had used so much."""
        self._over.add(number)
        share = self.shares[number].generated
        self._used[number] = replace(used, generated=min(share, used.generated))
        self._share_out()
        self._tell()

    async def stands(self, number: int, position: int) -> None:
        """This attempt's thinking stands. Returns if it has won; else never, and it is to be ended."""
        self._standing[number] = position
        self._tell()
        while self.winner is None:
            await self._next_change()
        if self.winner != number:
            await asyncio.Event().wait()
        self._on_won(number)
        await self._released.wait()

    def go_on(self) -> None:
        """Let the winner go on: the others have been ended."""
        self._released.set()

    async def more(self, number: int, used: Used) -> None:
        """This attempt has used its share up. Returns once no other can go on without more either: what all of them
        have left has then been shared out anew."""
        self._used[number] = used
        self._waiting.add(number)
        self._share_out()
        self._tell()
        while number in self._waiting:
            await self._next_change()

    def used_beside(self, winner: int) -> dict[int, Used]:
        """How far each of the others had come when this attempt won: to the same position, or to its end before."""
        position = self._standing[winner]
        here = Used(position, position, position)
        ended = {number for number in self._over | self._waiting if self._ended_before(winner, number)}
        others = (number for number in range(len(self.shares)) if number != winner)
        return {number: self._used[number] if number in ended else here for number in others}

    def rejected_before(self, winner: int, number: int) -> bool:
        """Whether this attempt was rejected before that one stood."""
        return number in self._over and self._ended_before(winner, number)

    def _ended_before(self, winner: int, number: int) -> bool:
        return (self._used[number].output, number) < (self._standing[winner], winner)

    def _share_out(self) -> None:
        """Divide what is left, once every attempt is over or waits for more."""
        if not self._waiting or self._standing or len(self._waiting | self._over) < len(self.shares):
            return
        generated = self._total.generated - sum(used.generated for used in self._used)
        thought = sum(used.thought for used in self._used)
        for number in self._waiting:
            share, used = self.shares[number], self._used[number]
            share.generated = used.generated + generated // len(self._waiting)
            if self._total.thought is not None:
                share.thought = used.thought + (self._total.thought - thought) // len(self._waiting)
        self._waiting = set()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _next_change(self) -> None:
        await self._changed.wait()


class Racer:
    """One attempt in a race, as the attempt sees it."""

    def __init__(self, race: Race, number: int) -> None:
        self._race, self._number = race, number
        self.share = race.shares[number]

    def passed(self, position: int) -> None:
        """As Race.passed."""
        self._race.passed(self._number, position)

    async def stands(self, position: int) -> None:
        """As Race.stands."""
        await self._race.stands(self._number, position)

    async def more(self, used: Used) -> None:
        """As Race.more."""
        await self._race.more(self._number, used)

"""The engine requests of one attempt, one at a time: opened within its allowance, counted, ended for certain.

It knows neither steps nor verdicts; what a request brings goes into the loop's mailbox.
"""

import asyncio
from collections.abc import Sequence

from drr.loop.allowance import Allowance, Share
from drr.loop.judging import PendingBoundary
from drr.loop.policy import StopCause
from drr.loop.pumps import Ended
from drr.loop.reasoner import Delta, Phase, Reasoner, Segment
from drr.loop.response import LoopSettings, Outcome, Spent, Used
from drr.loop.segments import SegmentStream

Message = Delta | Ended | PendingBoundary
"""What the loop waits for: output of an engine request, its end, or a boundary that has something to resolve."""


class EngineRequests:
    """Those of one attempt behind a prompt. Generated and discarded tokens are counted in `outcome`."""

    def __init__(
        self,
        reasoner: Reasoner,
        settings: LoopSettings,
        prompt_ids: Sequence[int],
        outcome: Outcome,
        others: Spent,
        *,
        marker_tokens: int,
    ) -> None:
        """`others` is what other attempts have used up. `marker_tokens` close the thinking."""
        self.mailbox: asyncio.Queue[Message] = asyncio.Queue()
        self.cut = False
        """Whether the thinking was ended from outside."""
        self._prompt_ids, self._outcome = list(prompt_ids), outcome
        self._stream = SegmentStream(reasoner, self.mailbox.put_nowait)
        self._allowance = Allowance(settings, others, prompt_tokens=len(prompt_ids), marker_tokens=marker_tokens)
        self._phase, self._number, self._left = Phase.THINK, 0, 0

    def share_room(self, share: Share) -> None:
        """Bound an attempt that runs beside others."""
        self._allowance.share = share

    def forbidden_by(self, used: Used, tokens: int = 1) -> StopCause | None:
        """What forbids so many more thinking tokens; None where they may follow."""
        return self._allowance.forbidden_by(used, tokens)

    @property
    def may_be_continued(self) -> bool:
        """Whether the request has generated all that it was allowed, and can go on exactly where it ended."""
        return self._phase is Phase.THINK and self._left == 0

    def room(self, used: Used) -> int:
        """How many tokens may follow, those kept free for the answer included."""
        return self._allowance.room(used)

    def count(self, tokens: int) -> None:
        """The running request has generated these."""
        self._outcome.generated_tokens += tokens
        self._left -= tokens

    @property
    def left(self) -> int:
        """How many more tokens the running request may generate."""
        return self._left

    def open(
        self,
        phase: Phase,
        carried: Sequence[int],
        used: Used,
        *,
        answering: bool,
        markers: int,
        most: int | None = None,
    ) -> bool:
        """Begin a request behind an output of `carried` tokens; False where there is no room for one. The request
        before must have been closed. Unless `answering` it may generate no more than may be thought, and so many
        `markers` around that; `most` is the most in any case."""
        limit = self._allowance.room(used) if answering else self._allowance.to_think(used, markers)
        limit = limit if most is None else min(limit, most)
        if limit < 1:
            return False
        segment = Segment(phase, self._number, [*self._prompt_ids, *carried], carried, limit, cut=self.cut)
        self._number, self._phase, self._left = self._number + 1, phase, limit
        self._stream.open(segment)
        return True

    async def close(self) -> None:
        """End the running request; what it generated and nobody has taken yet counts as discarded."""
        await self._stream.close()
        scored: list[PendingBoundary] = []
        while not self.mailbox.empty():
            message = self.mailbox.get_nowait()
            if isinstance(message, PendingBoundary):
                scored.append(message)
            elif isinstance(message, Delta):
                self.discard(len(message.tokens))
        for pending in scored:
            self.mailbox.put_nowait(pending)

    def discard(self, tokens: int) -> None:
        """The running request has generated these in vain."""
        self.count(tokens)
        self._outcome.discarded_tokens += tokens

"""The engine requests of one attempt, one at a time: opened within its allowance, counted, ended for certain.

It knows neither steps nor verdicts; what a request brings goes into the loop's mailbox.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from drr.loop.allowance import Allowance, Share
from drr.loop.judging import PendingBoundary
from drr.loop.onlookers import Progress
from drr.loop.policy import StopCause
from drr.loop.pumps import Ended
from drr.loop.reasoner import Delta, Phase, Reasoner, Segment
from drr.loop.response import LoopSettings, Outcome, Spent, Used
from drr.loop.segments import SegmentStream
from drr.loop.trace import Trace

Message = Delta | Ended | PendingBoundary
"""What the loop waits for: output of an engine request, its end, or a boundary that has something to resolve."""


class EngineRequests:
    """Those of one attempt behind a prompt, whose output is `trace`. Generated and discarded tokens are counted in
    `outcome`."""

    def __init__(
        self,
        reasoner: Reasoner,
        settings: LoopSettings,
        prompt_ids: Sequence[int],
        trace: Trace,
        outcome: Outcome,
        others: Spent,
        *,
        marker_tokens: int,
    ) -> None:
        """`others` is what other attempts have used up. `marker_tokens` close the thinking."""
        self.mailbox: asyncio.Queue[Message] = asyncio.Queue()
        self.cut = False
        """Whether the thinking was ended from outside."""
        self.probed: Callable[[], int] = lambda: 0
        """How many tokens have been generated beside the output that count against its limits."""
        self._cuts = self._wasted = self._sure = self._arrived = 0
        self._prompt_ids, self._trace, self._outcome, self._settings = list(prompt_ids), trace, outcome, settings
        self._stream = SegmentStream(reasoner, self._deliver)
        self._allowance = Allowance(settings, others, prompt_tokens=len(prompt_ids), marker_tokens=marker_tokens)
        self._phase, self._number, self._left = Phase.THINK, 0, 0

    def _deliver(self, message: Delta | Ended) -> None:
        self._arrived += len(message.tokens) if isinstance(message, Delta) else 0
        self.mailbox.put_nowait(message)

    def progress(self) -> Progress:
        """How far the attempt has come, were it cut now: what nobody has taken yet has been generated, too."""
        return Progress(self._arrived, self._number, self._cuts)

    def resume(self, progress: Progress) -> None:
        """What follows is asked for, and counted, as if an attempt had come so far already."""
        self._number, self._cuts = progress.requests, progress.cuts
        self._outcome.generated_tokens = progress.generated
        self._outcome.discarded_tokens = progress.generated - self._trace.used().generated

    def share_room(self, share: Share) -> None:
        """Bound an attempt that runs beside others."""
        self._allowance.share = share

    def used(self, end: int | None = None) -> Used:
        """How far the attempt has come, or had come with the first `end` tokens of its output."""
        used = self._trace.used(end)
        set_aside = max(self._cuts * self._settings.lookahead, self._outcome.discarded_tokens)
        return replace(
            used,
            generated=used.generated + set_aside,
            answered=used.answered + self._wasted,
            probed=self.probed(),
        )

    def set_aside(self, *, of_answer: bool = False) -> None:
        """The output is cut back, or a stream given up whose rest is of no use: set aside for what the engine has
        generated meanwhile. `of_answer` tells that what the running request may still generate is the answer's loss."""
        self._sure = 0
        self._cuts += 1
        self._wasted += self._left if of_answer else 0

    def forbidden_by(self, tokens: int = 1, *, cut_at: int | None = None) -> StopCause | None:
        """What forbids so many more thinking tokens behind the output, or behind its first `cut_at` tokens once the
        rest is cut away; None where they may follow."""
        used = self.used(cut_at)
        if cut_at is not None:
            used = replace(used, generated=used.generated + self._settings.lookahead)
        return self._allowance.forbidden_by(used, tokens)

    def may_think(self) -> bool:
        """Whether another thinking token may follow. To be asked once for every token, which it counts: the limits are
        worked out again only where they may have been reached."""
        if self._sure == 0:
            self._sure = max(0, self._allowance.may_think(self.used()))
        if self._sure == 0:
            return False
        self._sure -= 1
        return True

    @property
    def may_be_continued(self) -> bool:
        """Whether the request has generated all that it was allowed, and can go on exactly where it ended."""
        return self._phase is Phase.THINK and self._left == 0

    @property
    def room(self) -> int:
        """How many tokens may follow, those kept free for the answer included."""
        return self._allowance.room(self.used())

    def count(self, tokens: int) -> None:
        """The running request has generated these."""
        self._outcome.generated_tokens += tokens
        self._left -= tokens

    def open(self, phase: Phase, *, answering: bool, markers: int, most: int | None = None) -> bool:
        """Begin a request behind the output; False where there is no room for one. The request before must have been
        closed. Unless `answering` it may generate no more than may be thought, and so many `markers` around that;
        `most` is the most in any case."""
        used, carried = self.used(), self._trace.carried
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
        self._sure = 0

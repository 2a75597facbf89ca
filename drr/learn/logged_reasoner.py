"""A Reasoner that first says what it has said before, and goes on from there.

So a logged attempt runs through the very loop that a new one runs through: steps, boundaries and answer come out the
same way.
"""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from drr.engine.vllm_reasoner import TextDecoder
from drr.learn.from_log import End, LoggedAttempt
from drr.loop.formats import ReasoningFormat
from drr.loop.reasoner import Delta, Reasoner, Segment, Token

_CHUNK = 32


class LoggedReasoner:
    """Plays `attempt`, and asks `reasoner` for what is missing of it."""

    def __init__(self, reasoner: Reasoner, attempt: LoggedAttempt, form: ReasoningFormat, tokenizer: Any) -> None:
        self._reasoner = reasoner
        ids, self._complete = _to_play(attempt, form, tokenizer)
        decoder = TextDecoder(tokenizer, attempt.prompt_ids, skip_special_tokens=True)
        known = [*attempt.logprobs, *[None] * (len(ids) - len(attempt.logprobs))]
        self.tokens = [
            Token(token_id, decoder.step(token_id), logprob) for token_id, logprob in zip(ids, known, strict=False)
        ]
        """What is played."""

    async def stream(self, segment: Segment) -> AsyncGenerator[Delta, None]:
        """As any Reasoner's. What an attempt carries is the beginning of what is played, or goes on behind it."""
        left = self.tokens[len(segment.carried) :][: segment.max_tokens]
        room = segment.max_tokens - len(left)
        all_played = len(segment.carried) + len(left) >= len(self.tokens)
        last = "stop" if all_played and self._complete else "length" if room == 0 else None
        for start in range(0, len(left), _CHUNK):
            part = tuple(left[start : start + _CHUNK])
            reason = last if start + _CHUNK >= len(left) else None
            yield Delta(part, "".join(token.text for token in part), reason)
        if left and last is not None:
            return
        ids = [token.id for token in left]
        rest = replace(segment, ids=[*segment.ids, *ids], carried=[*segment.carried, *ids], max_tokens=room)
        stream = self._reasoner.stream(rest)
        async with contextlib.aclosing(stream):
            async for delta in stream:
                yield delta


def _to_play(attempt: LoggedAttempt, form: ReasoningFormat, tokenizer: Any) -> tuple[Sequence[int], bool]:
    """The ids to be played, and whether nothing is missing behind them."""
    if attempt.end is End.CUT:
        return attempt.ids, False
    if form.turn_holds_answer:  # the thinking ends with the turn, and holds the answer
        thought, behind = attempt.ids[: attempt.thinking_to], attempt.ids[attempt.thinking_to :]
        return [*thought, behind[0] if behind else tokenizer.eos_token_id], True
    if attempt.end is End.ANSWER:
        return attempt.ids, True
    return [*attempt.ids, *form.close_behind([*attempt.prompt_ids, *attempt.ids])[0]], False

"""What an attempt has put out so far: its tokens, which part each of them is, and what the client has seen."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from drr.loop.formats import Part
from drr.loop.reasoner import Token, injected
from drr.loop.response import Emit, Used


class Trace:
    """The output of one attempt: a marker that opens the thinking, the thinking, a marker that closes it, the answer.

    The thinking is `tokens[thinking_from:thinking_to]`, the answer begins at `answer_from`; what lies between the parts
    are markers.
    """

    def __init__(self, prompt_ids: Sequence[int]) -> None:
        self.tokens: list[Token] = []
        self.thinking_from = self.thinking_to = 0
        self.answer_from: int | None = None
        self.started = False
        """Whether there is any thinking in it."""
        self._prompt_ids = list(prompt_ids)
        self._injected: list[int] = []
        self._shared: dict[int, tuple[tuple[Part, str], ...]] = {}
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

    def used(self, end: int | None = None) -> Used:
        """How far the output has come, or had come with its first `end` tokens."""
        output = len(self.tokens) if end is None else end
        generated, thinking_to = self._generated(output), self._generated(min(self.thinking_to, output))
        thought = max(0, thinking_to - self._generated(self.thinking_from))
        return Used(output, generated, thought, generated - thinking_to)

    def _generated(self, end: int) -> int:
        """How many of the first `end` tokens were generated."""
        return end - bisect_left(self._injected, end)

    @property
    def thinking(self) -> tuple[Token, ...]:
        """What has been thought and kept, the opening marker included where it is part of the output."""
        return tuple(self.tokens[: self.thinking_to])

    # Parts -------------------------------------------------------------------------------------------------

    def start_thinking(self) -> None:
        """What is added from here on is thinking."""
        self.started = True
        self.thinking_from = self.thinking_to = len(self.tokens)

    def think(self) -> None:
        """The newest token is thinking."""
        self.thinking_to = len(self.tokens)

    def end_thinking(self, at: int, *, answer_from: int | None = None) -> None:
        """The thinking ends before token `at`; the answer begins at `answer_from`, else behind all there is."""
        self.thinking_to = at
        self.answer_from = len(self.tokens) if answer_from is None else answer_from

    def share(self, index: int, parts: Sequence[tuple[Part, str]]) -> None:
        """The text of token `index` belongs to several parts."""
        self._shared[index] = tuple(parts)

    def inject(self, ids: Sequence[int], text: str, part: Part) -> None:
        """Add tokens that nobody generated; `part` says whether they still are thinking, a marker or the answer."""
        if part is Part.ANSWER and self.answer_from is None:
            self.answer_from = len(self.tokens)
        self._injected.extend(range(len(self.tokens), len(self.tokens) + len(ids)))
        self.tokens.extend(injected(ids, text))
        if part is Part.MARKER:
            self.answer_from = len(self.tokens)

    def _stretches(self, limit: int) -> Iterator[tuple[Part, int]]:
        """The parts of what has not been released, each with the token before which it ends."""
        answer_from = limit if self.answer_from is None else self.answer_from
        opened = self.thinking_from if self.started else 0
        for part, end in (
            (Part.MARKER, opened),
            (Part.THINKING, self.thinking_to if self.started else 0),
            (Part.MARKER, answer_from),
            (Part.ANSWER, limit),
        ):
            if self._released < min(end, limit):
                yield part, min(end, limit)

    # Release and cut ---------------------------------------------------------------------------------------

    def release(self, limit: int) -> list[Emit]:
        """The tokens before `limit` that have not been released yet, one entry per part."""
        emits: list[Emit] = []
        if self._released >= limit:
            return emits
        if self.started and self.thinking_from <= self._released and limit <= self.thinking_to and not self._shared:
            self._release_plain(limit, Part.THINKING, emits)
            return emits
        for part, end in self._stretches(limit):
            shared = [index for index in self._shared if self._released <= index < end] if self._shared else ()
            for index in shared:
                self._release_plain(index, part, emits)
                token: tuple[Token, ...] = (self.tokens[index],)
                for own_part, text in self._shared[index]:
                    emits.append(Emit(token, text, own_part))
                    token = ()
                self._released = index + 1
            self._release_plain(end, part, emits)
        return emits

    def _release_plain(self, end: int, part: Part, emits: list[Emit]) -> None:
        if self._released < end:
            tokens = tuple(self.tokens[self._released : end])
            text = tokens[0].text if len(tokens) == 1 else "".join([token.text for token in tokens])
            emits.append(Emit(tokens, text, part))
            self._released = end

    def add_released(self, tokens: Sequence[Token]) -> None:
        """Add tokens of the answer that the client is shown in another way; all before must have been released."""
        self.tokens.extend(tokens)
        self._released = len(self.tokens)

    def cut(self, end: int) -> int:
        """Drop everything behind `end`; returns how many of the dropped tokens had been generated."""
        dropped = self.used().generated - self.used(end).generated
        del self.tokens[end:]
        del self._injected[bisect_left(self._injected, end) :]
        self.thinking_to = min(self.thinking_to, end)
        if self.answer_from is not None and self.answer_from > end:
            self.answer_from = None
        self._shared = {index: parts for index, parts in self._shared.items() if index < end}
        return dropped

"""Finding the markers of thinking in a stream of tokens, one token at a time.

A scanner is fed every token once and says when a marker is complete. Its cost per token does not grow with the stream:
it keeps no more than could still become a marker.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from drr.loop.reasoner import Token

_RECIPIENT = re.compile(r" to=([^\s<]+)")
"""Who a message in channels is for."""

_NO_FUNCTIONS = ("assistant", "python", "browser", "container")
"""Recipients that are no function of the client's: tools that the model thinks with."""


class Mark(Enum):
    """What has been found."""

    OPENS = auto()
    CLOSES = auto()
    ANSWERS = auto()
    """There is no thinking: what has come is an answer."""
    TOOL_CALL = auto()
    """A tool call begins; its opening is part of the answer."""
    STOPS = auto()
    """A text at which the client wants the turn to end; it is not shown."""


@dataclass(frozen=True, slots=True)
class Found:
    """A mark that the newest token completed. It begins in the `tokens`-th last token, behind the text `before` in that
    token, and the text `behind` follows it in the newest. `text` is the mark's own."""

    mark: Mark
    tokens: int
    before: str = ""
    behind: str = ""
    text: str = ""


class Scanner(Protocol):
    """Fed with every token in order. `held` is how many of the newest tokens may be the beginning of a mark; `silent`
    tells that the newest is structure for certain, and no text of the thinking."""

    held: int
    silent: bool

    def feed(self, token: Token) -> Found | None: ...


class IdScanner:
    """Finds sequences of token ids that no tokenizer would cut in another way."""

    silent = False

    def __init__(self, marks: Mapping[tuple[int, ...], Mark]) -> None:
        self._marks = dict(marks)
        self._longest = max(map(len, self._marks))
        self._known = {token_id for ids in self._marks for token_id in ids}
        self._tail: list[int] = []
        self.held = 0

    def feed(self, token: Token) -> Found | None:
        if token.id not in self._known:
            self._tail, self.held = [], 0
            return None
        self._tail = [*self._tail, token.id][-self._longest :]
        for ids, mark in self._marks.items():
            if tuple(self._tail[-len(ids) :]) == ids:
                self._tail, self.held = [], 0
                return Found(mark, len(ids))
        self.held = max(map(self._begun, self._marks))
        return None

    def _begun(self, ids: tuple[int, ...]) -> int:
        """How many of the last tokens are the beginning of `ids`."""
        most = min(len(ids) - 1, len(self._tail))
        return next((count for count in range(most, 0, -1) if tuple(self._tail[-count:]) == ids[:count]), 0)


class TextScanner:
    """Finds texts, wherever the tokens cut them; with none to find, nothing."""

    silent = False

    def __init__(self, marks: Mapping[str, Mark]) -> None:
        self._marks = {text: mark for text, mark in marks.items() if text}
        self._firsts = {text[0] for text in self._marks}
        self._tail: list[str] = []
        self.held = 0

    def feed(self, token: Token) -> Found | None:
        if not self._tail and self._firsts.isdisjoint(token.text):
            return None
        self._tail.append(token.text)
        joined = "".join(self._tail)
        places = [(place, text) for text in self._marks if (place := joined.find(text)) >= 0]
        if places:
            place, text = min(places, key=lambda item: (item[0], -len(item[1])))
            first, start = self._token_at(place)
            tokens = len(self._tail) - first
            self._tail, self.held = [], 0
            return Found(self._marks[text], tokens, joined[start:place], joined[place + len(text) :], text)
        begun = max(_overlap(joined, text) for text in self._marks)
        self._tail = self._tail[self._token_at(len(joined) - begun)[0] :] if begun else []
        self.held = len(self._tail)
        return None

    def _token_at(self, place: int) -> tuple[int, int]:
        """Index of the token that holds the character at `place`, and where that token begins."""
        start = 0
        for index, text in enumerate(self._tail):
            if place < start + len(text):
                return index, start
            start += len(text)
        return len(self._tail), start


def _overlap(text: str, mark: str) -> int:
    """Characters at the end of `text` that are a beginning of `mark`, and not all of it."""
    most = min(len(text), len(mark) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(mark[:size])), 0)


class OpeningScanner:
    """Watches the beginning of an output: an opening marker begins thinking, other text is an answer.

    `length` is the number of tokens of the opening marker: a shorter output is not decided yet.
    """

    silent = False

    def __init__(self, markers: Scanner, length: int) -> None:
        self._markers, self._length = markers, length
        self._seen, self._text = 0, False
        self.held = 0

    def feed(self, token: Token) -> Found | None:
        found = self._markers.feed(token)
        self._seen += 1
        self.held = self._seen
        if found is not None:
            return found
        self._text = self._text or bool(token.text.strip())
        if self._text and self._seen >= self._length and not self._markers.held:
            return Found(Mark.ANSWERS, self._seen)
        return None


class ChannelScanner:
    """Finds where a turn of the Harmony format changes its channel.

    A header is what stands between `end` (or `start`, or `channel`) and `message`; only its last token tells which
    channel it opens.
    """

    def __init__(
        self, ids: Mapping[str, int], thinking: str, read: Callable[[int], Token], *, in_thinking: bool
    ) -> None:
        self._message, self._thinking, self._read = ids["message"], thinking, read
        self._borders = (ids["end"], ids["start"], ids["channel"])
        self._in_thinking = in_thinking
        self._header: list[str] | None = None if in_thinking else []
        self.held = 0
        self.silent = False

    def feed(self, token: Token) -> Found | None:
        self.silent = self._header is not None or token.id in self._borders
        if not self.silent:
            return None
        if self._header is None:
            self._header = []
        self.held += 1
        if token.id != self._message:
            self._header.append(self._read(token.id).text)
            return None
        header, tokens = "".join(self._header), self.held
        self._header, self.held = None, 0
        return self._opened(header, tokens)

    def _opened(self, header: str, tokens: int) -> Found | None:
        channel = header.rpartition("<|channel|>")[2].strip()
        if channel.startswith(self._thinking) and not _calls(header):
            return None if self._in_thinking else Found(Mark.OPENS, tokens)
        return Found(Mark.CLOSES if self._in_thinking else Mark.ANSWERS, tokens)


def _calls(header: str) -> bool:
    """Whether this is the header of a call of one of the client's functions, which may stand in any channel."""
    recipient = _RECIPIENT.search(header)
    return recipient is not None and recipient[1].partition(".")[0] not in _NO_FUNCTIONS

"""Cut a stream of thinking tokens into steps.

The segmenter sees one token's text at a time, so how the engine grouped tokens into deltas cannot change the
steps. Steps are made of whole tokens: a boundary inside a token closes the step at that token's end, or, for
boundaries that are recognised by what follows them, before the token that starts the next step.

It does not know about thinking markers, scores or clients.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

StepKind = Literal["blank_line", "line", "sentence", "marker", "tokens", "attempt"]

_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")
_ENDS_IN_SENTENCE = re.compile(r"[.!?][\"')\]]*\s+$")
_LIST_NUMBER = re.compile(r"(?:^|\n)[ \t]*\d+\.\s*$")
_SENTENCE_TAIL = 5
"""Tokens that are looked at for the end of a sentence."""
_MARKERS = ("Wait", "But", "Hmm", "Alternatively", "However", "Actually")


@dataclass(frozen=True, slots=True)
class StepRule:
    """Where a step ends.

    blank_line: at a blank line. line: at a line break. sentence: after `.`, `!` or `?` followed by white space, unless
    that is the number of a list's item.
    marker: before a word of reconsideration ("Wait", "Hmm", ...). tokens: every `every` tokens. attempt: only at the
    end of thinking.
    """

    kind: StepKind = "blank_line"
    every: int = 64

    def __post_init__(self) -> None:
        if self.kind not in get_args(StepKind):
            raise ValueError(f"step rule {self.kind!r} is none of {', '.join(get_args(StepKind))}")
        if self.every < 1:
            raise ValueError(f"every must be at least 1, not {self.every}")

    def __str__(self) -> str:
        return f"tokens:{self.every}" if self.kind == "tokens" else self.kind

    @classmethod
    def parse(cls, text: str) -> "StepRule":
        """The rule named by `text`: a kind, or `tokens:N`. ValueError says what is wrong."""
        kind, _, count = text.partition(":")
        if count and kind != "tokens":
            raise ValueError(f"step rule {text!r}: only tokens takes a number")
        if count and not count.isdecimal():
            raise ValueError(f"step rule {text!r}: {count!r} is not a number")
        return cls(kind, int(count)) if count else cls(kind)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Step:
    """Tokens `start` to `end` (exclusive) of the thinking, and their text."""

    start: int
    end: int
    text: str


class StepSegmenter:
    """Feed it every thinking token's text in order; it returns the steps as they close.

    `held_from` is the index of the first token that might belong to the next step although no boundary is known
    yet (the beginning of a marker word); None when every token seen belongs to the current step for certain.
    """

    def __init__(self, rule: StepRule, start: int = 0) -> None:
        self._rule = rule
        self._start = start
        self._pieces: list[str] = []
        self._scanned, self._unscanned = 0, ""  # characters of the current step searched for markers, and the rest
        self._has_text = self._after_break = False  # of the current step: any words yet, nothing since a line break
        self.held_from: int | None = None

    def feed(self, text: str) -> Step | None:
        """Take the next token; returns the step it closed, if it closed one."""
        self._pieces.append(text)
        match self._rule.kind:
            case "blank_line":
                return self._close_here() if self._completes_blank_line(text) else None
            case "line":
                return self._close_here() if "\n" in text else None
            case "tokens":
                return self._close_here() if len(self._pieces) >= self._rule.every else None
            case "sentence":
                return self._feed_sentence(text)
            case "marker":
                return self._feed_marker()
            case _:
                return None

    def drop(self, tokens: int) -> None:
        """Take back the last tokens of the step in progress: they turned out not to be thinking."""
        if tokens > 0:
            del self._pieces[-tokens:]
            self._scan_again()

    def extend(self, text: str) -> None:
        """Add text to the newest token of the step in progress: the beginning of a token whose rest is a marker."""
        if self._pieces:
            self._pieces[-1] += text
            self._scan_again()

    def finish(self) -> Step | None:
        """Close the step in progress at the last token; None if it holds no text."""
        self.held_from = None
        return self._close(len(self._pieces)) if "".join(self._pieces).strip() else None

    def _close_here(self) -> Step | None:
        return self._close(len(self._pieces)) if "".join(self._pieces).strip() else None

    def _close_before_last(self) -> Step | None:
        return self._close(len(self._pieces) - 1)

    def _close(self, count: int) -> Step:
        step = Step(self._start, self._start + count, "".join(self._pieces[:count]))
        self._start = step.end
        del self._pieces[:count]
        self._scan_again()
        return step

    def _scan_again(self) -> None:
        self._scanned, self._unscanned = 0, "".join(self._pieces)
        self._has_text = self._after_break = False
        for piece in self._pieces:
            self._completes_blank_line(piece)

    def _completes_blank_line(self, text: str) -> bool:
        """Whether the newest token completes a blank line behind text of the step. The line breaks can be tokens
        apart."""
        if "\n" not in text:
            if text.strip():
                self._has_text, self._after_break = True, False
            return False
        completed = False
        for character in text:
            if character == "\n":
                completed = completed or (self._after_break and self._has_text)
                self._after_break = True
            elif character not in " \t":
                self._after_break = False
                self._has_text = self._has_text or not character.isspace()
        return completed

    def _feed_sentence(self, text: str) -> Step | None:
        """A sentence ends with the token that holds both its full stop and white space, else before the white space."""
        if _ENDS_IN_SENTENCE.search(text) and not self._is_list_number(self._pieces[-_SENTENCE_TAIL:]):
            return self._close_here()
        before = self._pieces[-_SENTENCE_TAIL:-1]
        if not before or not text[:1].isspace():
            return None
        ended = _SENTENCE_END.search("".join(before)) is not None and not self._is_list_number(before)
        return self._close_before_last() if ended else None

    def _is_list_number(self, tail: list[str]) -> bool:
        """Whether the last tokens of the step are `1.` at the beginning of a line."""
        whole = len(tail) == len(self._pieces) or len(tail) == len(self._pieces) - 1
        text = "".join(tail)
        found = _LIST_NUMBER.search(text)
        return found is not None and (found.start() > 0 or text[:1] == "\n" or whole)

    def _feed_marker(self) -> Step | None:
        """A marker counts when it is a whole word, which only the character after it can tell."""
        self._unscanned += self._pieces[-1]
        for word in _WORD.finditer(self._unscanned):
            start = self._scanned + word.start()
            if word.end() == len(self._unscanned):  # the word may go on in the next token
                self._scanned, self._unscanned = start, word.group()
                may_be_marker = any(marker.startswith(word.group()) for marker in _MARKERS)
                self.held_from = self._start + self._token_at(start) if may_be_marker else None
                return None
            if word.group() not in _MARKERS:
                continue
            token = self._token_at(start)
            if "".join(self._pieces[:token]).strip():
                self.held_from = None
                return self._close(token)
        self.held_from = None
        self._scanned, self._unscanned = self._scanned + len(self._unscanned), ""
        return None

    def _token_at(self, position: int) -> int:
        """Index, within the current step, of the token that holds the character at `position`."""
        end = 0
        for index, piece in enumerate(self._pieces):
            end += len(piece)
            if position < end:
                return index
        return len(self._pieces)

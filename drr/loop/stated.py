r"""Find the answer that a text states, in one pass whose time grows with the text's length and no faster.

This module says where an answer is stated, in its own words; what it means (a number, a date, the letter of a choice)
is read by `drr.tasks.answers`. Four forms count: `the answer is X`, `answer: X`, `\boxed{X}` and `#### X`. The last one
is the answer. No statement are a question ("the answer is 5?"), a condition ("if the answer is 5"), what the answer is
said not to be, an empty box, and an announcement ("the answer is as follows"). A remark about an answer ("the answer is
correct") and a heading (`#### Step 2`) count only where nothing else is stated.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_STATEMENT = re.compile(r"\banswer\**\s*(?:is\b|:|=)", re.IGNORECASE)
_LEAD_IN = re.compile(r"\s*[:=]?\s*\$?")
_CLOSERS = r"[*_$)\]\"'”’]*"
_STATEMENT_END = re.compile(
    rf"\n|[.?](?={_CLOSERS}(?:\s|$))|!(?={_CLOSERS}\s*(?:$|\n))|!(?={_CLOSERS}\s+[\"'“*_]?[A-Z])"
)
"""What ends a sentence. An exclamation mark before anything but a new sentence may be a factorial's."""
_HASHES = re.compile(r"(?<!#)####(?!#)\s*([^\n]+)")
_VALUE = re.compile(r"\d|[^\W\d_]{2}|^\(?[A-Ja-j]\)?\W*$")
_BOX = re.compile(r"\\boxed\s*\{")

_WINDOW = 64
"""Characters before `answer` in which a condition is looked for."""
_CONDITION = re.compile(
    r"\b(?:if|whether|unless|until|once|when|what|suppose|supposing|assume|assuming|doubt|wonder|not sure|unsure)\s+"
    r"(?:or not\s+)?(?:that\s+)?(?:(?:the|your|my|this|our|an|any|its|final|correct|right|true|real|exact)\s+)*$",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"not\b\W{0,4}(?:\d|[A-J]\b)")
_BUT = re.compile(r"\bbut\s+(?:rather\s+)?")
_ANNOUNCED = re.compile(r"(?:as follows|below|the following|given (?:below|by))\W*$", re.IGNORECASE)
_REMARK = re.compile(
    r"(?:(?:not|now|also|indeed|very|quite|still|therefore|thus|probably|likely|completely)\s+)*"
    r"(?:correct|incorrect|right|wrong|clear|unclear|good|helpful|useful|reasonable|plausible|consistent|valid|verified|"
    r"confirmed|sure|certain|known|unknown|complete|obvious|too (?:large|small|high|low|big))\b[^\d\\]*$",
    re.IGNORECASE,
)
_SHORT = re.compile(r"(?=.{1,80}$)(?:\S*\d\S*\s*\W*|\W*[A-Za-z]\W*)")

_COURTESY = re.compile(
    r"(?:please\s+)?(?:let me know|feel free|i hope|hope (?:this|that)|do you (?:have|need|want)|would you like|"
    r"if you (?:have|need|want|would)|is there anything|happy to help|thank)",
    re.IGNORECASE,
)


def stated_answer(text: str) -> str | None:
    """The last answer that `text` states outright, in its own words and without what emphasises it; None without one.

    What a sentence says reaches to the sentence's or the line's end, reasons that follow included.
    """
    boxes = list(_boxes(text))
    found = [*_sentences(text, boxes), *_hashes(text), *(_Statement(*box, firm=True) for box in boxes)]
    found.sort(key=lambda statement: (statement.firm, statement.place), reverse=True)
    return next(
        (answer for statement in found if (answer := _bare(_within(text[statement.start : statement.end])))), None
    )


def states_value(text: str) -> bool:
    """Whether `text` states an answer that is one: a number, a word, the letter of a choice, and no placeholder."""
    answer = stated_answer(text)
    return answer is not None and _VALUE.search(answer) is not None


def answer_in(response: str) -> str:
    """The answer of a response: the one stated outright, else its last line that is neither blank nor a courtesy."""
    stated = stated_answer(response)
    if stated is not None:
        return stated
    lines = [line.strip() for line in response.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not _COURTESY.match(line)), lines[-1] if lines else "")


class _Statement(NamedTuple):
    """Where a statement stands, from where to where it says what the answer is, and whether it does so firmly."""

    place: int
    start: int
    end: int
    firm: bool


def _bare(text: str) -> str:
    return text.strip().strip("*$").strip()


def _within(content: str) -> str:
    """What a box holds: the answer itself, or a sentence that says what it is."""
    said = list(_clauses(content))
    return content[said[-1][1] : said[-1][2]] if said else content


def _sentences(text: str, boxes: list[tuple[int, int, int]]) -> Iterator[_Statement]:
    """The sentences outside every box that say what the answer is."""
    spans = iter(sorted(boxes))
    box = next(spans, None)
    for place, start, end in _clauses(text):
        while box is not None and box[2] < place:
            box = next(spans, None)
        said = text[start:end]
        if text[end : end + 1] == "?" or (box is not None and box[0] < place) or _ANNOUNCED.match(said):
            continue
        if _CONDITION.search(text, max(0, place - _WINDOW), place):
            continue
        if _NEGATED.match(said):
            other = _BUT.search(said)
            if other is not None:
                yield _Statement(place, start + other.end(), end, firm=True)
            continue
        yield _Statement(place, start, end, firm=_REMARK.match(said) is None)


def _clauses(text: str) -> Iterator[tuple[int, int, int]]:
    """Where the words `answer is` stand, and from where to where their sentence goes on behind them."""
    position = 0
    while (keyword := _STATEMENT.search(text, position)) is not None:
        lead_in = _LEAD_IN.match(text, keyword.end())
        start = keyword.end() if lead_in is None else lead_in.end()
        if start >= len(text):
            return
        end = _STATEMENT_END.search(text, start + 1)
        position = len(text) if end is None else end.end()
        yield keyword.start(), start, len(text) if end is None else end.start()


def _hashes(text: str) -> Iterator[_Statement]:
    """What follows `####`; it is a firm statement where it is short or ends the text, and else may be a heading."""
    for match in _HASHES.finditer(text):
        last = not text[match.end() : match.end() + _WINDOW].strip()
        yield _Statement(match.start(), *match.span(1), firm=last or _SHORT.fullmatch(match[1]) is not None)


def _boxes(text: str) -> Iterator[tuple[int, int, int]]:
    """Where a box stands, and from where to where its content goes: up to the brace that closes it, however deep they
    are nested."""
    boxes = {match.end() - 1: match.start() for match in _BOX.finditer(text)}
    if not boxes:
        return
    opened: list[int] = []
    for place in range(min(boxes), len(text)):
        if text[place] == "{":
            opened.append(place)
        elif text[place] == "}" and opened:
            start = opened.pop()
            if start in boxes:
                yield boxes[start], start + 1, place

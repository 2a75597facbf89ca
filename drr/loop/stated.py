"""Find the answer that a text states, in one pass whose time grows with the text's length and no faster."""

import re
from collections.abc import Iterator

_STATEMENT = re.compile(r"\banswer\s*(?:is|:|=)", re.IGNORECASE)
_LEAD_IN = re.compile(r"\s*[:=]?\s*\$?")
_STATEMENT_END = re.compile(r"\n|\.(?=\s|$)")
_HASHES = re.compile(r"####\s*([^\n]+)")
_VALUE = re.compile(r"\d|[^\W\d_]{2}|^\(?[A-Ja-j]\)?\W*$")
_BOX = re.compile(r"\\boxed\s*\{")


def stated_answer(text: str) -> str | None:
    """The last answer that `text` states outright (`answer is X`, `\\boxed{X}`, `#### X`), or None."""
    found = [*_statements(text), *_boxes(text), *((match.start(), match.group(1)) for match in _HASHES.finditer(text))]
    if not found:
        return None
    return max(found)[1].strip().strip("*$").strip() or None


def states_value(text: str) -> bool:
    """Whether `text` states an answer that is one: a number, a word, the letter of a choice, and no placeholder."""
    answer = stated_answer(text)
    return answer is not None and _VALUE.search(answer) is not None


def answer_in(response: str) -> str:
    """The answer of a response: the one stated outright, else its last line that is not blank."""
    lines = response.strip().splitlines()
    return stated_answer(response) or (lines[-1].strip() if lines else "")


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Where a sentence says what the answer is, and what it says: up to the sentence's or the line's end."""
    position = 0
    while (keyword := _STATEMENT.search(text, position)) is not None:
        lead_in = _LEAD_IN.match(text, keyword.end())
        start = keyword.end() if lead_in is None else lead_in.end()
        if start >= len(text):
            return
        end = _STATEMENT_END.search(text, start + 1)
        position = len(text) if end is None else end.end()
        yield keyword.start(), text[start : len(text) if end is None else end.start()]


def _boxes(text: str) -> Iterator[tuple[int, str]]:
    """Where a box begins, and what is in it: up to the brace that closes it, however deep they are nested."""
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
                yield boxes[start], text[start + 1 : place]

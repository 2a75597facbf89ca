"""Read the letter of a choice, in whatever brackets and with whatever text behind it."""

import re
from typing import NamedTuple

from drr.tasks.markup import undressed

_NAMED = r"(?:option|choice|letter|answer|statement)"
_LEAD = re.compile(
    rf"(?:(?:{_NAMED}|is|the|so|thus|hence|therefore|clearly|definitely|probably|likely|most|correct|best)\b[\s:,]*)*"
    r"(?P<open>[(\[{]\s?)?(?P<letter>[A-Za-z])(?:(?P<close>\s?[)\]}]|[.:;](?=\s|$))|(?![\w'’]))",
    re.IGNORECASE,
)
_ANOTHER = re.compile(r"\s*(?:,|/|&|\bor\b|\band\b)\s*(?:or\s+|and\s+)?[(\[]?[A-Z][)\]]?(?![\w'’])")
_PAIR = re.compile(
    r"\bboth\b|(?<![\w'’])[(\[]?[A-Z][)\]]?\s?(?:,|/|&|\bor\b|\band\b)\s?[(\[]?[A-Z][)\]]?(?![\w'’])", re.MULTILINE
)
_BRACKETED = re.compile(r"[(\[]\s?([A-Za-z])\s?[)\]]")
_NAMED_LETTER = re.compile(rf"\b{_NAMED}\s+([A-Za-z])\b(?!['’])", re.IGNORECASE)
_CAPITAL = re.compile(r"(?<![\w'’])([B-HJ-Z]|A(?!\s+(?!(?:because|since|as|is|for|due)\b)[a-z]))(?![\w'’])")
_ARTICLE = re.compile(r"A\s+(?!(?:because|since|as|is|for|due)\b)[a-z]")
_STRICT = re.compile(r"[(\[]?\s?([A-Z])\s?(?:[)\]]|[.:](?=\s|$)|$)|[(\[]?([a-z])(?:[)\]]|$)")

_GOLD = re.compile(
    rf"(?:{_NAMED}\s+)?(?:[(\[{{]\s?([A-Za-z])\s?[)\]}}][.:]?|([A-Za-z])[).:\]]?)",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"(?:[(\[]\s?([A-Za-z])\s?[)\]][.:]?|([A-J])[):])\s+(\S.*)", re.DOTALL)


class Choice(NamedTuple):
    """The letter of a choice, a capital, and the text of the choice if the gold answer gives it."""

    letter: str
    label: str = ""


def gold_choice(gold: str) -> Choice | None:
    """The choice that a gold answer is: `B`, `(b)`, `**B**`, `B.`, `option B`, `(B) bank`; None if it is none. A small
    letter without brackets is a choice up to j; further ones are taken for variables."""
    text = undressed(gold)
    found = _GOLD.fullmatch(text)
    if found is not None and not (found[2] and found[2].islower() and found[2] > "j"):
        return Choice((found[1] or found[2]).upper())
    labelled = _LABELLED.fullmatch(text)
    return None if labelled is None else Choice((labelled[1] or labelled[2]).upper(), labelled[3])


def stated_letter(stated: str) -> str | None:
    """The letter that a statement (what follows `the answer is`) chooses: the one it begins with, whatever is said
    behind it; else the last one in brackets; else the last capital that stands alone. None without one, and where two
    are given at once (`A or B`)."""
    text = undressed(stated)
    lead = _LEAD.match(text)
    if lead is not None:
        rest = text[lead.end() :]
        marked = bool(lead["open"] or lead["close"] or not rest.strip(" .,;:!"))
        if marked or (lead["letter"].isupper() and lead["letter"] != "I"):
            return None if _ANOTHER.match(rest) else lead["letter"].upper()
    return _last_letter(text)


def closing_letter(response: str) -> str | None:
    """The letter that a response chooses which states no answer: the one that its last line or its first line consists
    of or begins with (`B`, `(B) bank`, `B. bank`), else the last one in its last line. None without one."""
    lines = [undressed(line) for line in response.strip().splitlines() if line.strip()]
    for line in (lines[-1], lines[0]) if lines else ():
        lead = _STRICT.match(line)
        if lead is not None:
            return None if _ANOTHER.match(line, lead.end()) else (lead[1] or lead[2]).upper()
    if not lines:
        return None
    if len(lines) == 1 and re.match(r"[A-Z](?![\w'’])", lines[0]) and not _ARTICLE.match(lines[0]):
        return stated_letter(lines[0])  # `B because ...`
    return _last_letter(lines[-1])


def _last_letter(text: str) -> str | None:
    if _PAIR.search(text):
        return None
    for pattern in (_BRACKETED, _NAMED_LETTER, _CAPITAL):
        letters: list[str] = pattern.findall(text)
        if letters:
            return letters[-1].upper()
    return None

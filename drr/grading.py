"""Find the answer in a text, and tell whether it equals the gold answer."""

import logging
import re
from typing import Any

from math_verify import parse, verify

# math-verify reports every unreadable expression as an error; here that is simply a wrong answer.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_BOXED = re.compile(r"\\boxed\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
_STATED = re.compile(r"\banswer\s*(?:is|:|=)\s*[:=]?\s*\$?([^\n]+?)\s*(?:\.(?=\s|$)|\n|$)", re.IGNORECASE)
_HASHES = re.compile(r"####\s*([^\n]+)")
_PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def stated_answer(text: str) -> str | None:
    """The last answer that `text` states outright (`answer is X`, `\\boxed{X}`, `#### X`), or None."""
    found = [match for pattern in (_BOXED, _STATED, _HASHES) for match in pattern.finditer(text)]
    if not found:
        return None
    return max(found, key=lambda match: match.start()).group(1).strip().strip("*$").strip() or None


def is_correct(response: str, gold: str) -> bool:
    """Whether the answer in `response` equals `gold`; mathematical equality decides (math-verify).

    Takes the answer stated outright, else whatever math-verify finds in the text. Call it off the event loop for
    long texts: it runs a computer-algebra system.
    """
    candidate = stated_answer(response) or response
    plain, wanted = _plain(candidate), _plain(gold)
    if _PLAIN_NUMBER.fullmatch(plain) and _PLAIN_NUMBER.fullmatch(wanted):
        return float(plain) == float(wanted)
    return bool(verify(_parsed(gold), _parsed(candidate), timeout_seconds=None))


def _parsed(text: str) -> list[Any]:
    # No time limit: math-verify's own uses signals, which only work in a main thread.
    parsed: list[Any] = parse(f"${text.strip('$')}$", parsing_timeout=None) or parse(text, parsing_timeout=None)
    return parsed


def _plain(text: str) -> str:
    return text.replace(",", "").replace("$", "").strip().rstrip(".")

"""Compare expressions with a computer-algebra system (math-verify).

It may never end and may use any amount of memory: call it where both are limited (`drr.tasks.grading_pool`).
"""

import logging
import re
from typing import Any

from math_verify import parse, verify

# math-verify reports every unreadable expression as an error; here that is simply a wrong answer.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_DELIMITED = re.compile(r"\A\\[(\[](.*)\\[)\]]\Z", re.DOTALL)
_RAISED = re.compile(r"[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_ORDINARY = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_SIGNS = str.maketrans({"−": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "≤": r"\le ", "≥": r"\ge "})


def same_expression(gold: str, answer: str) -> bool:
    """Whether both texts hold mathematically equal expressions. MemoryError where memory runs out."""
    wanted, found = _parsed(gold), _parsed(answer)
    try:
        return bool(verify(wanted, found, timeout_seconds=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:  # whatever a computer-algebra system does on what a model wrote
        return False


def is_readable(gold: str) -> bool:
    """Whether an expression can be read in `gold`. MemoryError where memory runs out."""
    return any(not isinstance(found, str) for found in _parsed(gold))


def _parsed(text: str) -> list[Any]:
    text = _RAISED.sub(lambda match: f"^{{{match[0].translate(_ORDINARY)}}}", text).translate(_SIGNS)
    bare = _DELIMITED.sub(r"\1", text.strip().rstrip(".").strip())
    return _parsed_as(f"${bare.strip('$')}$") or _parsed_as(text)


def _parsed_as(text: str) -> list[Any]:
    try:
        # Without a time limit, because math-verify implements it with signals.
        parsed: list[Any] = parse(text, parsing_timeout=None, raise_on_error=True)
    except MemoryError:
        raise
    except Exception:  # as above
        return []
    return parsed

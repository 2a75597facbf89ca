"""Tell whether the answer in a text equals the gold answer."""

import importlib
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from math_verify import parse, verify

from drr.errors import InputError
from drr.loop.stated import answer_in, stated_answer
from drr.tasks.countdown import makes, read_gold

# math-verify reports every unreadable expression as an error; here that is simply a wrong answer.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

Grader = Callable[[str, str], bool]
"""(response, gold) -> whether the response's answer is right."""

_PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_GOLD_CHOICE = re.compile(r"\(?([A-Z])\)?[.:]?")
_STATED_CHOICE = re.compile(r"(?<![A-Za-z])\(?([A-Z])\)?(?![A-Za-z'])")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_WORD = re.compile(r"[^\w]+")

# A computer-algebra system can take for ever on a long enough expression; no short answer is longer than this.
_LONGEST_EXPRESSION = 300


def is_math(response: str, gold: str) -> bool:
    """Whether the answer in `response` equals `gold`; mathematical equality decides (math-verify).

    Takes the answer stated outright, else whatever math-verify finds in the text. Call it off the event loop for
    long texts: it runs a computer-algebra system.
    """
    candidate = stated_answer(response) or response[-_LONGEST_EXPRESSION:]
    plain, wanted = _plain(candidate), _plain(gold)
    if _PLAIN_NUMBER.fullmatch(plain) and _PLAIN_NUMBER.fullmatch(wanted):
        return float(plain) == float(wanted)
    if len(candidate) > _LONGEST_EXPRESSION or len(gold) > _LONGEST_EXPRESSION:
        return plain == wanted
    return bool(verify(_parsed(gold), _parsed(candidate), timeout_seconds=None))


def is_choice(response: str, gold: str) -> bool:
    """Whether the last capital letter that stands alone in the response's answer is gold's."""
    wanted = _GOLD_CHOICE.fullmatch(gold.strip().upper())
    letters = _STATED_CHOICE.findall(answer_in(response))
    return bool(wanted and letters and letters[-1] == wanted.group(1))


def is_text(response: str, gold: str) -> bool:
    """Whether the answer is gold's words, whatever their case, punctuation and articles."""
    return _normalised(answer_in(response)) == _normalised(gold)


def is_correct(response: str, gold: str) -> bool:
    """Graded by what gold looks like: a single letter is a choice, a Countdown task is checked, anything else with a
    digit or TeX is mathematics, the rest is text."""
    task = read_gold(gold)
    if task is not None:
        return makes(answer_in(response), *task)
    if _GOLD_CHOICE.fullmatch(gold.strip()):
        return is_choice(response, gold)
    if any(character.isdigit() for character in gold) or "\\" in gold:
        return is_math(response, gold)
    return is_text(response, gold)


GRADERS: dict[str, Grader] = {"auto": is_correct, "math": is_math, "choice": is_choice, "text": is_text}


def load_grader(name: str) -> Grader:
    """A grader by name, or the user's own as `module:function`; InputError where there is none."""
    if name in GRADERS:
        return GRADERS[name]
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise InputError("--grader", f"{name!r} is none of {', '.join(GRADERS)}, nor a module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # whatever the user's module does when it is imported
        raise InputError("--grader", f"{name!r} cannot be loaded: {error!r}") from error
    finally:
        sys.path.pop(0)
    if not callable(function):
        raise InputError("--grader", f"{name!r} is not a function")
    return _reporting(name, function)


def _reporting(name: str, function: Callable[[str, str], Any]) -> Grader:
    def grade(response: str, gold: str) -> bool:
        try:
            return bool(function(response, gold))
        except Exception as error:  # whatever the user's function does
            raise InputError(
                "--grader", f"{name!r} failed on the answer {response!r}, gold {gold!r}: {error!r}"
            ) from error

    return grade


def majority_answer(responses: Sequence[str], grade: Grader) -> str | None:
    """The answer that most responses agree on, the earliest where several lead; None where no two agree."""
    answers = [answer_in(response) for response in responses]
    best, votes = None, 1
    for answer in dict.fromkeys(answer for answer in answers if answer):
        own = sum(other == answer or grade(other, answer) for other in answers)
        if own > votes:
            best, votes = answer, own
    return best


def _normalised(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", _NO_WORD.sub(" ", text.casefold())).split())


def _parsed(text: str) -> list[Any]:
    # No time limit: math-verify's own uses signals, which only work in a main thread.
    parsed: list[Any] = parse(f"${text.strip('$')}$", parsing_timeout=None) or parse(text, parsing_timeout=None)
    return parsed


def _plain(text: str) -> str:
    return text.replace(",", "").replace("$", "").strip().rstrip(".")

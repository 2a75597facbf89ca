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
_NON_WORD = re.compile(r"[^\w]+")

# Characters. A computer-algebra system may never finish on a long expression, so longer ones are compared as text.
_LONGEST_EXPRESSION = 300


def is_math(response: str, gold: str) -> bool:
    """Whether the answer in `response` is mathematically equal to `gold` (math-verify).

    The answer is the one that the response states; without one, whatever math-verify finds at the end of the text.
    Do not call it on the event loop for long texts: it runs a computer-algebra system.
    """
    candidate = stated_answer(response) or response[-_LONGEST_EXPRESSION:]
    plain, wanted = _plain(candidate), _plain(gold)
    if _PLAIN_NUMBER.fullmatch(plain) and _PLAIN_NUMBER.fullmatch(wanted):
        return float(plain) == float(wanted)
    if len(candidate) > _LONGEST_EXPRESSION or len(gold) > _LONGEST_EXPRESSION:
        return plain == wanted
    return bool(verify(_parsed(gold), _parsed(candidate), timeout_seconds=None))


def is_choice(response: str, gold: str) -> bool:
    """Whether the last capital letter that stands alone in the response's answer is the letter of `gold`."""
    wanted = _GOLD_CHOICE.fullmatch(gold.strip().upper())
    letters = _STATED_CHOICE.findall(answer_in(response))
    return bool(wanted and letters and letters[-1] == wanted.group(1))


def is_text(response: str, gold: str) -> bool:
    """Whether the answer has the words of `gold`; case, punctuation and articles do not count."""
    return _normalised(answer_in(response)) == _normalised(gold)


def is_correct(response: str, gold: str) -> bool:
    """Whether the answer is right, by the grader that the form of `gold` calls for: a Countdown task is checked, a
    single letter is a choice, anything else with a digit or TeX is mathematics, the rest is text."""
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
    """A grader by its name, or a function of the user's as `module:function`. InputError if there is none."""
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
    """The answer that most responses agree on, the earliest of several with as many votes; None if no two agree."""
    answers = [answer_in(response) for response in responses]
    best, votes = None, 1
    for answer in dict.fromkeys(answer for answer in answers if answer):
        count = sum(other == answer or grade(other, answer) for other in answers)
        if count > votes:
            best, votes = answer, count
    return best


def _normalised(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", _NON_WORD.sub(" ", text.casefold())).split())


def _parsed(text: str) -> list[Any]:
    # Without a time limit, because math-verify implements it with signals, which only work in the main thread.
    parsed: list[Any] = parse(f"${text.strip('$')}$", parsing_timeout=None) or parse(text, parsing_timeout=None)
    return parsed


def _plain(text: str) -> str:
    return text.replace(",", "").replace("$", "").strip().rstrip(".")

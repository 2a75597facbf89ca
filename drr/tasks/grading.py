"""Tell whether the answer in a text equals the gold answer.

Both are read by `drr.tasks.answers`. A comparison that needs a computer-algebra system, or a function of the user's,
may take any time and memory: `drr.tasks.grading_pool` runs those with limits, which is what commands use.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from drr.errors import InputError
from drr.loop.stated import answer_in
from drr.tasks.answers import (
    LONGEST_EXPRESSION,
    Expression,
    Gold,
    Words,
    expression_in,
    is_formula,
    letter_in,
    moment_in,
    normalised,
    number_in,
    read_gold,
    same_moment,
    truth_in,
    words_in,
)
from drr.tasks.countdown import makes
from drr.tasks.countdown import read_gold as countdown_task
from drr.tasks.letters import Choice, gold_choice
from drr.tasks.numbers import Number

Grader = Callable[[str, str], bool]
"""(response, gold) -> whether the response's answer is right."""

GraderName = Literal["auto", "math", "choice", "text"]
GRADERS: tuple[GraderName, ...] = ("auto", "math", "choice", "text")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two expressions that a computer-algebra system has to compare."""

    gold: str
    answer: str


def decide(grader: GraderName, response: str, gold: str) -> bool | Comparison:
    """Whether the answer is right, or what has to be computed to know it.

    `choice` wants the gold answer's letter, `text` its words, `math` its value; `auto` what its form calls for: a
    Countdown task is checked, and a letter, a number, a date or time, yes or no, an expression and words are read as
    such. The time grows with the texts' length and no faster.
    """
    task = countdown_task(gold)
    if grader == "auto" and task is not None:
        return makes(answer_in(response), *task)
    wanted = _wanted(grader, gold)
    match wanted:
        case None:
            return False
        case Choice():
            letter = letter_in(response)
            return letter == wanted.letter or (bool(wanted.label) and letter is None and _says(response, wanted.label))
        case bool():
            return truth_in(response) is wanted
        case Number():
            return _is_number(response, gold, wanted)
        case Expression():
            return _compared(wanted.text, expression_in(response))
        case Words():
            return wanted.text in words_in(response)
    return same_moment(wanted, moment_in(response))


def _wanted(grader: GraderName, gold: str) -> Gold | None:
    if grader == "choice":
        return gold_choice(answer_in(gold))
    if grader == "text":
        return Words(words) if (words := normalised(answer_in(gold))) else None
    wanted = read_gold(gold)
    mathematical = grader == "auto" or not isinstance(wanted, bool | Choice | Words)
    return wanted if mathematical else Expression(answer_in(gold))


def _says(response: str, label: str) -> bool:
    return normalised(label) in words_in(response)


def _is_number(response: str, gold: str, wanted: Number) -> bool | Comparison:
    found = number_in(response, wanted.comma_decimal)
    if isinstance(found, Number):
        return wanted.equals(found)
    if found is None:
        return False
    value = wanted.value
    plain = len(gold) <= LONGEST_EXPRESSION and abs(value.adjusted() if isinstance(value, Decimal) else 0) < 300
    return _compared(f"{value:f}" if plain and isinstance(value, Decimal) else str(value), found.text)


def _compared(gold: str, answer: str) -> bool | Comparison:
    squeezed = "".join(gold.split()).strip("$"), "".join(answer.split()).strip("$")
    if squeezed[0] == squeezed[1]:
        return True
    if not answer.strip() or max(len(gold), len(answer)) > LONGEST_EXPRESSION:
        return False
    return Comparison(gold, answer)


def check_gold(gold: str, grader: str) -> str | Expression | None:
    """Why nothing can be graded against `gold`, or the expression in it that has to be read to know; None if it can be
    used. What a function of the user's can use is not known."""
    if grader not in GRADERS or (grader == "auto" and countdown_task(gold) is not None):
        return None
    wanted = _wanted(grader, gold)  # type: ignore[arg-type]
    if wanted is None:
        return "is not the letter of a choice" if grader == "choice" else "holds no answer that can be read"
    if not isinstance(wanted, Expression):
        return None
    if not is_formula(wanted.text) and not any(map(str.isalnum, wanted.text)):
        return "holds no answer that can be read"
    return wanted if len(wanted.text) <= LONGEST_EXPRESSION else None


def is_correct(response: str, gold: str) -> bool:
    """Whether the answer is right, by the grader that the form of `gold` calls for. It has no limits on time or memory,
    so it is for texts that one trusts."""
    return _settled(decide("auto", response, gold))


def _settled(decided: bool | Comparison) -> bool:
    if isinstance(decided, bool):
        return decided
    from drr.tasks.algebra import same_expression  # a computer-algebra system takes time to load

    return same_expression(decided.gold, decided.answer)


def load_grader(name: str, folder: Path | None = None) -> Grader:
    """A grader by its name, or a function of the user's as `module:function`, without limits on time and memory. The
    module may lie in `folder`, by default the current one. InputError if there is none."""
    for known in GRADERS:
        if name == known:
            return lambda response, gold: _settled(decide(known, response, gold))
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise InputError("--grader", f"{name!r} is none of {', '.join(GRADERS)}, nor a module:function")
    sys.path.insert(0, str(folder or Path.cwd()))
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
        except MemoryError:
            raise
        except Exception as error:  # whatever the user's function does
            raise InputError(
                "--grader", f"{name!r} failed on the answer {response!r}, gold {gold!r}: {error!r}"
            ) from error

    return grade


def majority_answer(responses: Sequence[str], grade: Grader) -> str | None:
    """The answer that most responses agree on, the earliest of several with as many votes; None if no two agree."""
    votes = [sum(row) for row in agreement(responses, grade)]
    if max(votes, default=0) < 2:
        return None
    return answer_in(responses[votes.index(max(votes))])


def agreement(responses: Sequence[str], grade: Grader) -> list[list[bool]]:
    """[i][j] whether response j gives the answer of response i. No response gives that of one without any."""
    answers = [answer_in(response) for response in responses]
    givers = {
        answer: [other == answer or grade(other, answer) for other in answers]
        for answer in dict.fromkeys(answers)
        if answer
    }
    return [givers.get(answer, [False] * len(answers)) for answer in answers]

"""Real question sets, split by question and asked so that a Reasoner thinks in steps.

A question belongs to one use only. Within a set, questions are taken in the order of a hash of their text: first those
that test, then those that choose the sampling, those that calibrate, and those that train. So another size of one use
leaves the uses before it as they were.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from drr.errors import InputError
from drr.files import write_whole
from drr.tasks import Question
from drr.tasks.sources import load_questions

Use = Literal["test", "validation", "calibration", "train"]
USES: tuple[Use, ...] = get_args(Use)

INSTRUCTION = (
    "Think step by step, with a blank line between steps and no code. "
    'End with a line that says "The final answer is" and {answer}.'
)
"""What stands behind every question: a Reasoner without thinking markers writes steps if it is asked to."""

_CHOICE = re.compile(r"\([A-Z]\)|[A-Z]")


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """A set of questions by name. Its test questions come from `test`, or from `train` where that is all there is."""

    name: str
    train: str
    test: str | None = None

    @classmethod
    def parse(cls, words: Sequence[str]) -> "QuestionSet":
        """From the words NAME TRAIN [TEST]; InputError if there are fewer or more."""
        if len(words) not in (2, 3):
            raise InputError("--set", f"takes NAME TRAIN [TEST], not {' '.join(words)!r}")
        return cls(*words)


def sets_of(words: Sequence[Sequence[str]] | None) -> list[QuestionSet]:
    """The sets that are asked for; without any, the four that are used by default, from the Hugging Face hub."""
    if not words:
        return list(DEFAULT_SETS)
    found = [QuestionSet.parse(one) for one in words]
    if len({one.name for one in found}) < len(found):
        raise InputError("--set", "names a set twice")
    return found


DEFAULT_SETS = (
    QuestionSet("gsm8k", "openai/gsm8k:main:train", "openai/gsm8k:main:test"),
    QuestionSet("svamp", "ChilleD/SVAMP:default:train", "ChilleD/SVAMP:default:test"),
    QuestionSet("commonsenseqa", "tau/commonsense_qa:default:train", "tau/commonsense_qa:default:validation"),
    QuestionSet("strategyqa", "ChilleD/StrategyQA:default:train", "ChilleD/StrategyQA:default:test"),
)


def split_questions(one: QuestionSet, sizes: Mapping[Use, int]) -> dict[Use, list[Question]]:
    """The set's questions by use, `sizes` of each. InputError if the set has too few."""
    pool = _in_order(one.train)
    tests = pool if one.test is None else _in_order(one.test)
    found: dict[Use, list[Question]] = {"test": tests[: sizes["test"]]}
    taken = {question.text for question in found["test"]}
    rest = [question for question in pool if question.text not in taken]
    for use in USES[1:]:
        found[use], rest = rest[: sizes[use]], rest[sizes[use] :]
    for use, questions in found.items():
        if len(questions) < sizes[use]:
            raise InputError("--set", f"{one.name} has only {len(questions)} questions for {use}, not {sizes[use]}")
    return found


def write_questions(sets: Sequence[QuestionSet], sizes: Mapping[Use, int], out: Path) -> dict[Use, Path]:
    """Write one file of questions for each use, all sets in each, and return their paths."""
    split = {one.name: split_questions(one, sizes) for one in sets}
    paths: dict[Use, Path] = {}
    for use in USES:
        rows = [_row(question, name) for name, uses in split.items() for question in uses[use]]
        paths[use] = out / f"{use}.jsonl"
        write_whole(paths[use], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _mixed(rows)))
    return paths


def _in_order(source: str) -> list[Question]:
    return sorted(load_questions(source).questions, key=lambda question: _hash(question.text))


def _mixed(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of all sets mixed, so that the first so many of a file hold some of each."""
    return sorted(rows, key=lambda row: _hash(f"order {row['question']}"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _row(question: Question, name: str) -> dict[str, str]:
    text = f"{question.text}\n\n{INSTRUCTION.format(answer=_wanted(question.answer))}"
    return {"question": text, "answer": question.answer, "family": name}


def _wanted(gold: str) -> str:
    """What kind of answer is wanted, judged by the gold one."""
    if gold.casefold() in ("yes", "no"):
        return "yes or no"
    return "the letter of the right choice" if _CHOICE.fullmatch(gold) else "the number"

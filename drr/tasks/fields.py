"""The columns of a table by their roles, and the text, gold answer or flag in one of them."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal, DecimalException
from typing import Any

from drr.errors import InputError
from drr.loop.stated import stated_answer
from drr.tasks.questions import folded
from drr.tasks.rows import BadRowError, Number, Row, kind_of

QUESTION_COLUMNS = (
    "question_concat",
    "question",
    "problem",
    "query",
    "prompt",
    "instruction",
    "input",
    "question_stem",
    "question_text",
)
ANSWER_COLUMNS = (
    "answer",
    "gold",
    "final_answer",
    "target",
    "label",
    "expected",
    "output",
    "solution",
    "answer_key",
    "answers",
    "gold_answer",
    "correct_answer",
    "ground_truth",
    "final_ans",
)
CHOICES_COLUMNS = ("choices", "options")
CONTEXT_COLUMNS = ("body", "passage", "context")
INPUT_COLUMNS = ("input",)
"""What an `instruction` is to be done with."""

SOLUTION_COLUMNS = ("solution", "response", "completion", "output", "generation")
CORRECT_COLUMNS = ("is_correct", "correct", "is_right")

_LONGEST_GOLD = 200
"""Characters. A longer gold text is taken for a solution, and the answer that it states for the gold answer."""

_MOST_NAMES = 30
_PLAIN_NUMBER = re.compile(r"[+-]?(\d[\d,]*\.?\d*|\.\d+)([eE][+-]?\d+)?")
_GOLD_PARTS = ("value", "text", "answer", "answers", "spans")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def plain_name(name: str) -> str:
    """A column's name without case, spaces, hyphens and underscores: `answerKey`, `Answer Key` and `answer_key` are
    one name."""
    return re.sub(r"[\s_-]+", "", name.casefold())


_KNOWN = {
    plain_name(name)
    for names in (QUESTION_COLUMNS, ANSWER_COLUMNS, CHOICES_COLUMNS, CONTEXT_COLUMNS, SOLUTION_COLUMNS, CORRECT_COLUMNS)
    for name in names
}


def is_known(name: str) -> bool:
    """Whether this is one of the usual names of columns."""
    return plain_name(name) in _KNOWN


class Columns:
    """The columns of all rows together, and how many rows fill each."""

    def __init__(self, source: str, rows: Sequence[Row]) -> None:
        self._source = source
        self.filled: Counter[str] = Counter()
        for row in rows:
            if isinstance(row.value, dict):
                self.filled.update({name: int(_is_filled(value)) for name, value in row.value.items()})

    def find(
        self, role: str, named: str | None, usual: Iterable[str], *, optional: bool = False, but: str | None = None
    ) -> str | None:
        """The column for `role`: `named`, or of those with a usual name, other than `but`, the one that most rows fill
        (the earlier name of several); None if it is `optional` and absent. InputError lists the columns if it is
        missing."""
        if named is not None:
            if named not in self.filled:
                raise InputError(self._source, f"no row has this column; {self._there()}", field=named)
            return named
        usual = list(usual)
        order = [plain_name(name) for name in usual]
        found = [name for name in self.filled if plain_name(name) in order and name != but]
        if found:
            return max(found, key=lambda name: (self.filled[name], -order.index(plain_name(name))))
        if optional:
            return None
        raise InputError(
            self._source,
            f"no column is called {' or '.join(usual)}; {self._there()}. Name it with --{role}-column",
            field=role,
        )

    def _there(self) -> str:
        names = [repr(name) for name in self.filled]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        return f"the columns are {', '.join(names[:_MOST_NAMES]) or 'none'}{more}"


def _is_filled(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else value is not None and value != [] and value != {}


def text_field(row: dict[str, Any], name: str | None) -> str:
    """The text in column `name`. BadRowError if it is missing, blank or not a text."""
    value = row.get(name) if name is not None else None
    if value is None:
        raise BadRowError(name, "is missing")
    if isinstance(value, BadRowError):
        raise value
    if not isinstance(value, str) or isinstance(value, Number):
        raise BadRowError(name, f"must be text, not {kind_of(value)}")
    text = encodable(name, value)
    if not folded(text):
        raise BadRowError(name, "is empty")
    return text


def gold_field(row: dict[str, Any], name: str | None, needed: bool = True) -> str:
    """The gold answer in column `name` as text; empty if it is missing and not needed. BadRowError if it cannot be
    used.

    Numbers stay as they are written (but for a bare `.0`, which programs append to whole numbers), true and false are
    `yes` and `no`, a list or object that holds one answer is that answer, and of a solution (a long text, several
    lines, or one with `####` or `\\boxed`) the answer that it states is taken.
    """
    text = answer_text(name, row.get(name) if name is not None else None)
    if not text and needed:
        missing = name is None or row.get(name) is None
        raise BadRowError(name, "is missing" if missing else "is empty")
    if len(text) <= _LONGEST_GOLD and not re.search(r"\n|####|\\boxed", text):
        return text
    if isinstance(text, Number):
        return text
    stated = stated_answer(text)
    if stated is None:
        raise BadRowError(name, "is a long text that states no answer (`#### X`, `\\boxed{X}`, `the answer is X`)")
    return stated


def answer_text(name: str | None, value: Any) -> str:
    """The one answer that a value holds, of any length; empty if it holds none."""
    if value is None:
        return ""
    if isinstance(value, BadRowError):
        raise value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Number):
        if not value.is_finite:
            raise BadRowError(name, f"must be a finite number, not {value}")
        return Number(value.removesuffix(".0"))
    if isinstance(value, str):
        return encodable(name, value.strip())
    if isinstance(value, list):
        return _only(name, value)
    if isinstance(value, dict):
        parts = {plain_name(key): part for key, part in value.items()}
        part = next((parts[key] for key in _GOLD_PARTS if _is_filled(parts.get(key))), None)
        if part is None and value:
            keys = ", ".join(map(repr, value))
            raise BadRowError(name, f"is an object without {', '.join(_GOLD_PARTS)}; its keys are {keys}")
        return answer_text(name, part)
    raise BadRowError(name, f"must be text or a number, not {kind_of(value)}")


def _only(name: str | None, values: list[Any]) -> str:
    golds: list[str] = []
    for gold in (answer_text(name, value) for value in values):
        if gold and not any(same_gold(gold, other) for other in golds):
            golds.append(gold)
    if len(golds) > 1:
        raise BadRowError(name, f"holds {len(golds)} different answers ({golds[0]!r}, {golds[1]!r}); one is needed")
    return golds[0] if golds else ""


def same_gold(first: str, second: str) -> bool:
    """Whether two gold answers are the same number or, case and white space aside, the same text."""
    if _PLAIN_NUMBER.fullmatch(first) and _PLAIN_NUMBER.fullmatch(second):
        try:
            return Decimal(first.replace(",", "")) == Decimal(second.replace(",", ""))
        except DecimalException:  # an exponent of dozens of digits
            pass
    return folded(first) == folded(second)


def flag_field(row: dict[str, Any], name: str) -> bool:
    """The truth value in column `name`: true or false, also as text in any case, and 1 or 0. BadRowError for any
    other value."""
    value = row.get(name)
    flag = value if isinstance(value, bool) else _FLAGS.get(str(value).strip().casefold())
    if flag is None:
        raise BadRowError(name, "is missing" if value is None else f"must be true or false, not {value!r}")
    return flag


def encodable(name: str | None, text: str) -> str:
    """The text itself. BadRowError if it cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(name, "holds half of a surrogate pair: not valid text") from error
    return text


def difficulty_field(row: dict[str, Any]) -> int:
    """The whole number in the column `difficulty`; 0 where that is no such number, because other programs write words
    there."""
    value = row.get("difficulty")
    text = str(value).strip().removesuffix(".0")
    return int(text) if not isinstance(value, bool) and re.fullmatch(r"-?\d{1,9}", text) else 0

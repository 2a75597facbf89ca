"""Bad input: what a user is told, never a traceback."""

import re
from dataclasses import dataclass

_PASSWORD = re.compile(r"(\w://[^/\s:@]*):[^/\s]*@")


def without_passwords(text: str) -> str:
    """A text in which the addresses show no passwords."""
    return _PASSWORD.sub(r"\1:***@", text)


def first_line(error: BaseException) -> str:
    """The first line of an error's text that says something, or the error's name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


_VALIDATION = re.compile(
    r"\d+ validation errors? for \w+\s*\n(?P<field>[^\s.]+)?[^\n]*\n?\s*(?:Value error, )?(?P<said>[^\n]*?)"
    r"(?: \[type=\w+, input_value=(?P<value>[^\n]*), input_type=\w+\])?(?:\n.*)?$",
    re.DOTALL,
)
_LONGEST_VALUE = 80


def without_headline(text: str) -> str:
    """The first complaint of pydantic's in a text, instead of a count of them and where to read more; any other text
    as it is."""
    found = _VALIDATION.search(text)
    if found is None:
        return text
    said, before = found["said"] or found["field"] or "", text[: found.start()]
    if "Value error, " in found[0]:  # a check of its author's own, whose words are enough
        return f"{before}{said}"
    field = f"{found['field']}: " if found["said"] and found["field"] else ""
    value = "" if found["value"] is None else f" (got {found['value'][:_LONGEST_VALUE]})"
    return f"{before}{field}{said}{value}"


@dataclass(eq=False)
class InputError(ValueError):
    """Input that cannot be used. `where` is the file, folder, option or dataset; `row` counts from 1."""

    where: str
    reason: str
    row: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        place = [self.where]
        if self.row is not None:
            place.append(f"row {self.row}")
        if self.field is not None:
            place.append(f"field {self.field}")
        return f"{', '.join(place)}: {self.reason}"

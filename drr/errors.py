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

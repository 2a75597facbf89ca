"""Read dates, times of day, ranges and ratios: what has digits and dashes, slashes or colons but is no number.

A date with slashes is month/day/year, as usual in English, unless only day/month/year is possible; one with points is
day.month.year. A time without `am` or `pm` equals both the morning's and the evening's.
"""

import calendar
import re
from dataclasses import dataclass
from datetime import date

from drr.tasks.numbers import Number, read_number

_MONTHS = {name.casefold(): number for number, name in enumerate(calendar.month_name) if name}
_MONTHS |= {name.casefold(): number for number, name in enumerate(calendar.month_abbr) if name} | {"sept": 9}
_MONTH = "(" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_ISO = re.compile(r"(\d{4})\s?[-‐‑–−/.]\s?(\d{1,2})\s?[-‐‑–−/.]\s?(\d{1,2})(?![\d/-])")
_SLASHES = re.compile(r"(\d{1,2})\s?([-/.])\s?(\d{1,2})\s?\2\s?(\d{4})(?!\d)")
_MONTH_FIRST = re.compile(rf"{_MONTH}\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{4}})(?!\d)", re.IGNORECASE)
_DAY_FIRST = re.compile(rf"(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH},?\s+(\d{{4}})(?!\d)", re.IGNORECASE)
_TIME = re.compile(
    r"(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?\s?([ap])\.?\s?m\b\.?|(\d{1,2}):(\d{2})(?::(\d{2}))?(?![\d:])", re.IGNORECASE
)
_RATIO = re.compile(r"\d{1,300}(?:\s?:\s?\d{1,300})+")
_RANGE_SIGN = re.compile(r"\s?[-‐‑–—−]\s?(?=[$€£.\d])|\s+to\s+(?=[$€£.\d-])")


@dataclass(frozen=True, slots=True)
class Time:
    """A time of day, in seconds after midnight; `half` is `a` or `p` where the text says which half of the day."""

    seconds: int
    half: str | None

    def equals(self, other: "Time") -> bool:
        """Whether both may be the same time of day."""
        if self.half is None and other.half is None:
            return self.seconds == other.seconds
        if self.half is not None and other.half is not None:
            return self._in_the_day() == other._in_the_day()
        told, untold = (self, other) if other.half is None else (other, self)
        return untold.seconds in (told.seconds, told._in_the_day())

    def _in_the_day(self) -> int:
        return self.seconds % 43_200 + (43_200 if self.half == "p" else 0)


@dataclass(frozen=True, slots=True)
class Several:
    """The ends of a range or the terms of a ratio, in their order."""

    sign: str
    numbers: tuple[Number, ...]

    def equals(self, other: "Several") -> bool:
        """Whether both are of one kind and have equal numbers."""
        pairs = zip(self.numbers, other.numbers, strict=False)
        same = self.sign == other.sign and len(self.numbers) == len(other.numbers)
        return same and all(mine.equals(others) for mine, others in pairs)


Moment = date | Time | Several


def read_moment(text: str, start: int = 0) -> tuple[Moment, int] | None:
    """The date, time, range or ratio that begins at `start`, and where it ends; None if none begins there."""
    return _date(text, start) or _time(text, start) or _ratio(text, start) or _range(text, start)


def _date(text: str, start: int) -> tuple[date, int] | None:
    if (found := _ISO.match(text, start)) is not None:
        return _valid(int(found[1]), int(found[2]), int(found[3]), found.end())
    if (found := _SLASHES.match(text, start)) is not None:
        first, second, year = int(found[1]), int(found[3]), int(found[4])
        day_first = found[2] == "." or first > 12
        return _valid(year, second if day_first else first, first if day_first else second, found.end())
    if (found := _MONTH_FIRST.match(text, start)) is not None:
        return _valid(int(found[3]), _MONTHS[found[1].casefold()], int(found[2]), found.end())
    if (found := _DAY_FIRST.match(text, start)) is not None:
        return _valid(int(found[3]), _MONTHS[found[2].casefold()], int(found[1]), found.end())
    return None


def _valid(year: int, month: int, day: int, end: int) -> tuple[date, int] | None:
    try:
        return date(year, month, day), end
    except ValueError:
        return None


def _time(text: str, start: int) -> tuple[Time, int] | None:
    found = _TIME.match(text, start)
    if found is None:
        return None
    hour, minute, second = (int(part or 0) for part in (found.group(1, 2, 3) if found[4] else found.group(5, 6, 7)))
    if hour > 23 or minute > 59 or second > 59:
        return None
    return Time(3600 * hour + 60 * minute + second, found[4].casefold() if found[4] else None), found.end()


def _ratio(text: str, start: int) -> tuple[Several, int] | None:
    found = _RATIO.match(text, start)
    if found is None:
        return None
    terms = [read_number(term.strip()) for term in found[0].split(":")]
    numbers = tuple(term[0] for term in terms if term is not None)
    return (Several(":", numbers), found.end()) if len(numbers) == len(terms) else None


def _range(text: str, start: int) -> tuple[Several, int] | None:
    first = read_number(text, start)
    if first is None:
        return None
    sign = _RANGE_SIGN.match(text, first[1])
    last = None if sign is None else read_number(text, sign.end())
    if last is None or (text[last[1] : last[1] + 1] and text[last[1]] in "-−/"):
        return None
    return Several("-", (first[0], last[0])), last[1]

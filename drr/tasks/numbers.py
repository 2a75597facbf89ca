"""Read the numbers that people and models write, exactly.

Notations: signs (ASCII and Unicode), groups of thousands (1,234,567; 1.234.567; 1 234 567 with any space; 1'234'567;
the Indian 12,34,567), a decimal point or comma, powers of ten (1.5e3, 1.5 × 10^3, 1.5·10³), fractions (3/4, ½), mixed
numbers (1 3/4, 1½), units, currencies before or behind, percent, words of scale (2.5 million). Integers and decimals
are `Decimal`s, which hold any number of digits; fractions are `Fraction`s. Nothing is ever rounded.

What a single separator means is not always clear; these rules decide:

- A comma before exactly three digits groups thousands (1,234 is 1234), any other single comma is a decimal comma
  (3,5 is 3.5). A single point is a decimal point (1.234 is 1.234).
- Where the gold answer is written with a decimal comma or groups by points (3,75; 1.234,5; 1.234.567), both swap their
  meaning: 1.234 is 1234 and 1,234 is 1.234. That is what `comma_decimal` says.
- A dash or a slash between digits is no subtraction: 5-7 is a range, 2024-01-05 a date, 3:30 a time. None is a number.
- A word of scale or a percent sign multiplies, or is a unit, as the other side writes it: 50% equals 50% and 50 and
  0.5; it does not equal 0.5%. 3 dozen equals 36 and 3.
- Units count only where both sides have a known one: 72 clips equals 72, 5 km equals 5000 m, not 5 m; $42 is not €42.
"""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from drr.tasks.units import BEFORE, Unit, unit_of

Value = Decimal | Fraction

_SPACES = "\u0020\u00a0\u2002-\u200a\u202f\u205f"
MINUS = "-\u2212\ufe63\uff0d\u2013"
_MINUS = "\\" + MINUS
_RUN = re.compile(rf"\d+(?:[.,'’_{_SPACES}]\d+)*|\.\d+")
_SEPARATOR = re.compile(rf"[.,'’_{_SPACES}]")
_POWER = re.compile(
    rf"[eE]([+{_MINUS}]?\d{{1,9}})(?![\w.])|\s?[x×*·⋅]\s?10\s?(?:\^|\*\*)\s?[{{(]?([+{_MINUS}]?\d{{1,9}})[)}}]?"
)
_SUPERSCRIPT = re.compile(r"\s?[x×*·⋅]\s?10([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,9})")
_ORDINARY = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻" + MINUS, "0123456789+-" + "-" * len(MINUS))
_MIXED = re.compile(r"(?:\s+(?:and\s+)?)(\d{1,300})\s?[/⁄]\s?(\d{1,300})(?!\s?[/⁄.]?\d)")
_OVER = re.compile(rf"\s?[/⁄]\s?(?=[.\d{_MINUS}])")
_SIGN = re.compile(rf"[+{_MINUS}]\s?|(?:minus|negative)\s+", re.IGNORECASE)
_BEFORE = re.compile("|".join(re.escape(spelling) for spelling in BEFORE) + r"|[^\w\s.,;:!?'\"()\[\]{}<>+*/\\=-]")
_UNIT = re.compile(
    r"[-\s]?((?:%|‰|°[CF]?|℃|℉)|(?:km|m)/[hs]\b|[kc]?m(?:\^?[23](?!\d)|[²³])|[^\W\d_]+[$.]?|[^\w\s.,;:!?()+*/=^-])"
)
_COMPOUND = re.compile(r",?\s*(?:and\s+)?")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b", re.IGNORECASE)

_LARGE = 1000
"""Digits. A larger number is compared as it stands: it is never part of a fraction, nor converted to another unit."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number with the unit beside it, if it is a known one. `comma_decimal`: it is clearly written with a decimal
    comma, or with points between thousands."""

    value: Value
    unit: Unit | None = None
    comma_decimal: bool = False

    def equals(self, other: "Number") -> bool:
        """Whether both are the same number, by the rules at the top."""
        mine, others = self.unit, other.unit
        if mine is None or others is None or mine.is_scale != others.is_scale:
            return self.value == other.value or any(
                value is not None and value == against.value
                for value, against in ((self._scaled(), other), (other._scaled(), self))
            )
        if mine == others:
            return self.value == other.value
        left, right = _times(self.value, mine.factor), _times(other.value, others.factor)
        return mine.measures_like(others) and left is not None and left == right

    def _scaled(self) -> Value | None:
        """The number with its word of scale multiplied out; None without one."""
        return _times(self.value, self.unit.factor) if self.unit is not None and self.unit.is_scale else None


def read_number(text: str, start: int = 0, comma_decimal: bool = False) -> tuple[Number, int] | None:
    """The number that begins at `start` (its sign or currency included) and where it ends, unit included; None if none
    begins there, or if it cannot be told apart from a date, a list or a version."""
    position, negative, unit = start, False, None
    for _ in range(2):
        sign = _SIGN.match(text, position)
        if sign is not None:
            position, negative = sign.end(), sign[0][0] != "+"
        currency = None if unit is not None else _BEFORE.match(text, position)
        if currency is not None and (unit := unit_of(currency[0])) is not None:
            position = currency.end()
            position += text[position : position + 1].isspace()
    found = _unsigned(text, position, comma_decimal)
    if found is None:
        return None
    value, end, style = found
    if negative:
        value = value.copy_negate() if isinstance(value, Decimal) else -value  # `-value` would round a Decimal
    return _with_unit(text, end, Number(value, unit, style))


def _with_unit(text: str, end: int, number: Number) -> tuple[Number, int]:
    ordinal = _ORDINAL.match(text, end)
    if ordinal is not None:
        return number, ordinal.end()
    named = _UNIT.match(text, end)
    if named is None:
        return number, end
    unit = unit_of(named[1]) or unit_of(named[1].rstrip("."))
    if unit is None:
        return number, end
    if number.unit is not None:  # `$2.5 million`: the currency counts, the scale multiplies
        value = _times(number.value, unit.factor) if unit.is_scale else number.value
        return Number(number.value if value is None else value, number.unit, number.comma_decimal), named.end()
    if unit.is_scale:  # `2.5 million dollars`
        behind = _UNIT.match(text, named.end())
        further = None if behind is None else unit_of(behind[1])
        value = _times(number.value, unit.factor)
        if behind is not None and further is not None and not further.is_scale and value is not None:
            return Number(value, further, number.comma_decimal), behind.end()
    return _compound(text, named.end(), Number(number.value, unit, number.comma_decimal))


def _compound(text: str, end: int, number: Number) -> tuple[Number, int]:
    """`3 hours and 20 minutes` as minutes; the number as it is where no smaller unit of its kind follows."""
    total, unit = _times(number.value, Fraction(1)), number.unit
    while unit is not None and total is not None and not unit.is_scale:
        joint = _COMPOUND.match(text, end)
        part = _unsigned(text, end if joint is None else joint.end(), number.comma_decimal)
        named = None if part is None else _UNIT.match(text, part[1])
        smaller = None if named is None else unit_of(named[1])
        more = None if part is None else _times(part[0], Fraction(1))
        if (
            named is None
            or smaller is None
            or more is None
            or smaller.kind != unit.kind
            or smaller.factor >= unit.factor
        ):
            break
        total = total * (unit.factor / smaller.factor) + (more if total >= 0 else -more)
        unit, end = smaller, named.end()
        number = Number(total, unit, number.comma_decimal)
    return number, end


def _unsigned(text: str, start: int, comma_decimal: bool) -> tuple[Value, int, bool] | None:
    """Value, end and whether it shows a decimal comma, of the digits, power of ten, fraction or mixed number there."""
    found = _decimal(text, start, comma_decimal)
    if found is None:
        return None
    value, end, style = found
    mixed = _MIXED.match(text, end)
    if mixed is not None and value.adjusted() < _LARGE and value == value.to_integral_value() and int(mixed[2]):
        part = Fraction(int(mixed[1]), int(mixed[2]))
        return (Fraction(value) + part, mixed.end(), style) if part < 1 else (value, end, style)
    over = _OVER.match(text, end)
    if over is None:
        return value, end, style
    sign = text[over.end()] in MINUS
    below = _decimal(text, over.end() + sign, comma_decimal)
    if below is None:
        return value, end, style
    if _OVER.match(text, below[1]) is not None:
        return None  # a date
    top, bottom = _times(value, Fraction(1)), _times(below[0], Fraction(-1 if sign else 1))
    return None if top is None or not bottom else (top / bottom, below[1], style)


def _decimal(text: str, start: int, comma_decimal: bool) -> tuple[Decimal, int, bool] | None:
    run = _RUN.match(text, start)
    if run is None:
        return None
    groups, separators = _SEPARATOR.split(run[0]), _SEPARATOR.findall(run[0])
    kept = _joined(groups, separators)
    end = run.start() + sum(map(len, groups[: kept + 1])) + kept
    read = _digits(groups[: kept + 1], separators[:kept], comma_decimal)
    if read is None:
        return None
    power = _POWER.match(text, end)
    small = _SUPERSCRIPT.match(text, end) if power is None else None
    shift, end = (0, end) if power is None else (int((power[1] or power[2]).translate(_ORDINARY)), power.end())
    if small is not None:
        shift, end = int(small[1].translate(_ORDINARY)), small.end()
    try:
        return Decimal(f"{read[0]}E{shift}"), end, read[1]
    except InvalidOperation:
        return None


def _joined(groups: list[str], separators: list[str]) -> int:
    """How many of the separators belong to one number: a space does only between groups of thousands."""
    for place, separator in enumerate(separators):
        spaced = separator.isspace()
        if spaced and (len(groups[place + 1]) != 3 or len(groups[0]) > 3 or not groups[0] or groups[0] == "0"):
            return place
        if spaced and separators[0] != separator:
            return place
    return len(separators)


def _digits(groups: list[str], separators: list[str], comma_decimal: bool) -> tuple[str, bool] | None:
    """The digits with a decimal point if any, and whether they show a decimal comma; None for what is no number."""
    if not separators:
        return groups[0], False
    last, kinds = separators[-1], set(separators)
    if len(kinds) == 1 and len(separators) > 1:
        return ("".join(groups), last == ".") if _grouped(groups, last) else None
    if len(kinds) == 1:
        thousands = _grouped(groups, last) and (last not in ",." or (last == ".") is comma_decimal)
        if thousands:
            return "".join(groups), False
        if last not in ",.":
            return None
        return ".".join(groups), last == "," and not _grouped(groups, last)
    if (
        last not in ",."
        or len(set(separators[:-1])) != 1
        or separators[0] == last
        or not _grouped(groups[:-1], separators[0])
    ):
        return None
    return "".join(groups[:-1]) + "." + groups[-1], last == ","


def _grouped(groups: list[str], separator: str) -> bool:
    """Whether these are groups of thousands, Western or (with commas) Indian."""
    first, *rest = groups
    if not first or first[0] == "0" or len(first) > 3:
        return False
    if all(len(group) == 3 for group in rest):
        return True
    *middle, end = rest
    indian = separator == "," and bool(middle) and len(first) < 3
    return indian and len(end) == 3 and all(len(group) == 2 for group in middle)


def _times(value: Value, factor: Fraction) -> Fraction | None:
    """The product as a fraction; None where a number is too large to be one."""
    if isinstance(value, Decimal):
        _, digits, exponent = value.as_tuple()
        if len(digits) > _LARGE or not isinstance(exponent, int) or abs(exponent) > _LARGE:
            return None
    elif max(value.numerator.bit_length(), value.denominator.bit_length()) > 4 * _LARGE:
        return None
    return Fraction(value) * factor

"""The one reader of answers, for gold answers and for responses.

The gold answer's form says what kind of answer is wanted: the letter of a choice, a number, a date or a time, yes or
no, an expression, or words. A response's answer is then read as that kind. What is read here takes time that grows with
the text's length and no faster; expressions need a computer-algebra system and are left to `drr.tasks.algebra`.
"""

import re
import unicodedata
from dataclasses import dataclass

from drr.loop.stated import answer_in, stated_answer
from drr.tasks.letters import Choice, closing_letter, gold_choice, stated_letter
from drr.tasks.markup import undressed
from drr.tasks.moments import Moment, Several, Time, read_moment
from drr.tasks.numbers import Number, read_number

LONGEST_EXPRESSION = 300
"""Characters. A longer expression is compared as text."""

_FILLER = re.compile(
    r"(?:(?:about|approximately|approx\.|around|roughly|nearly|almost|exactly|only|just|simply|equal to|equals|"
    r"therefore|thus|so|a total of|the total|total|is|that|it is|it's|[:≈~,])\s*)+",
    re.IGNORECASE,
)
_OPERATOR = re.compile(r"\s?[+*×·÷^=<>≤≥√!|]|\s?[-−–/:]\s?[\d(]|\s?[x×]\s?\d|\(|(?<=\d)[^\W\d_](?!\w)")
_MORE = re.compile(r"\s*[,;/&]?\s*(?:\band\b|\bor\b)?\s*[$€£]?-?\d")
_LIST = re.compile(r"[,;]|\bor\b|\band\b")
_EQUALS = re.compile(r"[=≈]")
_ALGEBRA = re.compile(r"[\\^_√π∞∪∩±|]|\d\s?[+*×·÷]|[+*×·÷=<>≤≥]\s?\d|(?<!\w)[A-Za-z]\s?[-−/]\s?\d")
_GOLD_REST = re.compile(r"[^\d\\=+*/^<>|{}\[\]_√π∞±]{0,60}")
_DIGITS = re.compile(r"\d+(?:[.,]\d+)*|\.\d+")
_BEGINNING = re.compile(r"(?<![\w.])[^\W_]")
_INEQUALITY = re.compile(r"(?<!<)[<>≤≥≠](?![<>])|\\(?:leq?|geq?|lt|gt|neq?)(?![A-Za-z])")
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_BEFORE_DIGITS = re.compile(r"[-−+]?[^\w\s.,;:!?()+*/^=<>-]?[-−+]?$")

_FUNCTIONS = r"(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|inf|infinity|arcsin|arccos|arctan)"
_WORD = re.compile(rf"(?!{_FUNCTIONS}\b)[^\W\d_]{{2,}}", re.IGNORECASE)
_FORMULA = re.compile(r"\\|[\d)\]]|[A-Za-z]\s?[-+*/^=<>]\s?[A-Za-z(]|[√π∞]")

_TRUTH = {"yes": True, "true": True, "y": True, "no": False, "false": False, "n": False}
_LEAD_TRUTH = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|answer|the|is|that|it|statement|:|,)\b[\s:,]*)*(yes|no|true|false)\b",
    re.IGNORECASE,
)
_LAST_TRUTH = re.compile(r"\b(?:is|as|be)\s+(true|false)\W*$", re.IGNORECASE)

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w+#%&$€£/=<>]+|_")
_REASON = re.compile(r"(?<!\s),?\s+(?:because|since|which|as it|as the)\b|;|\s[-–—]\s")

_DENIAL = re.compile(r"\banswer\b[^.?!\n]{0,80}(?:\?|\bnot\b|n['’]t\b)|\?\W*$", re.IGNORECASE)
"""Asks for an answer, or says what it is not."""

_TAIL = 300
"""Characters at the end of a response in which its answer is looked for where none is stated."""
_PROSE = 2000
"""Characters of a sentence in which a number is looked for."""


@dataclass(frozen=True, slots=True)
class Expression:
    """An answer that only a computer-algebra system can compare."""

    text: str


@dataclass(frozen=True, slots=True)
class Words:
    """An answer in words; `text` is normalised."""

    text: str


Gold = Choice | Number | Moment | bool | Expression | Words
"""What a gold answer may be; a bool stands for yes and no."""


def read_gold(gold: str) -> Gold | None:
    """What a gold answer is, itself or the answer that it states (`#### 72`); None if nothing can be read in it."""
    text = stated_answer(gold) or gold.strip()
    choice = gold_choice(text)
    if choice is not None:
        return choice
    if text.strip(" .").casefold() in ("yes", "no", "true", "false"):
        return _TRUTH[text.strip(" .").casefold()]
    value = _gold_value(text)
    if value is not None:
        return value
    if is_formula(text):
        return Expression(text)
    words = normalised(text)
    return Words(words) if words else None


def is_formula(text: str) -> bool:
    """Whether `text` is for a computer-algebra system: TeX, or digits and operators among letters, without a word."""
    plain = undressed(text)
    return _FORMULA.search(plain) is not None and ("\\" in plain or _WORD.search(plain) is None)


def _gold_value(text: str) -> Number | Moment | None:
    """The number, date, time, range or ratio that the whole of a gold answer is; words may stand behind a number."""
    plain = undressed(text)
    sides = _EQUALS.split(plain)
    if len(sides) == 2 and len(sides[0].split()) <= 3 and not any(map(str.isdigit, sides[0])):
        plain = sides[1].strip()  # `x = 5`
    filler = _FILLER.match(plain)
    start = 0 if filler is None else filler.end()
    moment = read_moment(plain, start)
    if moment is not None and not plain[moment[1] :].strip(" ."):
        return moment[0]
    number = read_number(plain, start)
    if moment is not None or number is None:
        return None
    rest = plain[number[1] :]
    return number[0] if _GOLD_REST.fullmatch(rest) and not _OPERATOR.match(plain, number[1]) else None


def number_in(response: str, comma_decimal: bool) -> Number | Expression | None:
    """The number that a response gives as its answer; an Expression where it has to be computed first, None without a
    single number. `comma_decimal`: the gold answer is written with a decimal comma."""
    stated = stated_answer(response)
    if stated is not None:
        return _number_of(stated, comma_decimal, leading=True)
    line = answer_in(response)
    if _DENIAL.search(line[-_TAIL:]):
        return None
    found = _number_of(line, comma_decimal, leading="\n" not in response.strip())
    return found or _last_number(undressed(response[-_TAIL:]), comma_decimal)


def _number_of(text: str, comma_decimal: bool, leading: bool) -> Number | Expression | None:
    bold = {match for match in _BOLD.findall(text) if any(map(str.isdigit, match))}
    plain = undressed(text)
    formula = None if _INEQUALITY.search(text) else Expression(text)  # no inequality is a number
    sides = [side.strip() for side in _EQUALS.split(plain)]
    if len(sides) > 1:
        if any(_LIST.search(side) for side in sides[1:-1]):
            return formula
        first = read_number(sides[0], 0, comma_decimal)
        if first is not None and first[1] == len(sides[0]):
            last = read_number(sides[-1], 0, comma_decimal)
            if last is None or _OPERATOR.match(sides[-1], last[1]):
                return first[0]  # `72 = 24 + 48`
        plain = sides[-1]
    filler = _FILLER.match(plain)
    start = 0 if filler is None else filler.end()
    if leading or len(sides) > 1:
        moment = read_moment(plain, start)
        if moment is not None:
            return None
        number = read_number(plain, start, comma_decimal)
        if number is not None:
            if _OPERATOR.match(plain, number[1]):
                return formula
            return None if _MORE.match(plain, number[1]) else number[0]
    if "\\" in plain or "√" in plain or (leading and _ALGEBRA.search(plain)):
        return formula
    if len(bold) == 1:
        return _last_number(undressed(bold.pop()), comma_decimal)
    return _last_number(plain, comma_decimal)


def _last_number(text: str, comma_decimal: bool) -> Number | None:
    """The last number in prose; None if the last thing with digits is a date, a time or a range."""
    text = text[-_PROSE:]
    position, last = 0, None
    while (digits := _DIGITS.search(text, position)) is not None:
        before = _BEFORE_DIGITS.search(text, max(position, digits.start() - 4), digits.start())
        start = digits.start() if before is None else digits.start() - len(before[0].lstrip())
        if start < digits.start() and start and text[start - 1].isalnum():
            start = digits.start()  # `step-5`
        moment, number = read_moment(text, start), read_number(text, start, comma_decimal)
        last = None if moment is not None or number is None else number[0]
        ends = [digits.end(), *(found[1] for found in (moment, number) if found is not None)]
        position = max(ends)
    return last


def moment_in(response: str) -> Moment | None:
    """The date, time, range or ratio that a response gives as its answer; None without one."""
    text = undressed(answer_in(response))[:_PROSE]
    filler = _FILLER.match(text)
    found = read_moment(text, 0 if filler is None else filler.end())
    position = 0
    while found is None and (place := _BEGINNING.search(text, position)) is not None:
        found, position = read_moment(text, place.start()), place.end()
    return None if found is None else found[0]


def same_moment(mine: Moment, other: Moment | None) -> bool:
    """Whether both are of one kind and equal."""
    if isinstance(mine, Time) and isinstance(other, Time):
        return mine.equals(other)
    if isinstance(mine, Several) and isinstance(other, Several):
        return mine.equals(other)
    return mine == other


def letter_in(response: str) -> str | None:
    """The letter that a response chooses, a capital; None without one."""
    stated = stated_answer(response)
    if stated is not None:
        return stated_letter(stated)
    return None if _DENIAL.search(answer_in(response)[-_TAIL:]) else closing_letter(response)


def truth_in(response: str) -> bool | None:
    """Whether a response says yes (or true): the word that its answer begins with, whatever reasons follow; else that
    of the whole response; else the last line's last word. None where it says neither."""
    stated = stated_answer(response)
    texts = [stated] if stated is not None else [answer_in(response), response.strip()]
    for text in texts:
        lead = _LEAD_TRUTH.match(undressed(text))
        if lead is not None:
            return _TRUTH[lead[1].casefold()]
    last = _LAST_TRUTH.search(undressed(texts[0])[-_TAIL:])
    return None if last is None else _TRUTH[last[1].casefold()]


def words_in(response: str) -> tuple[str, str]:
    """The words of a response's answer, normalised: all of them, and those before a reason (`Paris, because ...`)."""
    text = answer_in(response)
    return normalised(text), normalised(_REASON.split(text, maxsplit=1)[0])


def normalised(text: str) -> str:
    """The words of `text`; case, punctuation, articles and emphasis do not count."""
    folded = unicodedata.normalize("NFKC", undressed(text)).casefold()
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub(" ", folded)).split())


def expression_in(response: str) -> str:
    """The expression that a response gives as its answer: the one stated, else the end of the text."""
    stated = stated_answer(response)
    return stated if stated is not None else response[-_TAIL:]

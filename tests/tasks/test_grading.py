"""Grading: one reader of answers for gold answers and responses, exact, in linear time."""

import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drr.errors import InputError
from drr.tasks.answers import Expression, read_gold
from drr.tasks.grading import GRADERS, GraderName, check_gold, decide, is_correct, load_grader, majority_answer
from drr.tasks.numbers import Number, read_number
from tests.tasks.answer_rows import ROWS


@pytest.mark.parametrize(("response", "gold", "right"), ROWS)
def test_an_answer_equals_the_gold_answer_or_not(response: str, gold: str, right: bool) -> None:
    assert is_correct(response, gold) is right


def test_the_table_is_large_and_holds_no_row_twice() -> None:
    assert len(ROWS) == len(set(ROWS)) >= 400
    assert sum(not right for _, _, right in ROWS) > 150


@pytest.mark.parametrize(("response", "gold", "right"), [row for row in ROWS if row[2]])
def test_a_right_response_says_no_other_gold(response: str, gold: str, right: bool) -> None:
    for wrong in ("1234321", "Q", "\\frac{\\sqrt{77}}{13}", "zebra"):
        assert not is_correct(response, wrong)


@given(
    left=st.one_of(st.integers(), st.fractions(), st.decimals(allow_nan=False, allow_infinity=False)),
    right=st.integers() | st.fractions(),
)
def test_numbers_are_compared_exactly(left: int | Fraction | Decimal, right: int | Fraction) -> None:
    written = f"{left:f}" if isinstance(left, Decimal) else str(left)
    assert is_correct(f"The answer is {right}.", written) is (left == right)


def _grouped(digits: str, separator: str, last: int = 3, step: int = 3) -> str:
    head, tail = digits[:-last], digits[-last:]
    parts = [head[max(0, end - step) : end] for end in range(len(head), 0, -step)][::-1]
    return separator.join([*parts, tail])


NOTATIONS = {
    "plain": lambda digits: digits,
    "English": lambda digits: _grouped(digits, ","),
    "Indian": lambda digits: _grouped(digits, ",", step=2),
    "Swiss": lambda digits: _grouped(digits, "'"),
    "space": lambda digits: _grouped(digits, " "),
    "no-break space": lambda digits: _grouped(digits, "\u00a0"),
    "narrow no-break space": lambda digits: _grouped(digits, "\u202f"),
    "thin space": lambda digits: _grouped(digits, "\u2009"),
    "TeX": lambda digits: _grouped(digits, "{,}"),
    "TeX's thin space": lambda digits: _grouped(digits, "\\,"),
    "points": lambda digits: _grouped(digits, "."),
    "power of ten": lambda digits: f"{digits[0]}.{digits[1:]}e{len(digits) - 1}",
    "TeX's power of ten": lambda digits: f"{digits[0]}.{digits[1:]} \\times 10^{{{len(digits) - 1}}}",
    "fraction": lambda digits: f"\\frac{{{digits}}}{{1}}",
}


@pytest.mark.parametrize("notation", NOTATIONS)
@given(number=st.integers(10**6, 10**40), sign=st.sampled_from(["", "-", "−", "$-", "€"]))
def test_a_number_is_read_back_from_every_notation(notation: str, number: int, sign: str) -> None:
    written = sign + NOTATIONS[notation](str(number))
    value = -number if {"-", "−"} & set(sign) else number
    found = read_gold(written)
    assert isinstance(found, Number)
    assert found.value == value
    assert is_correct(f"The answer is {written} apples.", str(value))
    assert not is_correct(f"The answer is {written} apples.", str(value + 1))


@given(
    whole=st.integers(0, 10**12), part=st.integers(0, 10**9), unit=st.sampled_from(["", " km", "%", " €", " apples"])
)
def test_a_decimal_is_read_back_with_point_and_comma(whole: int, part: int, unit: str) -> None:
    value = Decimal(f"{whole}.{part}")
    grouped = _grouped(str(whole), ".") if whole >= 1000 else str(whole)
    for written in (f"{whole}.{part}", f"{whole:,}.{part}"):
        found = read_number(written + unit)
        assert found is not None
        assert found[0].value == value
    if whole >= 1000 or len(str(part)) != 3:
        found = read_number(f"{grouped},{part}{unit}")
        assert found is not None
        assert found[0].value == value


@given(whole=st.integers(0, 999), top=st.integers(1, 98), more=st.integers(1, 99))
def test_a_mixed_number_is_read_back(whole: int, top: int, more: int) -> None:
    bottom, value = top + more, whole + Fraction(top, top + more)
    for written in (f"{whole} {top}/{bottom}", f"{whole}\\frac{{{top}}}{{{bottom}}}", f"{whole} and {top}/{bottom}"):
        found = read_gold(written)
        assert isinstance(found, Number)
        assert found.value == value


ANY_TEXT = st.text(max_size=200) | st.text(alphabet="0123456789.,-−/:%$€\\{}^_ =()abAB*#\n'answer is", max_size=120)


@given(response=ANY_TEXT, gold=ANY_TEXT, grader=st.sampled_from(GRADERS))
@example(response="1E999999999999", gold="1e-999999999", grader="auto")
@example(response="1e999999999", gold="1/3", grader="auto")
@example(response="1/0", gold="0/0", grader="math")
@example(response="\\frac{1}{0}", gold="1 1/0", grader="math")
@example(response="0000-00-00", gold="99:99", grader="auto")
def test_reading_never_raises(response: str, gold: str, grader: GraderName) -> None:
    decide(grader, response, gold)
    check_gold(gold, grader)


HOSTILE = [
    "1" * 100_000,
    "1," * 50_000 + "1",
    "1,234" * 20_000,
    "1 " * 50_000,
    "123 " * 25_000,
    "1/" * 50_000,
    "1:" * 50_000,
    "-" * 100_000,
    "=" * 100_000,
    "1=" * 50_000,
    "$" * 100_000,
    "$1" * 50_000,
    "*" * 100_000,
    "**1" * 33_000,
    " " * 100_000,
    "a" + " " * 100_000 + "b",
    "\n" * 100_000,
    "\\frac{" * 16_000,
    "\\frac{1}{" * 11_000,
    "\\boxed{" * 14_000 + "1" + "}" * 14_000,
    "\\text{" * 16_000,
    "the answer is " * 7_000,
    "if the answer is " * 6_000,
    "the answer is not " * 5_500,
    "answer" + "*" * 100_000,
    "answer is 5" + "!" * 100_000 + "a",
    "?" * 100_000 + "a",
    "is " * 33_000,
    "the " * 25_000,
    "(A) " * 25_000,
    "A or B, " * 12_500,
    "yes " * 25_000,
    "#### " * 20_000,
    "#### 1" + "1" * 100_000 + " word",
    "½" * 100_000,
    "e" * 100_000,
    "1e" * 50_000,
    "5 hours " * 12_500,
    "January " * 12_500,
    "é" * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
def test_reading_takes_time_that_grows_with_the_length_only(text: str) -> None:
    golds = ("72", "C", "yes", "Paris", "5-7", "2024-01-05", "\\sqrt{2}", "countdown 3 from 1 2", text)
    for response, gold in [*((text, gold) for gold in golds), (f"The answer is {text}", "72"), ("72", text)]:
        started = time.process_time()
        decide("auto", response, gold)
        assert time.process_time() - started < 2


def test_large_numbers_are_compared_digit_by_digit() -> None:
    number = "123456789" * 11_000
    assert is_correct(number, number)
    assert not is_correct(number[:-1] + "8", number)
    assert is_correct(f"-{number}", f"−{number}")


@pytest.mark.parametrize(
    ("grader", "gold", "said"),
    [
        ("auto", "!!", "holds no answer that can be read"),
        ("auto", "", "holds no answer that can be read"),
        ("auto", "72", None),
        ("auto", "yes", None),
        ("auto", "Paris", None),
        ("auto", "countdown 24 from 2 3 4", None),
        ("auto", "\\sqrt{2}", Expression("\\sqrt{2}")),
        ("choice", "72", "is not the letter of a choice"),
        ("choice", "(b)", None),
        ("text", "...", "holds no answer that can be read"),
        ("text", "72", None),
        ("math", "72", None),
        ("math", "x+1", Expression("x+1")),
        ("own:f", "!!", None),
    ],
)
def test_a_gold_answer_that_cannot_be_read_is_told(grader: str, gold: str, said: str | Expression | None) -> None:
    assert check_gold(gold, grader) == said


@pytest.mark.parametrize(
    ("grader", "response", "gold", "right"),
    [
        ("choice", "The answer is (b).", "B", True),
        ("choice", "The answer is 72.", "72", False),
        ("text", "The answer is 72.", "72", True),
        ("text", "The answer is 72.0.", "72", False),
        ("math", "The answer is 72.0.", "72", True),
        ("math", "The answer is y+x.", "x+y", True),
        ("auto", "The answer is (2+4)*3.", "countdown 18 from 2 3 4", True),
        ("auto", "The answer is (2+4)*4.", "countdown 18 from 2 3 4", False),
    ],
)
def test_a_named_grader_reads_answers_its_way(grader: str, response: str, gold: str, right: bool) -> None:
    assert load_grader(grader)(response, gold) is right


def test_the_majority_agrees_on_a_value() -> None:
    assert majority_answer(["The answer is 72 clips.", "It is 5", "So 72."], is_correct) == "72 clips"
    assert majority_answer(["(b) bank", "The answer is B because I checked A.", "C"], is_correct) == "(b) bank"
    assert majority_answer(["1", "2", ""], is_correct) is None


def test_a_grader_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_grader.py").write_text(
        "def even(response, gold):\n    return int(response) % 2 == 0\n\nnumber = 3\n"
    )
    grade = load_grader("own_grader:even")
    assert (grade("4", ""), grade("5", "")) == (True, False)
    with pytest.raises(
        InputError, match=r"--grader: 'own_grader:even' failed on the answer 'four', gold '4': ValueErr"
    ):
        grade("four", "4")


@pytest.mark.parametrize(
    "name", ["exact", ":f", "own_grader", "nowhere:f", "broken:f", "ending:f", "own:number", "own:f"]
)
def test_what_is_no_grader_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for module, text in (("broken", "def f(:"), ("ending", "1 / 0"), ("own", "number = 3")):
        (tmp_path / f"{module}.py").write_text(text)
    with pytest.raises(InputError, match="--grader"):
        load_grader(name)

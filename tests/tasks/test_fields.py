"""Golds, flags and columns: values stay what is written."""

import json
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drr.tasks.fields import flag_field, is_known, same_gold
from drr.tasks.rows import BadRowError, Number
from drr.tasks.sources import Loaded, load_questions
from tests.local_files import lines

IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def golds(loaded: Loaded) -> list[str]:
    return [question.answer for question in loaded.questions]


def parquet_golds(path: Path, values: Any, kind: Any) -> list[str]:
    questions = [f"{number}?" for number in range(len(values))]
    pq.write_table(pa.table({"question": questions, "answer": pa.array(values, kind)}), path)
    return golds(load_questions(str(path)))


@pytest.mark.parametrize(
    ("written", "gold"),
    [
        ("9007199254740993", "9007199254740993"),
        ("0.1", "0.1"),
        ("60.10", "60.10"),
        ("1e400", "1e400"),
        ("-1E-400", "-1E-400"),
        ("3.14159265358979323846264338327950288", "3.14159265358979323846264338327950288"),
        ("145.0", "145"),
        ("145.00", "145.00"),
        ("-0", "-0"),
        ("1" * 5000, "1" * 5000),
        ("true", "yes"),
        ("false", "no"),
        ('" 60.10 "', "60.10"),
        ('["7"]', "7"),
        ('["7", 7, 7.0, null, ""]', "7"),
        ('{"value": "Paris", "aliases": ["Paris, France"]}', "Paris"),
        ('{"text": ["Paris", "paris"], "answer_start": [3, 9]}', "Paris"),
        ('{"spans": ["12"]}', "12"),
        ('"2+2=4 #### 4"', "4"),
        ('"So $x=\\\\boxed{\\\\frac{1}{2}}$."', r"\frac{1}{2}"),
        ('"Two and two are four.\\nThe answer is 4."', "4"),
        ('"It takes 2/2=<<2/2=1>>1 bolt\\nSo 2+1=<<2+1=3>>3 bolts\\n#### 1,003"', "1,003"),
    ],
)
def test_json_golds_stay_what_is_written(written: str, gold: str, tmp_path: Path) -> None:
    source = lines(tmp_path / "q.jsonl", f'{{"question": "a?", "answer": {written}}}')
    assert golds(load_questions(source)) == [gold]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("NaN", "must be a finite number, not NaN"),
        ("-Infinity", "must be a finite number, not -Infinity"),
        ("[]", "is empty"),
        ("{}", "is empty"),
        ("[[1], [2]]", "holds 2 different answers ('1', '2'); one is needed"),
        ('{"en": "yes"}', "is an object without value, text, answer, answers, spans; its keys are 'en'"),
        ('{"value": 1, "value": 2}', "occurs twice in the row"),
    ],
)
def test_golds_that_cannot_be_used_say_why(written: str, reason: str, tmp_path: Path) -> None:
    source = lines(tmp_path / "q.jsonl", f'{{"question": "a?", "answer": {written}}}', {"question": "b?", "answer": 1})
    assert [reject.reason for reject in load_questions(source).rejects] == [reason]


JSON_NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)


@IN_ONE_FOLDER
@given(numbers=st.lists(JSON_NUMBERS, min_size=1, max_size=8))
def test_any_json_number_is_the_gold_as_written(numbers: list[str], tmp_path: Path) -> None:
    rows = [f'{{"question": "{place}?", "answer": {number}}}' for place, number in enumerate(numbers)]
    assert golds(load_questions(lines(tmp_path / "q.jsonl", *rows))) == [n.removesuffix(".0") for n in numbers]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([60.1, 0.1, 3.0, 1e22, 1e-30], pa.float32(), ["60.1", "0.1", "3", "1e+22", "1e-30"]),
        ([np.float16(60.1), np.float16(0.1)], pa.float16(), ["60.1", "0.1"]),
        ([60.1, 9007199254740993.0, -0.0, 1e-5], pa.float64(), ["60.1", "9007199254740992", "0", "0.00001"]),
        ([2**53 + 1, -(2**63)], pa.int64(), ["9007199254740993", "-9223372036854775808"]),
        ([2**64 - 1], pa.uint64(), ["18446744073709551615"]),
        ([Decimal("60.10"), Decimal("-0.05")], pa.decimal128(10, 2), ["60.10", "-0.05"]),
        ([Decimal("1" * 60 + ".5")], pa.decimal256(70, 1), ["1" * 60 + ".5"]),
        ([True, False], pa.bool_(), ["yes", "no"]),
        ([date(2024, 2, 29)], pa.date32(), ["2024-02-29"]),
        ([datetime(2024, 2, 29, 12, 30)], pa.timestamp("s"), ["2024-02-29 12:30:00"]),
        ([1], pa.timestamp("ns"), ["1970-01-01 00:00:00.000000001"]),
        ([b"Paris"], pa.binary(), ["Paris"]),
        (["a", "b", "a"], pa.dictionary(pa.int8(), pa.string()), ["a", "b", "a"]),
        ([60.1], pa.dictionary(pa.int8(), pa.float32()), ["60.1"]),
        (["x"], pa.large_string(), ["x"]),
        ([[60.1]], pa.list_(pa.float32()), ["60.1"]),
        ([{"value": 60.1, "note": "x"}], pa.struct([("value", pa.float32()), ("note", pa.string())]), ["60.1"]),
    ],
)
def test_parquet_golds_are_exact(values: list[Any], kind: Any, expected: list[str], tmp_path: Path) -> None:
    if pa.types.is_dictionary(kind):
        values = pa.array(values, kind.value_type).dictionary_encode()
        kind = None
    assert parquet_golds(tmp_path / "q.parquet", values, kind) == expected


@IN_ONE_FOLDER
@given(data=st.data(), width=st.sampled_from([16, 32, 64]))
def test_any_float_reads_back_as_itself_in_the_fewest_digits(data: st.DataObject, width: Any, tmp_path: Path) -> None:
    values = data.draw(st.lists(st.floats(width=width, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
    numpy_type = {16: np.float16, 32: np.float32, 64: np.float64}[width]
    array = np.asarray(values, dtype=numpy_type)
    found = parquet_golds(tmp_path / "q.parquet", array, None)
    assert [numpy_type(gold) for gold in found] == list(array)
    for gold, value in zip(found, array, strict=True):
        assert len(gold.strip("-0.").replace(".", "").partition("e")[0]) <= len(str(value).replace(".", ""))


@IN_ONE_FOLDER
@given(values=st.lists(st.decimals(-(10**12), 10**12, places=6), min_size=1, max_size=8))
def test_any_decimal_reads_back_as_itself(values: list[Decimal], tmp_path: Path) -> None:
    found = parquet_golds(tmp_path / "q.parquet", values, pa.decimal128(20, 6))
    assert [Decimal(gold) for gold in found] == values
    assert all(len(gold.partition(".")[2]) == 6 for gold in found)


def test_numbers_that_are_not_finite_are_set_aside_in_parquet_too(tmp_path: Path) -> None:
    values = pa.array([float("nan"), float("inf"), 1.0], pa.float32())
    pq.write_table(pa.table({"question": ["a?", "b?", "c?"], "answer": values}), tmp_path / "q.parquet")
    loaded = load_questions(str(tmp_path / "q.parquet"))
    assert golds(loaded) == ["1"]
    assert [reject.reason for reject in loaded.rejects] == [
        "must be a finite number, not nan",
        "must be a finite number, not inf",
    ]


def test_bytes_that_are_no_text_are_set_aside(tmp_path: Path) -> None:
    table = pa.table({"question": ["a?", "b?"], "answer": pa.array([b"\xff\xfe", b"1"])})
    pq.write_table(table, tmp_path / "q.parquet")
    reasons = [reject.reason for reject in load_questions(str(tmp_path / "q.parquet")).rejects]
    assert reasons == ["must be text or a number, not bytes that are not UTF-8 text"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_a_parquet_text_that_is_not_utf8_loses_its_row_only(kind: Any, tmp_path: Path) -> None:
    questions = pa.array([b"caf\xe9?", b"caf\xc3\xa9?"]).cast(pa.large_binary()).cast(kind, safe=False)
    pq.write_table(pa.table({"question": questions, "answer": [1, 2]}), tmp_path / "q.parquet")
    loaded = load_questions(str(tmp_path / "q.parquet"))
    assert [(question.text, question.answer) for question in loaded.questions] == [("café?", "2")]
    assert [reject.reason for reject in loaded.rejects] == ["must be text, not bytes that are not UTF-8 text"]


def pairs() -> Iterator[tuple[str, str, bool]]:
    yield from (("1,000", "1000.0", True), ("60.10", "60.1", True), ("1e3", "1000", True), ("Paris ", "paris", True))
    yield from (("1", "2", False), ("snan", "snan", True), ("NaN", "nan", True), ("x", "", False))
    yield from (("1e99999999999999999999", "1e99999999999999999999", True), ("1e99999999999999999999", "1", False))


@pytest.mark.parametrize(("first", "second", "same"), list(pairs()))
def test_golds_are_compared_as_numbers_or_texts(first: str, second: str, same: bool) -> None:
    assert same_gold(first, second) is same


@pytest.mark.parametrize("value", [True, "true", "True", " TRUE ", "1", 1, Number("1")])
def test_flags_of_any_format_are_read(value: Any) -> None:
    assert flag_field({"right": value}, "right") is True


@pytest.mark.parametrize("value", [None, "", "no", 2, [], "maybe"])
def test_what_is_no_flag_is_refused(value: Any) -> None:
    with pytest.raises(BadRowError):
        flag_field({"right": value}, "right")


@pytest.mark.parametrize("name", ["Question", "ANSWER", "answerKey", "answer key", "Final-Answer", "question_stem"])
def test_usual_names_are_known_in_any_spelling(name: str) -> None:
    assert is_known(name)
    assert not is_known(name + "x")


@pytest.mark.parametrize(
    ("value", "difficulty"), [(3, 3), ("3", 3), (3.0, 3), ("hard", 0), (True, 0), (10**12, 0), (None, 0)]
)
def test_a_difficulty_is_a_whole_number_or_nothing(value: Any, difficulty: int, tmp_path: Path) -> None:
    source = lines(tmp_path / "q.jsonl", json.dumps({"question": "a?", "answer": 1, "difficulty": value}))
    assert load_questions(source).questions[0].difficulty == difficulty

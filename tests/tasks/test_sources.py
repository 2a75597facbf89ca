"""Questions from files of any kind: good rows are kept, bad rows are set aside with the reason."""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drr.errors import InputError
from drr.tasks import Split
from drr.tasks.sources import load_questions
from tests.local_files import lines


def test_json_lines_with_usual_columns(tmp_path: Path) -> None:
    source = lines(
        tmp_path / "q.jsonl", {"problem": "1+1?", "answer": 2}, {"problem": "1+2?", "answer": "So 1+2=3.\n#### 3"}
    )
    loaded = load_questions(source)
    assert [(question.text, question.answer) for question in loaded.questions] == [("1+1?", "2"), ("1+2?", "3")]
    assert loaded.columns == {"question": "problem", "answer": "answer"}


def test_bad_rows_are_set_aside_with_row_field_and_reason(tmp_path: Path) -> None:
    source = lines(
        tmp_path / "q.jsonl",
        {"question": "good?", "answer": "1"},
        "{not json",
        {"question": "", "answer": "1"},
        {"question": "no answer?"},
        {"question": 7, "answer": "1"},
        [1, 2],
        {"question": "odd?", "answer": ["1", "2"]},
        {"question": "good?", "answer": "1"},
        '{"question": "half \\ud800", "answer": "1"}',
        {"question": "long?", "answer": "words " * 100},
        '{"question": "endless?", "answer": Infinity}',
        {"question": "also good?", "answer": 2.0},
    )
    loaded = load_questions(source)
    assert [(question.text, question.answer) for question in loaded.questions] == [("good?", "1"), ("also good?", "2")]
    found = [(reject.row, reject.field, reject.reason.split(":")[0]) for reject in loaded.rejects]
    assert found == [
        (2, None, "is not JSON"),
        (3, "question", "is empty"),
        (4, "answer", "is missing"),
        (5, "question", "must be text, not a number"),
        (6, None, "must be an object, not a list"),
        (7, "answer", "holds 2 different answers ('1', '2'); one is needed"),
        (8, "question", "is the same question as row 1"),
        (9, "question", "holds half of a surrogate pair"),
        (10, "answer", "is a long text that states no answer (`#### X`, `\\boxed{X}`, `the answer is X`)"),
        (11, "answer", "must be a finite number, not Infinity"),
    ]


def test_answers_may_be_missing_where_none_is_needed(tmp_path: Path) -> None:
    source = lines(tmp_path / "q.jsonl", {"question": "a?"}, {"question": "b?", "answer": None})
    assert [question.answer for question in load_questions(source, need_answer=False).questions] == ["", ""]
    with pytest.raises(InputError, match="the first of 2 rows set aside: row 1, field answer: is missing"):
        load_questions(source)
    source = lines(tmp_path / "q.jsonl", {"question": "a?"})
    with pytest.raises(InputError, match="field answer: no column is called answer"):
        load_questions(source)
    assert load_questions(source, need_answer=False).columns == {"question": "question", "answer": None}


def test_columns_can_be_named(tmp_path: Path) -> None:
    source = lines(tmp_path / "q.jsonl", {"q": "a?", "a": "1"})
    assert load_questions(source, question_column="q", answer_column="a").questions[0].answer == "1"
    with pytest.raises(InputError, match=r"columns are 'q', 'a'\. Name it with --question-column"):
        load_questions(source)
    with pytest.raises(InputError, match="field Q: no row has this column; the columns are 'q', 'a'"):
        load_questions(source, question_column="Q")


def test_procedural_tasks() -> None:
    for task in ("arithmetic", "countdown", "logic"):
        assert len(load_questions(f"{task}:5").questions) == 5
    assert {question.split for question in load_questions("logic:9:1:validation").questions} == {Split.VALIDATION}
    for bad in ("countdown", "countdown:0", "countdown:x", "logic:5:1:exam", "logic:5:1:test:2"):
        with pytest.raises(InputError, match=bad):
            load_questions(bad)
    assert load_questions("arithmetic:5:1").questions != load_questions("arithmetic:5:2").questions


def test_a_limit_below_one_and_broken_text_in_any_column_are_refused(tmp_path: Path) -> None:
    source = lines(
        tmp_path / "q.jsonl", {"question": "1+1?", "answer": 2, "family": "\ud83d"}, {"question": "2+2?", "answer": 4}
    )
    with pytest.raises(InputError, match="--limit"):
        load_questions(source, limit=0)
    loaded = load_questions(source)
    assert [question.text for question in loaded.questions] == ["2+2?"]
    assert (loaded.rejects[0].row, loaded.rejects[0].field) == (1, "family")


FIRST_ROWS: list[Any] = [
    {"version": 2, "licence": "CC"},
    {"question": "no answer?"},
    {"question": "none yet?", "answer": None},
    {"question": "blank?", "answer": " "},
    {"answer": "3"},
    {"question": None, "answer": None},
    "{half a row",
    "5",
    [],
]


@pytest.mark.parametrize("first", FIRST_ROWS, ids=json.dumps)
def test_the_first_row_decides_nothing_for_the_others(first: Any, tmp_path: Path) -> None:
    rows = [{"question": "1+1?", "answer": 2}, {"question": "1+2?", "answer": 3}]
    loaded = load_questions(lines(tmp_path / "q.jsonl", first, *rows))
    assert [(question.text, question.answer) for question in loaded.questions] == [("1+1?", "2"), ("1+2?", "3")]
    assert [reject.row for reject in loaded.rejects] == [1]


def test_the_column_that_most_rows_fill_is_taken_and_the_earlier_name_of_several(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": "1" if n == 0 else None, "target": "2"} for n in range(3)]
    loaded = load_questions(lines(tmp_path / "q.jsonl", *rows))
    assert loaded.columns == {"question": "question", "answer": "target"}
    rows = [{"target": "2", "answer": "1", "Problem": "a?"}, {"Problem": "b?", "target": "2", "answer": "1"}]
    loaded = load_questions(lines(tmp_path / "q.jsonl", *rows))
    assert loaded.columns == {"question": "Problem", "answer": "answer"}


def test_a_named_column_may_begin_in_any_row(tmp_path: Path) -> None:
    rows = [{"question": "a?", "answer": "1"}, {"question": "b?", "answer": "1", "mine": "2"}]
    loaded = load_questions(lines(tmp_path / "q.jsonl", *rows), answer_column="mine")
    assert [(question.text, question.answer) for question in loaded.questions] == [("b?", "2")]
    assert [(reject.row, reject.field, reject.reason) for reject in loaded.rejects] == [(1, "mine", "is missing")]


def test_many_columns_are_not_all_listed(tmp_path: Path) -> None:
    source = lines(tmp_path / "q.jsonl", *({f"column {n}": "x"} for n in range(100)))
    with pytest.raises(InputError, match=r"'column 29' and 70 more\. Name it with --question-column"):
        load_questions(source)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (['{"question": '], "neither JSON nor JSON lines"),
        (["[1]", "[2]"], "holds no row that can be used; the first of 2 rows set aside: row 1: must be an object"),
        ([{"question": "a?", "answer": None}], "its only row: row 1, field answer: is missing"),
        ([{"question": 5, "answer": "1"}], "its only row: row 1, field question: must be text, not a number"),
        ([{"question": "\u200b", "answer": "1"}, {}], "first of 2 rows set aside: row 1, field question: is empty"),
    ],
)
def test_a_source_without_a_question_repeats_its_first_rows_reason(
    rows: list[Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        load_questions(lines(tmp_path / "q.jsonl", *rows))
    assert reason in str(caught.value)


SPELLINGS = [
    "What is  2 + 2?",
    " What is 2 + 2? ",
    "what is 2 + 2?",
    "WHAT IS 2 + 2?",
    "What\tis\n2 + 2?",
    "What\u00a0is 2 + 2?",
    "What\u2003is 2 +\u30002?",
    "\ufeffWhat is 2 + 2?",
    "What is 2\u200b + 2?",
    "What is 2 + 2?\u200e",
    "Wh\u00adat is 2 + 2?",
]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=ascii)
def test_a_question_counts_once_however_it_is_spelled(spelling: str, tmp_path: Path) -> None:
    rows = [{"question": "What is 2 + 2?", "answer": 4}, {"question": spelling, "answer": "4.0"}]
    loaded = load_questions(lines(tmp_path / "q.jsonl", *rows))
    assert [question.text for question in loaded.questions] == ["What is 2 + 2?"]
    assert [(reject.row, reject.reason) for reject in loaded.rejects] == [(2, "is the same question as row 1")]
    assert loaded.told() == ["set aside: 1 (question is the same question as row …)"]


def test_the_same_question_with_another_answer_says_so(tmp_path: Path) -> None:
    rows = [{"question": "a?", "answer": "1,000"}, {"question": "A?", "answer": 1000}, {"question": "a ?", "answer": 1}]
    rows += [{"question": "A?", "answer": "x" * 99}]
    reasons = [reject.reason for reject in load_questions(lines(tmp_path / "q.jsonl", *rows)).rejects]
    assert reasons == [
        "is the same question as row 1",
        "is the same question as row 1, with another answer: '" + "x" * 37 + "...', not '1,000'",
    ]


def test_the_same_question_without_an_answer_is_no_other_answer(tmp_path: Path) -> None:
    source = lines(tmp_path / "q.jsonl", {"question": "a?"}, {"question": "A?", "answer": 1})
    reasons = [reject.reason for reject in load_questions(source, need_answer=False).rejects]
    assert reasons == ["is the same question as row 1"]


def test_an_empty_source_is_told() -> None:
    with pytest.raises(InputError, match="questions: name no file, folder, dataset or task"):
        load_questions("")


def test_a_question_whose_first_row_is_bad_is_taken_from_a_later_one(tmp_path: Path) -> None:
    rows = [{"question": "a?", "answer": None}, {"question": "a?", "answer": 1}]
    loaded = load_questions(lines(tmp_path / "q.jsonl", *rows))
    assert [(question.answer, question.row) for question in loaded.questions] == [("1", 2)]


def test_composed_and_decomposed_letters_are_one_question_but_powers_are_not_digits(tmp_path: Path) -> None:
    texts = ["Où est l'élève?", unicodedata.normalize("NFD", "Où est l'élève?"), "2²?", "22?", "2₂?"]
    loaded = load_questions(lines(tmp_path / "q.jsonl", *({"question": text, "answer": 1} for text in texts)))
    assert [question.text for question in loaded.questions] == [texts[0], *texts[2:]]


@given(limit=st.integers(1, 6))
def test_a_limit_counts_questions_and_not_rows(limit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [{"question": f"{n // 2}?", "answer": n // 2} for n in range(8)]
    loaded = load_questions(lines(tmp_path_factory.mktemp("q") / "q.jsonl", *rows), limit=limit)
    assert [question.answer for question in loaded.questions] == ["0", "1", "2", "3"][:limit]


DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "questions", "gold"),
    [
        ("gsm8k::train", 7473, r"-?[\d,.]+"),
        ("gsm8k::test", 1319, r"-?[\d,.]+"),
        ("svamp", 1000, r"-?[\d.]+"),
        ("commonsenseqa", 9741, "[A-E]"),
        ("commonsenseqa::dev", 1221, "[A-E]"),
        ("strategyqa", 2060, "yes|no"),
        ("strategyqa::validation", 229, "yes|no"),
    ],
)
def test_public_sets_load_as_they_are(name: str, questions: int, gold: str) -> None:
    if not DATA.is_dir():
        pytest.skip("the public sets are not there")
    loaded = load_questions(f"{DATA}/{name}")
    assert len(loaded.questions) == questions
    assert all(re.fullmatch(gold, question.answer) for question in loaded.questions)
    assert all(reject.reason.startswith("is the same question as row") for reject in loaded.rejects)

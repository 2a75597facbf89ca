"""Choices are put into the question, and the gold answer becomes the letter of one."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drr.tasks.grading import is_correct
from drr.tasks.sources import Loaded, load_questions
from tests.local_files import lines

TEXT = "What do people aim to do at work?\n(A) complete job\n(B) learn\n(C) wear hats"
TEXTS = ["complete job", "learn", "wear hats"]


def one(path: Path, *rows: Any) -> Loaded:
    return load_questions(lines(path / "q.jsonl", *rows))


@pytest.mark.parametrize(
    "choices",
    [
        {"label": ["A", "B", "C"], "text": TEXTS},
        [{"label": label, "text": text} for label, text in zip("ABC", TEXTS, strict=True)],
        dict(zip("ABC", TEXTS, strict=True)),
        dict(zip("abc", TEXTS, strict=True)),
        TEXTS,
        ["A) complete job", "B) learn", "C) wear hats"],
        ["(A) complete job", "(B) learn", "(C) wear hats"],
        json.dumps(TEXTS),
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("gold", ["B", "(B)", "b", "learn", "Learn "])
def test_choices_of_any_form_are_rendered_and_named_by_their_letter(choices: Any, gold: str, tmp_path: Path) -> None:
    row = {"question": TEXT.partition("\n")[0], "choices": choices, "answerKey": gold}
    question = one(tmp_path, row).questions[0]
    assert (question.text, question.answer) == (TEXT, "B")
    assert is_correct("The answer is B.", question.answer)
    assert one(tmp_path, row).told() == [f"{tmp_path / 'q.jsonl'}: 'choices' is put behind 'question'"]


def test_choices_in_a_parquet_struct(tmp_path: Path) -> None:
    row = {"question": TEXT.partition("\n")[0], "choices": {"label": ["A", "B", "C"], "text": TEXTS}, "answerKey": "C"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "q.parquet")
    question = load_questions(str(tmp_path / "q.parquet")).questions[0]
    assert (question.text, question.answer) == (TEXT, "C")


def test_a_question_that_brings_its_choices_within(tmp_path: Path) -> None:
    choices = [{"label": label, "text": text} for label, text in zip("ABC", TEXTS, strict=True)]
    row = {"answerKey": "A", "question": {"stem": TEXT.partition("\n")[0], "choices": choices}}
    question = one(tmp_path, row).questions[0]
    assert (question.text, question.answer) == (TEXT, "A")
    assert one(tmp_path, {"question": TEXT, "options": TEXTS, "answer": "A"}).questions[0].text == TEXT


def test_indices_count_from_zero_unless_the_table_says_otherwise(tmp_path: Path) -> None:
    def answers(*golds: Any) -> list[str]:
        rows = [{"question": f"{n}?", "options": TEXTS, "answer": gold} for n, gold in enumerate(golds)]
        return [question.answer for question in one(tmp_path, *rows).questions]

    assert answers(0, 1, 2) == ["A", "B", "C"]
    assert answers(1, 2) == ["B", "C"]
    assert answers(1, 2, 3) == ["A", "B", "C"]
    assert answers(0, 1, 3) == ["A", "B"]


@pytest.mark.parametrize(
    ("choices", "gold", "field", "reason"),
    [
        (TEXTS, "D", "answer", "is none of the 3 choices: 'D'"),
        (["2", "1", "0"], 0, "answer", "may name one choice or another: '0'"),
        ({"label": ["A"], "text": ["x", "y"]}, "A", "options", "holds 1 labels and 2 texts"),
        ({"label": ["A", "A"], "text": ["x", "y"]}, "A", "options", "holds two choices with one label"),
        ([["x"], ["y"]], "A", "options", "holds a list where a choice's text or label is needed"),
        (5, "A", "options", "must be a list or an object of choices, not a number"),
        ("a ) 38 , b ) 27", "A", "options", "must be a list or an object of choices, not text"),
        ([str(n) + "x" for n in range(27)], "A", "options", "holds 27 choices; 26 letters are all there are"),
    ],
)
def test_choices_that_cannot_be_used_say_why(choices: Any, gold: Any, field: str, reason: str, tmp_path: Path) -> None:
    good = {"question": "good?", "options": ["x", "y"], "answer": "A"}
    loaded = one(tmp_path, {"question": "a?", "options": choices, "answer": gold}, good)
    assert [(reject.field, reject.reason) for reject in loaded.rejects] == [(field, reason)]


@pytest.mark.parametrize("none", [None, [], {}, ""])
def test_rows_without_choices_are_plain_questions(none: Any, tmp_path: Path) -> None:
    rows = [{"question": "a?", "options": none, "answer": 5}, {"question": "b?", "options": TEXTS, "answer": "A"}]
    assert [question.answer for question in one(tmp_path, *rows).questions] == ["5", "A"]


def test_labels_that_are_numbers_stay_numbers(tmp_path: Path) -> None:
    row = {"question": "a?", "choices": {"label": ["1", "2"], "text": ["x", "y"]}, "answerKey": "2"}
    question = one(tmp_path, row).questions[0]
    assert (question.text, question.answer) == ("a?\n(1) x\n(2) y", "2")


def test_a_body_goes_before_its_question_unless_the_column_is_named(tmp_path: Path) -> None:
    row = {"ID": "1", "Body": "Dan had $3.", "Question": "How much now?", "Equation": "( 4.0 - 3.0 )", "Answer": 1.0}
    question = one(tmp_path, row).questions[0]
    assert (question.text, question.answer) == ("Dan had $3.\nHow much now?", "1")
    assert one(tmp_path, row).told() == [f"{tmp_path / 'q.jsonl'}: 'Body' is put before 'Question'"]
    whole = {**row, "question_concat": "Dan had $3. How much now?"}
    assert one(tmp_path, whole).questions[0].text == "Dan had $3. How much now?"
    named = load_questions(lines(tmp_path / "q.jsonl", row), question_column="Question")
    assert named.questions[0].text == "How much now?"


def test_an_instruction_is_asked_with_its_input(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "1+1?", "input": "", "output": 2},
    ]
    loaded = one(tmp_path, *rows)
    assert [(q.text, q.answer) for q in loaded.questions] == [("Add.\n1 and 2", "3"), ("1+1?", "2")]
    assert loaded.told() == [f"{tmp_path / 'q.jsonl'}: 'input' is put behind 'instruction'"]
    assert one(tmp_path, {"input": "1+1?", "target": 2}).questions[0].text == "1+1?"


def test_the_four_public_forms(tmp_path: Path) -> None:
    rows = {
        "gsm8k": {"question": "How many?", "answer": "2/2=<<2/2=1>>1\n2+1=<<2+1=3>>3\n#### 3"},
        "svamp": {"Body": "Paco had 26.", "Question": "How many?", "Type": "Subtraction", "Answer": 17.0},
        "commonsenseqa": {
            "id": "1",
            "question": "Where?",
            "question_concept": "place",
            "choices": {"label": ["A", "B"], "text": ["here", "there"]},
            "answerKey": "A",
        },
        "strategyqa": {"qid": "1", "term": "x", "question": "Is it?", "answer": True, "facts": ["a"]},
    }
    found = {name: one(tmp_path, row).questions[0] for name, row in rows.items()}
    assert {name: (question.text, question.answer) for name, question in found.items()} == {
        "gsm8k": ("How many?", "3"),
        "svamp": ("Paco had 26.\nHow many?", "17"),
        "commonsenseqa": ("Where?\n(A) here\n(B) there", "A"),
        "strategyqa": ("Is it?", "yes"),
    }

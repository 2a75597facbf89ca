"""Questions from files of any kind: good rows are kept, bad rows are set aside with the reason."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
        {"question": "odd?", "answer": ["1"]},
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
        (5, "question", "must be text, not int"),
        (6, None, "must be an object, not list"),
        (7, "answer", "must be text or a number, not list"),
        (8, "question", "is the same question as row 1"),
        (9, "question", "holds half of a surrogate pair"),
        (10, "answer", "is a long text that states no answer (`#### X`, `\\boxed{X}`, `the answer is X`)"),
        (11, "answer", "must be a finite number, not inf"),
    ]


def test_answers_may_be_missing_where_none_is_needed(tmp_path: Path) -> None:
    source = lines(tmp_path / "q.jsonl", {"question": "a?"}, {"question": "b?", "answer": None})
    assert [question.answer for question in load_questions(source, need_answer=False).questions] == ["", ""]
    with pytest.raises(InputError, match="field answer: no column is called answer"):
        load_questions(source)


def test_columns_can_be_named(tmp_path: Path) -> None:
    source = lines(tmp_path / "q.jsonl", {"q": "a?", "a": "1"})
    assert load_questions(source, question_column="q", answer_column="a").questions[0].answer == "1"
    with pytest.raises(InputError, match=r"columns are 'q', 'a'\. Name it with --question-column"):
        load_questions(source)
    with pytest.raises(InputError, match="field Q: there is no such column"):
        load_questions(source, question_column="Q")


def test_parquet_folders_and_tasks(tmp_path: Path) -> None:
    rows = {"question": ["a?", "b?"], "answer": [1, 2]}
    pq.write_table(pa.table(rows), tmp_path / "q.parquet")
    assert len(load_questions(str(tmp_path / "q.parquet")).questions) == 2
    folder = tmp_path / "dataset"
    folder.mkdir()
    datasets.Dataset.from_dict(rows).to_json(folder / "train.jsonl")
    assert [question.answer for question in load_questions(str(folder)).questions] == ["1", "2"]
    for task in ("arithmetic", "countdown", "logic"):
        assert len(load_questions(f"{task}:5").questions) == 5
    assert {question.split for question in load_questions("logic:9:1:validation").questions} == {Split.VALIDATION}
    for bad in ("countdown", "countdown:0", "countdown:x", "logic:5:1:exam", "logic:5:1:test:2"):
        with pytest.raises(InputError, match=bad):
            load_questions(bad)
    assert load_questions("arithmetic:5:1").questions != load_questions("arithmetic:5:2").questions


@pytest.mark.parametrize("source", ["nowhere.jsonl", "./nowhere", "arithmetic:x", "arithmetic:0", "arithmetic"])
def test_sources_that_are_not_there(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=source):
        load_questions(source)


def test_a_limit_below_one_and_broken_text_in_any_column_are_refused(tmp_path: Path) -> None:
    source = lines(
        tmp_path / "q.jsonl", {"question": "1+1?", "answer": 2, "family": "\ud83d"}, {"question": "2+2?", "answer": 4}
    )
    with pytest.raises(InputError, match="--limit"):
        load_questions(source, limit=0)
    loaded = load_questions(source)
    assert [question.text for question in loaded.questions] == ["2+2?"]
    assert (loaded.rejects[0].row, loaded.rejects[0].field) == (1, "family")

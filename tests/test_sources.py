"""Questions and solutions from files of any kind, good rows kept, bad rows set aside with the reason."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drr.cli import main
from drr.dm import CARD_NAME, DmCard
from drr.errors import InputError
from drr.grading import is_correct
from drr.recorded import load_recorded, split_text
from drr.records import MANIFEST_NAME, Manifest, Rollout, read_rollouts, write_shard
from drr.steps import StepRule
from drr.tasks import Split
from drr.tasks.sources import load_questions

from .fakes import rollout_of


def lines(path: Path, *rows: Any) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)


def test_json_lines_with_usual_columns(tmp_path: Path) -> None:
    source = lines(
        tmp_path / "q.jsonl", {"problem": "1+1?", "answer": 2}, {"problem": "1+2?", "answer": "So 1+2=3.\n#### 3"}
    )
    loaded = load_questions(source)
    assert [(own.text, own.answer) for own in loaded.questions] == [("1+1?", "2"), ("1+2?", "3")]
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
    assert [(own.text, own.answer) for own in loaded.questions] == [("good?", "1"), ("also good?", "2")]
    found = [(own.row, own.field, own.reason.split(":")[0]) for own in loaded.rejects]
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
    assert [own.answer for own in load_questions(source, need_answer=False).questions] == ["", ""]
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
    assert [own.answer for own in load_questions(str(folder)).questions] == ["1", "2"]
    for task in ("arithmetic", "countdown", "logic"):
        assert len(load_questions(f"{task}:5").questions) == 5
    assert {own.split for own in load_questions("logic:9:1:validation").questions} == {Split.VALIDATION}
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


def test_recorded_solutions_know_only_their_end(tmp_path: Path) -> None:
    source = lines(
        tmp_path / "s.jsonl",
        {"question": "a?", "gold": "3", "solution": "1+1=2\n2+1=3\nA: 3", "is_correct": True},
        {"question": "a?", "gold": "3", "solution": "A: 4", "is_correct": False},
        {"question": "a?", "gold": "3", "solution": "A: 4", "is_correct": "no"},
    )
    rollouts, rejects = load_recorded(source, StepRule("line"), is_correct)
    assert [own.steps for own in rollouts] == [["1+1=2\n", "2+1=3\n", "A: 3"], ["A: 4"]]
    assert [own.now for own in rollouts] == [[None, None, True], [False]]
    assert [(own.sample, own.later, own.answer) for own in rollouts] == [(0, True, "A: 3"), (1, False, "A: 4")]
    assert [(own.row, own.field) for own in rejects] == [(3, "is_correct")]
    graded = lines(tmp_path / "g.jsonl", {"question": "a?", "answer": "3", "solution": "The answer is 3."})
    assert load_recorded(graded, StepRule("line"), is_correct)[0][0].later


@given(
    text=st.text(alphabet="ab .\n", max_size=40), kind=st.sampled_from(["line", "blank_line", "sentence", "attempt"])
)
def test_texts_are_cut_without_loss(text: str, kind: str) -> None:
    steps = split_text(text, StepRule.parse(kind))
    assert text.startswith("".join(steps))
    assert not text[len("".join(steps)) :].strip()


def test_shards_give_back_what_was_written(tmp_path: Path) -> None:
    rollouts = [rollout_of(["a\n\n", "So the answer is 3.\n\n"]), rollout_of(["x"])]
    rollouts[1].logprobs, rollouts[1].now, rollouts[1].forced = [None], [None], [None]
    write_shard(tmp_path / "0.parquet", rollouts)
    assert read_rollouts(tmp_path) == rollouts


GOOD_JSONL = b'{"question": "1+1?", "answer": "2"}\n{"question": "1+2?", "answer": "3"}\n'


def corrupted(data: st.DataObject, good: bytes) -> bytes:
    """`good` with some bytes overwritten, removed or put in."""
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(changed) - 1)))
        junk = data.draw(st.binary(max_size=6) | st.sampled_from([b"null", b"[", b"{}", b'"', b"1e999", b"\\ud800"]))
        changed[at : at + data.draw(st.integers(0, 8))] = junk
    return bytes(changed)


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One good file of every kind that a user may hand in or damage."""
    folder = tmp_path_factory.mktemp("good")
    pq.write_table(pa.table({"question": ["a?", "b?"], "answer": ["1", "2"]}), folder / "questions.parquet")
    write_shard(folder / "shard.parquet", [rollout_of(["a\n\n"])])
    Manifest({"reasoner": {"name": "r", "fingerprint": "f"}, "step_rule": "blank_line"}, complete=True).save(folder)
    DmCard("a-dm", "f", "r", "blank_line", 0.9).save(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {**files, "questions.jsonl": GOOD_JSONL}


def use(name: str, path: Path) -> list[Rollout] | object:
    """Read a file the way the commands do."""
    if name == "shard.parquet":
        return read_rollouts(path.parent)
    if name == MANIFEST_NAME:
        return Manifest.load(path.parent)
    if name == CARD_NAME:
        return DmCard.load(path.parent)
    return load_questions(str(path))


@pytest.mark.parametrize("name", ["questions.jsonl", "questions.parquet", "shard.parquet", MANIFEST_NAME, CARD_NAME])
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_corrupted_files_give_errors_that_name_them(
    name: str, data: st.DataObject, good_files: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(corrupted(data, good_files[name]))
    loaded, said = None, str(tmp_path)
    try:
        loaded = use(name, path)
    except InputError as error:
        said = str(error)
    assert said.startswith(str(tmp_path))
    for reject in getattr(loaded, "rejects", []):
        assert (reject.source, reject.row >= 1, bool(reject.reason)) == (str(path), True, True)


def test_a_shard_whose_column_names_are_damaged_is_named(good_files: dict[str, bytes], tmp_path: Path) -> None:
    good = good_files["shard.parquet"]
    said = []
    for place in range(len(good) - 2000, len(good)):
        (tmp_path / "shard.parquet").write_bytes(good[:place] + b"\x80" + good[place + 1 :])
        try:
            read_rollouts(tmp_path)
        except InputError as error:
            said.append(str(error))
    assert len(said) > 500
    assert all(own.startswith(str(tmp_path)) for own in said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["distill", "nowhere.jsonl", "--out", "o", "--reasoner", "r"], "nowhere.jsonl"),
        (["distill", "q.jsonl", "--out", "o"], "--reasoner: is needed"),
        (["distill", "q.jsonl", "--out", "o", "--reasoner", "r", "--step-rule", "word"], "--step-rule"),
        (["distill", "q.jsonl", "--out", "o", "--reasoner", "r", "--grader", "no:such"], "--grader"),
        (["distill", "q.jsonl", "--out", "o", "--server", "http://127.0.0.1:9"], "--tokenizer: is needed"),
        (["distill", "q.jsonl", "--out", "o", "--server", "http://127.0.0.1:9", "--tokenizer", "t"], "--server: http"),
        (["train", "--data", "nowhere", "--backbone", "b", "--out", "o"], "nowhere: holds no behaviour records"),
        (["calibrate", "--dm", "nowhere", "--data", "d"], "nowhere: is no DM"),
        (["inspect", "nowhere"], "nowhere: is no DM"),
    ],
)
def test_commands_say_what_is_wrong(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    (tmp_path / "q.jsonl").write_bytes(GOOD_JSONL)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"drr {arguments[0]}: ")
    assert said in error
    assert "Traceback" not in error


def test_a_limit_below_one_and_broken_text_in_any_column_are_refused(tmp_path: Path) -> None:
    source = lines(
        tmp_path / "q.jsonl", {"question": "1+1?", "answer": 2, "family": "\ud83d"}, {"question": "2+2?", "answer": 4}
    )
    with pytest.raises(InputError, match="--limit"):
        load_questions(source, limit=0)
    loaded = load_questions(source)
    assert [own.text for own in loaded.questions] == ["2+2?"]
    assert (loaded.rejects[0].row, loaded.rejects[0].field) == (1, "family")

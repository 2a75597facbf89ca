"""Records are read as they were written, recorded solutions become records, and damaged files are named."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drr.errors import InputError
from drr.files import read_json_object
from drr.judge.dm_folder import CARD_NAME, DmCard
from drr.learn.distill_folder import close_folder, open_folder
from drr.learn.recorded import load_recorded, split_text
from drr.learn.records import MANIFEST_NAME, Manifest, Rollout, read_rollouts, set_aside_in, write_shard
from drr.learn.train_split import split_for_training
from drr.loop.steps import StepRule
from drr.tasks.grading_pool import Grading
from drr.tasks.rows import Reject
from drr.tasks.sources import load_questions
from tests.fakes import rollout_of
from tests.local_files import GOOD_JSONL, lines


def test_recorded_solutions_know_only_their_end(tmp_path: Path) -> None:
    source = lines(
        tmp_path / "s.jsonl",
        {"question": "a?", "gold": "3", "solution": "1+1=2\n2+1=3\nA: 3", "is_correct": True},
        {"question": "a?", "gold": "3", "solution": "A: 4", "is_correct": False},
        {"question": "a?", "gold": "3", "solution": "A: 4", "is_correct": "no"},
    )
    rollouts, rejects = load_recorded(source, StepRule("line"), Grading("auto"))
    assert [rollout.steps for rollout in rollouts] == [["1+1=2\n", "2+1=3\n", "A: 3"], ["A: 4"]]
    assert [rollout.now for rollout in rollouts] == [[None, None, True], [False]]
    assert [(rollout.sample, rollout.later, rollout.answer) for rollout in rollouts] == [
        (0, True, "A: 3"),
        (1, False, "A: 4"),
    ]
    assert [(reject.row, reject.field) for reject in rejects] == [(3, "is_correct")]
    graded = lines(tmp_path / "g.jsonl", {"question": "a?", "answer": "3", "solution": "The answer is 3."})
    assert load_recorded(graded, StepRule("line"), Grading("auto"))[0][0].later


def test_recorded_solutions_in_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes(
        '\ufeffquestion,gold,solution,is_correct\r\na?,3,"1+1=2\r\nA: 3",True\r\nA?,3,A: 4,false\r\n'.encode()
    )
    rollouts, rejects = load_recorded(str(path), StepRule("line"), Grading("auto"))
    assert [(rollout.later, rollout.sample, rollout.answer) for rollout in rollouts] == [
        (True, 0, "A: 3"),
        (False, 1, "A: 4"),
    ]
    assert not rejects


def test_recorded_solutions_are_not_what_their_first_row_says(tmp_path: Path) -> None:
    rows = [{"question": "a?", "solution": f"The answer is {n}.", "answer": "3"} for n in (3, 4)]
    source = lines(tmp_path / "s.jsonl", {"version": 1}, {"question": "b?", "solution": "A: 1"}, *rows)
    notes: list[str] = []
    rollouts, rejects = load_recorded(source, StepRule("line"), Grading("auto"), notes=notes)
    assert [rollout.later for rollout in rollouts] == [True, False]
    assert [(reject.row, reject.field) for reject in rejects] == [(1, "question"), (2, "answer")]
    (tmp_path / "s.json").write_text(json.dumps({"rows": rows}))
    load_recorded(str(tmp_path / "s.json"), StepRule("line"), Grading("auto"), notes=notes)
    assert notes == [f"{tmp_path / 's.json'}: the rows are those of the list 'rows'"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "is neither JSON nor JSON lines"),
        ({"question": "a?", "answer": "3"}, "no column is called solution or response"),
        ({"question": "a?", "answer": "3", "response": " "}, "its only row: row 1, field response: is empty"),
        ({"question": "a?", "response": "x", "correct": "maybe"}, "field correct: must be true or false, not 'maybe'"),
        ([5], "its only row: row 1: must be an object, not a number"),
    ],
)
def test_recorded_solutions_that_cannot_be_used_repeat_the_rows_reason(
    row: object, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=re.escape(reason)):
        load_recorded(lines(tmp_path / "s.jsonl", row, ""), StepRule("line"), Grading("auto"))


def test_counts_of_a_folder_are_of_questions_and_not_of_spellings(tmp_path: Path) -> None:
    manifest = open_folder(tmp_path, {"reasoner": {"name": "r", "fingerprint": "f"}, "step_rule": "line"})
    rollouts = [replace(rollout_of(["a"]), question="What is 1 +" + " " * n + "2?", sample=n) for n in range(1, 60)]
    rollouts[3].later = False
    write_shard(tmp_path / "0.parquet", [*rollouts, replace(rollout_of(["b"]), question="another?")])
    counts = close_folder(tmp_path, manifest, [Reject("f", n, "q", f"is the same as row {n}") for n in (1, 2)]).counts
    assert (counts["questions"], counts["mixed_questions"], counts["rollouts"]) == (2, 1, 60)
    assert counts["rejected_by_reason"] == {"q is the same as row …": 2}
    data = split_for_training(read_rollouts(tmp_path), 0.5)
    assert sorted(len({rollout.identity for rollout in part}) for part in (data.held_out, data.trained_on)) in (
        [0, 2],
        [1, 1],
    )


def test_a_damaged_shard_is_named_where_it_says_what_was_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "0.parquet"
    write_shard(path, [rollout_of(["a"])], [Reject("f", 1, "question", "is too long")])
    assert set_aside_in(path) == [Reject("f", 1, "question", "is too long")]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"0\.parquet: is not a readable Parquet file"):
        set_aside_in(path)


def test_a_card_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("\ufeff{}", encoding="utf-8")
    assert read_json_object(tmp_path / "a.json") == {}


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


def corrupted(data: st.DataObject, good: bytes) -> bytes:
    """`good` with some bytes overwritten, removed or inserted."""
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
    table = pa.table({"question": ["a?", "b?"], "answer": ["1", "2"]})
    for name, new in (("questions.arrow", pa.ipc.new_stream), ("questions.feather", pa.ipc.new_file)):
        with new(str(folder / name), table.schema) as writer:
            writer.write_table(table)
    write_shard(folder / "shard.parquet", [rollout_of(["a\n\n"])])
    Manifest({"reasoner": {"name": "r", "fingerprint": "f"}, "step_rule": "blank_line"}, complete=True).save(folder)
    DmCard("a-dm", "f", "r", "blank_line", 0.9).save(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    text = 'question,answer,choices\n1+1?,2,\n"a, b?",B,"[""x"", ""y""]"\n'
    rows = [json.loads(line) for line in GOOD_JSONL.splitlines()]
    return {
        **files,
        "questions.jsonl": GOOD_JSONL,
        "questions.csv": text.encode("utf-16"),
        "questions.json": json.dumps({"data": rows}).encode(),
        "questions.gz": gzip.compress(GOOD_JSONL, mtime=0),
    }


def use(name: str, path: Path) -> list[Rollout] | object:
    """Read a file the way the commands do."""
    if name == "shard.parquet":
        return read_rollouts(path.parent)
    if name == MANIFEST_NAME:
        return Manifest.load(path.parent)
    if name == CARD_NAME:
        return DmCard.load(path.parent)
    return load_questions(str(path))


QUESTION_FILES = [f"questions.{suffix}" for suffix in ("jsonl", "parquet", "csv", "json", "gz", "arrow", "feather")]


@pytest.mark.parametrize("name", [*QUESTION_FILES, "shard.parquet", MANIFEST_NAME, CARD_NAME])
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
    assert all(message.startswith(str(tmp_path)) for message in said)

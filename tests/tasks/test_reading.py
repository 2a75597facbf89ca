"""A file is read as what it is, whatever its name; a folder by its splits; the hub is asked for hub ids only."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drr.errors import InputError
from drr.tasks.questions import folded
from drr.tasks.reading import read_rows
from drr.tasks.sources import load_questions

ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "utf-8 with a mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16 little": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16 big": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-16 little without a mark": lambda text: text.encode("utf-16-le"),
    "utf-16 big without a mark": lambda text: text.encode("utf-16-be"),
    "utf-32 little": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
    "utf-32 big": lambda text: codecs.BOM_UTF32_BE + text.encode("utf-32-be"),
}
LINE_ENDS = ("\n", "\r\n", "\r")
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstandard": lambda data: zstandard(data),
    "gzip twice": lambda data: gzip.compress(gzip.compress(data), mtime=0),
}


def zstandard(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def separated(separator: str) -> Callable[[list[str], str], str]:
    def write(questions: list[str], end: str) -> str:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([["question", "answer"], *([question, "7"] for question in questions)])
        return text.getvalue()

    return write


def rows_of(questions: list[str]) -> list[dict[str, str]]:
    return [{"question": question, "answer": "7"} for question in questions]


TEXT_FORMATS: dict[str, Callable[[list[str], str], str]] = {
    "JSON lines": lambda questions, end: end.join(json.dumps(row, ensure_ascii=False) for row in rows_of(questions)),
    "escaped JSON lines": lambda questions, end: end.join(map(json.dumps, rows_of(questions))) + end,
    "JSON array": lambda questions, end: end.join(json.dumps(rows_of(questions), indent=1).split("\n")),
    "JSON object": lambda questions, _: json.dumps({"version": 1, "data": rows_of(questions)}),
    "CSV": separated(","),
    "CSV with semicolons": separated(";"),
    "TSV": separated("\t"),
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(folded)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    questions=st.lists(TEXTS, min_size=1, max_size=5, unique_by=folded),
    style=st.sampled_from(sorted(TEXT_FORMATS)),
    encoding=st.sampled_from(sorted(ENCODINGS)),
    end=st.sampled_from(LINE_ENDS),
    packing=st.sampled_from(sorted(PACKINGS)),
    name=st.sampled_from(["q.jsonl", "q.csv", "q.parquet", "q", "q.gz"]),
)
def test_any_question_reads_back_the_same(
    questions: list[str], style: str, encoding: str, end: str, packing: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(PACKINGS[packing](ENCODINGS[encoding](TEXT_FORMATS[style](questions, end))))
    loaded = load_questions(str(path))
    assert [(question.text, question.answer) for question in loaded.questions] == [(text, "7") for text in questions]
    assert not loaded.rejects


def parquet(sink: Any, table: pa.Table) -> None:
    pq.write_table(table, sink)


def arrow_file(sink: Any, table: pa.Table) -> None:
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def arrow_stream(sink: Any, table: pa.Table) -> None:
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    questions=st.lists(TEXTS, min_size=1, max_size=5, unique_by=folded),
    write=st.sampled_from([parquet, arrow_file, arrow_stream]),
    packing=st.sampled_from(sorted(PACKINGS)),
    name=st.sampled_from(["q.jsonl", "q.csv", "q.parquet", "q"]),
)
def test_any_question_reads_back_the_same_from_columns(
    questions: list[str], write: Callable[[Any, pa.Table], None], packing: str, name: str, tmp_path: Path
) -> None:
    sink = pa.BufferOutputStream()
    write(sink, pa.table({"question": questions, "answer": ["7"] * len(questions)}))
    (tmp_path / name).write_bytes(PACKINGS[packing](sink.getvalue().to_pybytes()))
    assert [question.text for question in load_questions(str(tmp_path / name)).questions] == questions


def written(path: Path, data: bytes | str) -> str:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


ROWS = '{"question": "1+1?", "answer": "2"}\n{"question": "1+2?", "answer": "3"}\n'


def test_a_mark_between_joined_files_loses_no_row(tmp_path: Path) -> None:
    loaded = load_questions(written(tmp_path / "q.jsonl", "\ufeff" + ROWS + '\ufeff{"question": "a?", "answer": "3"}'))
    assert (len(loaded.questions), loaded.rejects) == (3, [])


def test_the_list_that_was_taken_is_told(tmp_path: Path) -> None:
    rows = rows_of(["a?", "b?"])
    loaded = load_questions(written(tmp_path / "q.json", json.dumps({"tags": ["x"], "rows": rows})))
    assert loaded.told() == [f"{tmp_path / 'q.json'}: the rows are those of the list 'rows'"]
    with pytest.raises(InputError, match=r"several lists of rows \('train', 'test'\): put the one to read into a file"):
        load_questions(written(tmp_path / "q.json", json.dumps({"train": rows, "test": rows})))
    one = {"question": "a?", "answer": "1", "turns": [{"role": "user"}]}
    assert load_questions(written(tmp_path / "q.json", json.dumps(one, indent=1))).questions[0].text == "a?"


def test_csv_cells_are_text_and_may_hold_line_ends_and_quotes(tmp_path: Path) -> None:
    source = written(tmp_path / "q.csv", 'question,answer,note\r\n"a\r\n""b"", c?",007,\r\n\r\nd?,60.10,"x,y"\r\n')
    loaded = load_questions(source)
    assert [(q.text, q.answer, q.row) for q in loaded.questions] == [('a\r\n"b", c?', "007", 1), ("d?", "60.10", 2)]


def test_a_csv_cell_may_hold_lines_of_json(tmp_path: Path) -> None:
    text = 'What does this print?\n{"question": "x?"}\n[1]'
    source = written(tmp_path / "q.csv", 'question,answer\n"' + text.replace('"', '""') + '",1\nb?,2\nc?,3\n')
    assert texts(source) == [text, "b?", "c?"]


def test_a_csv_cell_may_be_long(tmp_path: Path) -> None:
    text = "word " * 100_000
    assert load_questions(written(tmp_path / "q.csv", f"question,answer\n{text},1\n")).questions[0].text == text


def test_a_csv_file_of_questions_only(tmp_path: Path) -> None:
    source = written(tmp_path / "q.csv", "Question\nWhat, if anything?\n")
    assert [row.number for row in read_rows(source).rows] == [1]
    loaded = load_questions(written(tmp_path / "q.csv", "Question\nWho?\n"), need_answer=False)
    assert [question.text for question in loaded.questions] == ["Who?"]


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        (b"question,answer\na?,1\nb?\nc?,3\n", [(2, "has 1 cells, the header has 2")]),
        (b"question,answer\na?,1\nb?,2,2\nc?,3\n", [(2, "has 3 cells, the header has 2")]),
        (b"question,answer\na?,1\ncaf\xe9?,2\nc?,3\n", [(2, "is not UTF-8 text")]),
        (b'question,answer\na?,1\n"b"b?,2\nc?,3\n', [(2, "is not CSV: ',' expected after '\"' (line 3)")]),
        (ROWS.encode() + b'{"question": "caf\xe9?", "answer": 1}\n', [(3, "is not UTF-8 text")]),
        (ROWS.encode() + b'{"question": "a?", "answer": 1\n', [(3, "is not JSON")]),
        (ROWS.encode() + b'{"question": "a?", "answer": 1}}\n', [(3, "is not JSON")]),
        (ROWS.encode() + b"[" * 100_000 + b"\n", [(3, "is not JSON")]),
        (ROWS.encode() + b"\0\0\0\n", [(3, "is not JSON")]),
        (
            b'[{"question": "a?", "answer": 1}, 5, {"question": "b?", "answer": 2}]',
            [(2, "must be an object, not a number")],
        ),
        (
            b'[{"question": "a?", "answer": 1}, {"question": "\xff", "answer": 1}, {"question": "b?", "answer": 2}]',
            [(2, "is not valid text")],
        ),
    ],
)
def test_a_broken_row_is_set_aside_and_the_others_are_read(
    data: bytes, reasons: list[tuple[int, str]], tmp_path: Path
) -> None:
    loaded = load_questions(written(tmp_path / "q", data))
    assert len(loaded.questions) == 2
    assert [(reject.row, reject.reason[: len(reasons[0][1])]) for reject in loaded.rejects] == reasons


def test_a_quote_that_is_never_closed_says_what_it_swallows(tmp_path: Path) -> None:
    loaded = load_questions(written(tmp_path / "q.csv", 'question,answer\na?,1\n"b?,2\nc?,3\n'))
    assert [(reject.row, reject.reason) for reject in loaded.rejects] == [
        (2, "has a quote in line 3 that is never closed: everything from there on is set aside")
    ]


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def parquet_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


GOOD_TABLE = pa.table({"question": ["a?", "b?"], "answer": ["1", "2"]})
TWINS = pa.table([pa.array(["a?"]), pa.array(["b?"])], names=["question", "question"])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b" \r\n\t\n", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (b"[]", "is an empty list"),
        (b'\xff\xfe{\0"', "is not UTF-16-LE text as its first bytes say"),
        (truncated(gzip.compress(ROWS.encode(), mtime=0)), "is a damaged gzip file"),
        (gzip.compress(ROWS.encode(), mtime=0) + b"rubbish", "is a damaged gzip file"),
        (truncated(bz2.compress(ROWS.encode())), "is a damaged bzip2 file"),
        (truncated(lzma.compress(ROWS.encode())), "is a damaged xz file"),
        (truncated(parquet_bytes(GOOD_TABLE)), "is not a readable Parquet file"),
        (b"PAR1", "is not a readable Parquet file"),
        (b"ARROW1\0\0", "is not a readable Arrow file"),
        (parquet_bytes(TWINS), "field question: there are two columns of this name"),
        (parquet_bytes(GOOD_TABLE.slice(0, 0)), "holds no rows"),
        (b"question,question\na,b\n", "field question: there are two columns of this name"),
        (b"question,answer\n", "holds no row"),
        (b"PK\x03\x04\x14\0", "is a ZIP archive or a spreadsheet"),
        (b"%PDF-1.7\n", "is a PDF document"),
        (b"\x80\x04\x95\x10\0", "is a pickle, which is never loaded"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer, not the data"),
        (b"<!DOCTYPE html><html>", "is a web page, not the data"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is neither JSON, JSON lines, CSV, TSV nor Parquet"),
        (b"\x00\x01,\x02\xff\n\x03,\x04\n", "is no text, nor of another format that is known"),
        (b"just a sentence\nand another\n", "is neither JSON, JSON lines, CSV, TSV nor Parquet"),
        (b'"text"', "is neither JSON, JSON lines, CSV, TSV nor Parquet"),
        (b'[{"question": "a?", "answer": 1},\n {"question"', "is neither JSON nor JSON lines"),
        (b'{"question": ["a?"], "answer": ["1"]}', "row 1, field question: must be text, not a list"),
    ],
)
@pytest.mark.parametrize("name", ["q.jsonl", "q.parquet", "q.gz", "q"])
def test_what_cannot_be_read_is_one_sentence_that_names_the_file(
    data: bytes, reason: str, name: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        load_questions(written(tmp_path / name, data))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def folder_of(root: Path, **files: str) -> str:
    for name, question in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"question": question, "answer": 1}) + "\n")
    return str(root)


def texts(source: str) -> list[str]:
    return [question.text for question in load_questions(source).questions]


def test_folders_by_split(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "set",
        train_DOT_jsonl="train?",
        dev_DOT_jsonl="dev?",
        socratic_DOT_json="other?",
        dataset_info_DOT_json="no data?",
        _DOT_hidden__train_DOT_jsonl="hidden?",
    )
    pq.write_table(pa.table({"question": ["test?"], "answer": [1]}), tmp_path / "set" / "test-00000-of-00001.parquet")
    Path(folder, "README.md").write_text("about")
    for split, found in {
        "": "train?",
        "::train": "train?",
        "::dev": "dev?",
        "::validation": "dev?",
        "::test": "test?",
        "::socratic": "other?",
    }.items():
        assert texts(folder + split) == [found]
    assert load_questions(folder).told() == [f"{folder}: train: train.jsonl"]
    with pytest.raises(InputError, match="has no split 'exam'; there are validation, socratic, test, train"):
        load_questions(folder + "::exam")
    with pytest.raises(InputError, match="has no configuration 'main'; there are none"):
        load_questions(folder + ":main")


def test_folders_by_configuration_relative_and_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(
        tmp_path / "set", main__train_DOT_jsonl="main?", main__test_DOT_jsonl="test?", socratic__train_DOT_jsonl="soc?"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (folder, "./set", "set", "~/set", "../" + tmp_path.name + "/set"):
        assert texts(f"{place}:main") == ["main?"]
        assert texts(f"{place}:main:test") == ["test?"]
        assert texts(f"{place}:socratic:train") == ["soc?"]
    with pytest.raises(InputError, match=r"has several configurations: name one of main, socratic as .*set:NAME"):
        load_questions(folder)
    with pytest.raises(InputError, match=r"has no configuration '\.\.'"):
        load_questions(folder + ":..")


def test_shards_of_one_split_are_read_in_order_and_rows_keep_their_file(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path, data__train_00001_DOT_jsonl="b?", data__train_00000_DOT_jsonl="a?", train__x_DOT_jsonl="A ?"
    )
    Path(folder, "train", "y.jsonl").write_text('{"question": "B?", "answer": 2}\n')
    loaded = load_questions(folder)
    assert [question.text for question in loaded.questions] == ["a?", "b?", "A ?"]
    assert [Path(question.source).name for question in loaded.questions] == [
        "train_00000.jsonl",
        "train_00001.jsonl",
        "x.jsonl",
    ]
    first = tmp_path / "data" / "train_00001.jsonl"
    assert [(reject.source, reject.row, reject.reason) for reject in loaded.rejects] == [
        (f"{tmp_path}/train/y.jsonl", 1, f"is the same question as row 1 of {first}, with another answer: '2', not '1'")
    ]


def test_folders_with_one_split_or_none(tmp_path: Path) -> None:
    assert texts(folder_of(tmp_path / "a", all_DOT_jsonl="all?")) == ["all?"]
    assert texts(folder_of(tmp_path / "b", test_DOT_jsonl="test?")) == ["test?"]
    assert texts(folder_of(tmp_path / "c", main__all_DOT_jsonl="main?")) == ["main?"]
    assert texts(folder_of(tmp_path / "a:b", all_DOT_jsonl="colon?")) == ["colon?"]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "notes.md").write_text("no data")
    with pytest.raises(InputError, match="d: holds no data files"):
        load_questions(str(tmp_path / "d"))
    with pytest.raises(InputError, match=r"all.jsonl is a file: it has no configurations or splits"):
        load_questions(f"{tmp_path}/a/all.jsonl:main")


def test_a_saved_hugging_face_dataset_is_a_folder(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"question": ["a?"], "answer": [60.1]}).cast_column(
        "answer", datasets.Value("float32")
    )
    table.save_to_disk(tmp_path / "set")
    assert [question.answer for question in load_questions(str(tmp_path / "set")).questions] == ["60.1"]


NEVER_ON_THE_HUB = [
    "nowhere.jsonl",
    "nowhere.JSONL",
    "nowhere.jsonl.gz",
    "data/nowhere.parquet",
    "nowhere.csv:main:train",
    "./nowhere",
    "../nowhere",
    "/nowhere",
    "~/nowhere",
    "~nobody/nowhere",
    "a/b/c",
    "nowhere/",
    "no where",
    "nowhere.xlsx",
    "x" * 5000 + ".json",
    "arithmetic:x",
    "arithmetic:0",
    "arithmetic",
]


@pytest.mark.parametrize("source", NEVER_ON_THE_HUB)
def test_what_is_clearly_a_file_is_never_asked_of_the_hub(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", asked)
    monkeypatch.setattr(datasets, "load_dataset", asked)
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_questions(source)
    assert caught.value.where == source
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("source", ["nobody/nothing", "nothing", "nobody/nothing.v2:main:test"])
def test_a_hub_that_cannot_be_reached_is_told_at_once(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_questions(source)
    assert str(caught.value) == (
        f"{source}: there is no such file or folder, and no such dataset can be loaded: the Hugging Face hub cannot be "
        "reached (no route), and no copy is cached"
    )
    assert time.monotonic() - started < 5
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_dataset_of_the_hub_is_read_as_exactly_as_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def load(name: str, config: str | None, *, split: str) -> datasets.Dataset:
        calls.append((name, config, split))
        rows = datasets.Dataset.from_dict({"question": ["a?"], "answer": [60.1]})
        return rows.cast_column("answer", datasets.Value("float32"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    for source in ("openai/gsm8k", "openai/gsm8k:main:test"):
        assert [question.answer for question in load_questions(source).questions] == ["60.1"]
    assert calls == [("openai/gsm8k", None, "train"), ("openai/gsm8k", "main", "test")]

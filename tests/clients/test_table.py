"""What real clients saw: as rows, as a table, and against the record of an earlier run."""

from pathlib import Path

import pytest

from clients.real import results as records
from clients.real.results import Result, broken
from clients.real.table import HEADINGS, markdown, rich_table, rows
from tests.clients.seen import seen


def results() -> list[Result]:
    thinking = {"choices[0].message.reasoning": "all of it", "choices[0].message.fields.reasoning": "all of it"}
    full = seen(
        thinking=thinking, account={"drr": "sure"}, header="{}", usage={"completion": 9, "reasoning": 5}, facts={}
    )
    part = seen(
        thinking={"choices[0].message.reasoning": "it"},
        usage={"completion": 5, "reasoning": 9},
        facts={"thinking_length": 9},
    )
    return [
        Result("a", "1", "create", "plain", seen=full),
        Result("a", "1", "create", ":drr", seen={**full, "account": {}, "header": None}),
        Result("a", "1", "create", "object", cannot="no extra fields"),
        Result("a", "1", "create", "abstain", seen=seen(refusal={"choices[0].message.refusal": "no"}, right=None)),
        Result("a", "1", "stream", "plain", seen=part),
        Result("a", "1", "stream", ":drr", error="IndexError: list index | out of range"),
        Result("a", "1", "stream", ":full", error="IndexError: list index | out of range"),
        Result("a", "1", "stream", "object", seen=seen(content="It is 37.", right=False)),
        Result("a", "1", "stream", "abstain", error="ValidationError: no JSON"),
        Result("a", "1", "models.list", "plain", seen={"content": None, "facts": {"models": ["m"]}}),
    ]


def test_a_row_says_what_works_and_where_everything_is() -> None:
    created, streamed, listed = rows(results())
    assert created == (
        "a 1",
        "`create`",
        "yes; object cannot be sent",
        "`message.reasoning`",
        "`drr`, header (plain); no (:drr)",
        "yes",
        "`message.refusal`",
    )
    assert streamed[2] == "plain; :drr, :full: IndexError; object: wrong answer"
    assert streamed[3:] == (
        "`message.reasoning`, only the last piece",
        "no",
        "wrong: 9 of 5 are reasoning",
        "ValidationError",
    )
    assert listed == ("a 1", "`models.list`", "yes", "", "", "", "")


def test_usage_that_was_not_asked_for_is_not_missing() -> None:
    asked, streamed = seen(facts={}), seen(facts={"usage_asked": False})
    rows_ = rows([Result("a", "1", "create", "plain", seen=asked), Result("a", "1", "stream", "plain", seen=streamed)])
    assert [row[5] for row in rows_] == ["no", "not asked for"]


def test_the_table_as_markdown_and_on_a_terminal() -> None:
    text = markdown(results(), {"b": "node and npm were not found"})
    assert text.splitlines()[0] == f"| {' | '.join(HEADINGS)} |"
    assert all(line.count("|") == len(HEADINGS) + 1 for line in text.splitlines()[:5])
    assert text.endswith("b was skipped: node and npm were not found.")
    assert rich_table(results()).row_count == 3


def test_what_worked_and_fails_now_is_told() -> None:
    now = results()
    before = [
        Result("a", "0", call, variant, seen=seen()) for call in ("create", "stream") for variant in ("plain", ":drr")
    ]
    before += [Result("a", "0", "parse", "plain", seen=seen()), Result("b", "0", "create", "plain", seen=seen())]
    before += [Result("a", "0", "stream", ":full", error="IndexError: it never worked")]
    assert broken(now, before) == [
        "a, stream, :drr worked before and does not now: IndexError: list index | out of range",
        "a, parse, plain worked before and does not now: it was not tried",
    ], "b did not run, and stream :full never worked"


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    records.write(tmp_path / "record.json", results(), {"b": "why"})
    assert records.read(tmp_path / "record.json") == results()
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(ValueError, match=r"none\.json is no record of clients"):
        records.read(tmp_path / "none.json")

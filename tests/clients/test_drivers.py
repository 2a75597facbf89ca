"""Drivers of real clients: what they note and how they report it."""

import json
from pathlib import Path
from typing import Any

import pytest

from clients.real.drivers import common
from clients.real.drivers.common import CannotSendError, Job, Seen, Variant, drive, says
from clients.real.results import Result
from clients.real.run import variants

JOB = Job(
    "http://server", [("What is 30 + 6?", "36")], [Variant("plain", "m"), Variant("no", "m", refuses=True)], 9, ""
)


def test_what_arrives_is_noted_by_place_and_joined_over_chunks() -> None:
    noted = Seen()
    noted.add({"choices": [{"delta": {"reasoning": "think "}}], "drr": {"step": {"index": 0}}}, "chunk")
    noted.add({"choices": [{"delta": {"reasoning": "more", "refusal": "no"}}]}, "chunk")
    noted.add({"choices": [{"delta": {"drr": {"stop_cause": "sure", "reasoning": "x"}}}]}, "chunk")
    assert noted.thinking == {"chunk.choices[0].delta.reasoning": "think more"}
    assert noted.account == {"chunk.choices[0].delta.drr": "sure"}, "a step alone is no account"
    assert noted.refusal == {"chunk.choices[0].delta.refusal": "no"}


def test_usage_is_completion_and_reasoning() -> None:
    noted = Seen()
    noted.count({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 5}})
    assert noted.usage == {"completion": 9, "reasoning": 5}
    noted.count(None)
    assert noted.usage == {"completion": 9, "reasoning": 5}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("The answer is 36.", True),
        ("12 + 24 = 36", True),
        ("36 is not it, 37 is", False),
        ("none", False),
        ("-36", False),
    ],
)
def test_the_last_number_is_the_answer(text: str, right: bool) -> None:
    assert says(text, "36") is right


def driven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any, job: Job = JOB) -> list[dict[str, Any]]:
    (tmp_path / "job.json").write_text(json.dumps(job, default=vars))
    out = tmp_path / "seen.json"
    monkeypatch.setattr("sys.argv", ["driver", str(tmp_path / "job.json"), str(out)])
    drive("a-client", "1.0", lambda _: {"create": call})
    rows: list[dict[str, Any]] = json.loads(out.read_text())
    return rows


def test_a_driver_reports_every_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, refusing = driven(tmp_path, monkeypatch, lambda variant: Seen(content="It is 37."))
    assert (plain["client"], plain["version"], plain["call"], plain["variant"]) == (
        "a-client",
        "1.0",
        "create",
        "plain",
    )
    assert plain["seen"]["right"] is False
    assert refusing["seen"]["right"] is None, "a refusal is no answer"
    _, answering = driven(tmp_path, monkeypatch, lambda variant: Seen(content="It is 36."))
    assert answering["seen"]["right"] is False, "an answer is no refusal"


class RefusedError(Exception):
    def __init__(self, body: Any) -> None:
        super().__init__("raw")
        self.status_code, self.body = 400, body


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (IndexError("list index\nout of range"), "IndexError: list index out of range"),
        (RefusedError({"message": "drr: no", "param": "drr"}), "RefusedError 400: drr: no"),
        (RefusedError({"error": {"message": "drr: no"}}), "RefusedError 400: drr: no"),
        (RefusedError(None), "RefusedError 400: raw"),
    ],
)
def test_what_a_client_raises_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fail(variant: Variant) -> Seen:
        raise error

    assert driven(tmp_path, monkeypatch, fail)[0]["error"] == told


def test_what_a_client_cannot_send_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(variant: Variant) -> Seen:
        raise CannotSendError("no extra fields")

    row = driven(tmp_path, monkeypatch, cannot)[0]
    assert row["cannot"] == "no extra fields"
    assert Result(**row).trouble is None


def test_listing_models_is_asked_only_where_it_differs() -> None:
    own = variants("m")
    assert [variant.name for variant in own if variant.listed(own[0])] == ["plain", "header"]


def test_drivers_need_nothing_of_the_project_but_each_other() -> None:
    for path in Path(common.__file__).parent.glob("*.py"):
        imported = [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        own = [line for line in imported if line.split()[1].split(".")[0] in ("drr", "server", "clients", "benchmarks")]
        assert all(line.startswith("from clients.real.drivers.common import") for line in own), path

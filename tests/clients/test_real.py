"""The script that asks with real clients: what it notes, how it tells it, and what it takes for a failure."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clients.real import __main__ as script
from clients.real import environment as environments
from clients.real import results as records
from clients.real.drivers import common
from clients.real.drivers.common import CannotSendError, Job, Seen, Variant, drive, says
from clients.real.environment import CLIENTS, Client, Environment
from clients.real.results import Result, broken
from clients.real.run import QUESTIONS, run, variants
from clients.real.table import HEADINGS, markdown, rich_table, rows

JOB = Job(
    "http://server", [("What is 30 + 6?", "36")], [Variant("plain", "m"), Variant("no", "m", refuses=True)], 9, ""
)


def seen(**fields: Any) -> dict[str, Any]:
    return {"content": "The answer is 36.", "right": True, **fields}


def test_what_arrives_is_noted_by_place_and_joined_over_chunks() -> None:
    noted = Seen()
    noted.add({"choices": [{"delta": {"reasoning": "think "}}], "drr": {"step": {"index": 0}}}, "chunk")
    noted.add({"choices": [{"delta": {"reasoning": "more", "refusal": "no"}}]}, "chunk")
    noted.add({"choices": [{"delta": {"drr": {"stop_cause": "dm_stop", "reasoning": "x"}}}]}, "chunk")
    assert noted.thinking == {"chunk.choices[0].delta.reasoning": "think more"}
    assert noted.account == {"chunk.choices[0].delta.drr": "dm_stop"}, "a step alone is no account"
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


def results() -> list[Result]:
    thinking = {"choices[0].message.reasoning": "all of it", "choices[0].message.fields.reasoning": "all of it"}
    full = seen(
        thinking=thinking, account={"drr": "dm_stop"}, header="{}", usage={"completion": 9, "reasoning": 5}, facts={}
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


PYTHON, NODE = CLIENTS[0], next(client for client in CLIENTS if client.node)


def install(monkeypatch: pytest.MonkeyPatch, fails: Any) -> list[list[str]]:
    """Stand in for pip and npm; `fails(command)` is what one says before it fails, or None."""
    commands: list[list[str]] = []

    def run_command(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        commands.append(command)
        said = fails(command)
        return subprocess.CompletedProcess(command, 0 if said is None else 1, stdout="", stderr=said or "")

    monkeypatch.setattr(environments.subprocess, "run", run_command)
    monkeypatch.setattr(environments.shutil, "which", lambda name: f"/bin/{name}")
    return commands


def test_the_environment_has_the_drivers_and_nothing_else_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = install(monkeypatch, lambda command: None)
    own = Environment(tmp_path / "own")
    assert own.prepare(CLIENTS) == {}
    copied = {str(path.relative_to(own.code)) for path in own.code.rglob("*") if path.is_file()}
    assert {f"clients/real/drivers/{client.driver}" for client in CLIENTS} <= copied
    assert copied.isdisjoint({"clients/real/environment.py", "clients/stream.py"})
    pip = next(command for command in commands if "pip" in command)
    assert "openai==" in " ".join(pip)
    assert all("==" in line for line in pip[pip.index("-q") + 1 :]), "every version is pinned"


def test_a_package_that_cannot_be_installed_is_skipped_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_litellm(command: list[str]) -> str | None:
        if "npm" in command[0]:
            return "npm ERR! no network"
        return "ERROR: nothing matches\nnotice" if any("litellm" in word for word in command) else None

    install(monkeypatch, no_litellm)
    missing = Environment(tmp_path).prepare(CLIENTS)
    assert set(missing) == {"litellm", "openai-node"}
    assert missing["litellm"].endswith("cannot be installed: ERROR: nothing matches")
    assert missing["openai-node"] == "npm install failed: npm ERR! no network"


def test_without_node_only_the_node_client_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda command: None)
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    assert Environment(tmp_path).prepare(CLIENTS) == {NODE.name: "node and npm were not found"}


def test_a_client_runs_without_what_other_set_ups_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere")
    monkeypatch.setenv("KEPT", "1")
    own = Environment(tmp_path)
    variables = own.variables(PYTHON)
    assert "OPENAI_BASE_URL" not in variables
    assert variables["KEPT"] == "1"
    assert variables["HOME"].startswith(str(tmp_path))


class Shell(Environment):
    """An environment whose every driver is a shell command."""

    def __init__(self, folder: Path, script: str) -> None:
        super().__init__(folder)
        self._script = script

    def command(self, client: Client) -> list[str]:
        return ["sh", "-c", self._script, "sh"]


def test_a_driver_that_dies_is_a_result(tmp_path: Path) -> None:
    died = run(PYTHON, Shell(tmp_path, "echo gone wrong >&2; exit 3"), "http://server", "m")
    assert [(own.client, own.error) for own in died] == [(PYTHON.name, "gone wrong")]
    row = json.dumps([{"client": PYTHON.name, "version": "1", "call": "create", "variant": "plain", "seen": seen()}])
    assert run(PYTHON, Shell(tmp_path, f"echo '{row}' > $2"), "http://server", "m")[0].works
    silent = run(PYTHON, Shell(tmp_path, "exit 3"), "http://server", "m")
    assert silent[0].error == "exit status 3", "what an earlier run wrote is not taken for this one's"


def test_a_job_reaches_the_driver_whole(tmp_path: Path) -> None:
    run(PYTHON, Shell(tmp_path, "exit 0"), "http://server", "m")
    job = Job.from_json((Environment(tmp_path).work(PYTHON) / "job.json").read_text())
    assert (job.url, job.question) == ("http://server/v1", QUESTIONS[0][0])
    assert job.variants == variants("m")


class Ready(Environment):
    """An environment in which nothing has to be installed and every call answers as told."""

    answer = seen()

    def prepare(self, clients: Any) -> dict[str, str]:
        return {NODE.name: "node and npm were not found"}


def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str, **answer: Any) -> int:
    """The script's exit status, with the clients' answers standing in."""
    monkeypatch.setattr(script, "Environment", Ready)
    monkeypatch.setattr(script, "RECORD", tmp_path / "no record")
    monkeypatch.setattr(
        script.httpx, "get", lambda url: script.httpx.Response(200, request=script.httpx.Request("GET", url))
    )
    monkeypatch.setattr(
        script, "run", lambda client, *_: [Result(client.name, "1", "create", "plain", seen=seen(**answer))]
    )
    return script.main(["--environment", str(tmp_path), "--url", "http://server/v1/", *options])


def test_the_script_writes_its_record_and_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme, record = tmp_path / "README.md", tmp_path / "record.json"
    readme.write_text("before\n<!-- clients: written by hand -->\nold\n<!-- end of clients -->\nafter\n")
    assert ask(tmp_path, monkeypatch, "--json", str(record), "--write", str(readme), "--client", "llm") == 0
    text = readme.read_text()
    assert "| llm 1 |" in text
    assert "old" not in text
    assert text.startswith("before\n<!-- clients: written by python -m clients.real -->\n")
    assert [result.client for result in records.read(record)] == ["llm"]
    assert ask(tmp_path, monkeypatch, "--before", str(record)) == 0
    assert ask(tmp_path, monkeypatch, "--before", str(record), right=False) == 1


def test_what_cannot_be_written_or_reached_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("no section")
    assert ask(tmp_path, monkeypatch, "--write", str(tmp_path / "README.md")) == 2
    assert "has no section clients" in capsys.readouterr().out
    assert ask(tmp_path, monkeypatch, "--before", str(tmp_path / "README.md")) == 2
    assert "is no record of clients" in capsys.readouterr().out
    monkeypatch.undo()
    assert script.main(["--environment", str(tmp_path), "--url", "http://127.0.0.1:9"]) == 2
    assert "http://127.0.0.1:9: " in capsys.readouterr().out


def test_the_record_beside_the_script_is_what_it_compares_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = records.read(script.RECORD)
    assert {result.client for result in recorded} == {client.name for client in CLIENTS}
    assert all(result.works for result in recorded if result.variant == "plain")
    assert script._parser().parse_args(["--environment", "x"]).before == script.RECORD


def test_drivers_need_nothing_of_the_project_but_each_other() -> None:
    for path in Path(common.__file__).parent.glob("*.py"):
        imported = [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        own = [line for line in imported if line.split()[1].split(".")[0] in ("drr", "server", "clients", "benchmarks")]
        assert all(line.startswith("from clients.real.drivers.common import") for line in own), path

"""The clients' own environment, and the script that runs them in it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clients.real import __main__ as script
from clients.real import environment as environments
from clients.real import results as records
from clients.real.drivers.common import Job
from clients.real.environment import CLIENTS, Client, Environment
from clients.real.results import Result
from clients.real.run import QUESTIONS, run, variants
from tests.clients.seen import seen

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

"""The `drr` command: its version, its error messages, and commands of other packages."""

import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

from drr.cli.main import PLUGIN_GROUP, main
from tests.local_files import GOOD_JSONL


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["distill", "nowhere.jsonl", "--out", "o", "--reasoner", "r"], "nowhere.jsonl"),
        (["distill", "q.jsonl", "--out", "o"], "--reasoner: is needed"),
        (["distill", "q.jsonl", "--out", "o", "--reasoner", "r", "--step-rule", "word"], "--step-rule"),
        (["distill", "q.jsonl", "--out", "o", "--reasoner", "r", "--grader", "no:such"], "--grader"),
        (["distill", "q.jsonl", "--out", "o", "--server", "http://127.0.0.1:9"], "--tokenizer: is needed"),
        (["distill", "q.jsonl", "--out", "o", "--server", "http://127.0.0.1:9", "--tokenizer", "t"], "--server: http"),
        (
            ["train", "--data", "nowhere", "--kind", "text", "--backbone", "b", "--out", "o"],
            "nowhere: holds no behaviour records",
        ),
        (["calibrate", "--dm", "nowhere", "--data", "d"], "--dm: there is no folder nowhere"),
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


def test_the_versions_of_drr_and_vllm_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"drr \d+\.\d+\.\d+ \(vllm \d+\.\d+\S*\)\n", capsys.readouterr().out)


def test_commands_of_other_packages_get_their_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (entry_point,) = entry_points(group=PLUGIN_GROUP, name="serve")
    assert entry_point.value == "server.launch:main"
    monkeypatch.setattr(EntryPoint, "load", lambda self: lambda arguments: len(arguments))
    assert main(["serve", "--model", "m"]) == 2
    monkeypatch.setattr("drr.cli.main.entry_points", lambda **_: ())
    assert main(["serve"]) == 2
    assert "drr serve: not installed" in capsys.readouterr().err

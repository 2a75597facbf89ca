"""Benchmarks that cannot be run say so in one sentence."""

import re
from pathlib import Path

import pytest

from benchmarks import load
from benchmarks.beside_vllm import _measured
from drr.errors import InputError

_ANSWERS = re.compile(r"guarded\(|parser\.error\(str\(error\)\)|return run\(parser|launch\.main\(")
FOLDER = Path(load.__file__).parent


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nowhere", "http://nowhere.invalid"])
def test_a_server_that_is_not_there_is_one_sentence(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert load.main(["--url", url, "--clients", "1", "--questions", "arithmetic:10"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"benchmarks.load: the server at {url}")
    assert told.count("\n") == 1


def test_an_empty_report_replaces_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no measurements to report"):
        _measured(tmp_path)


def test_every_benchmark_answers_for_its_errors() -> None:
    for path in sorted(FOLDER.glob("*.py")):
        text = path.read_text()
        if "__main__" in text:
            assert re.search(r"guarded\(|parser\.error\(str\(error\)\)|return run\(parser|launch\.main\(", text), (
                path.name
            )

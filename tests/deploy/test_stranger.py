"""The stranger's walk, with a `make serve` of a few lines."""

from pathlib import Path

import pytest

from scripts import stranger

SERVE = """\
serve:
\t@echo "Setting up"
\t@echo "Set up in 3 s. Later starts install nothing."
\t@echo "The playground is at http://127.0.0.1:1/ARGS-$(ARGS)/" | tr -d ' '
\t@echo "The playground is at http://127.0.0.1:1/"
\t@exec sleep 60
"""


def test_the_address_is_what_make_serve_names(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(SERVE)
    walk = stranger.Walk()
    with stranger.served(walk, tmp_path) as address:
        assert address == "http://127.0.0.1:1/"
    assert list(walk.seconds) == ["`make serve`, the set-up", "`make serve`, the start"]
    assert walk.commands == 1
    assert any("Set up in 3 s" in line for line in walk.said)
    assert any("ARGS---port" in line for line in walk.said), "a port of its own"


def test_a_make_serve_that_ends_is_told_with_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("serve:\n\t@echo no room left\n\t@exit 3\n")
    with pytest.raises(RuntimeError, match="no room left"), stranger.served(stranger.Walk(), tmp_path):
        pass


def test_the_clone_has_what_is_committed(tmp_path: Path) -> None:
    walk = stranger.Walk()
    stranger.clone(walk, tmp_path / "clone")
    assert (tmp_path / "clone" / "Makefile").exists()
    assert walk.seconds["clone"] > 0


def test_the_report_adds_up() -> None:
    walk = stranger.Walk({"a": 61.0, "b": 2.25}, commands=2, clicks=1, keys=1, load=3.4, headline="Sure.", told="So.")
    told = stranger.report(walk)
    assert "| a | 1 min 1 s |" in told
    assert "| b | 2.2 s |" in told
    assert "| in all | 1 min 3 s |" in told
    assert "load average of 3" in told
    assert told.endswith("“Sure. So.”")


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").touch()
    assert stranger.main([str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().err

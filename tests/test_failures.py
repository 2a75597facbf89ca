"""Errors become one sentence, whatever the command; the rest goes into a log file."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pydantic
import pytest

from drr.checks import check_file, check_out_folder, check_range, check_url
from drr.errors import InputError, without_headline
from drr.failures import guarded, in_one_sentence

ROOT = Path(__file__).parents[1]
REQUEST = httpx.Request("GET", "http://h/v1")


def raising(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


def hub_error() -> BaseException:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return OfflineModeIsEnabled("Cannot reach the hub: offline mode is on\nmore")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("--seed", "must be at least 0, not -1"), 2, "--seed: must be at least 0, not -1"),
        (FileNotFoundError(errno.ENOENT, "x", "a/b"), 1, "a/b: there is no such file or folder"),
        (PermissionError(errno.EACCES, "x", "a/b"), 1, "a/b: may not be read or written (permission denied)"),
        (IsADirectoryError(errno.EISDIR, "x", "a"), 1, "a: is a folder, not a file"),
        (NotADirectoryError(errno.ENOTDIR, "x", "a/b"), 1, "a/b: cannot be reached: a part of the path is a file"),
        (OSError(errno.ENOSPC, "x", "a"), 1, "a: cannot be written: the disk is full"),
        (OSError(errno.ENOSPC, "x"), 1, "cannot be written: the disk is full"),
        (OSError(errno.EROFS, "x", "a"), 1, "a: cannot be written: the file system is read-only"),
        (OSError(errno.EMFILE, "x", "a"), 1, "a: cannot be opened: too many files are open"),
        (OSError(errno.EIO, "Input/output error", "a"), 1, "a: Input/output error"),
        (MemoryError(), 1, "memory is used up"),
        (ModuleNotFoundError("no", name="matplotlib.pyplot"), 1, "the package matplotlib is not installed"),
        (httpx.ConnectError("refused", request=REQUEST), 1, "the server at http://h/v1 cannot be reached: refused"),
        (httpx.ConnectTimeout("timed out"), 1, "the server cannot be reached: timed out"),
        (openai.APIConnectionError(request=REQUEST), 1, "the server at http://h/v1 cannot be reached: Connection"),
        (
            openai.NotFoundError("404", response=httpx.Response(404, request=REQUEST), body={"message": "no model x"}),
            1,
            "the server at http://h/v1 answered 404: no model x",
        ),
        (hub_error(), 1, "the hub: Cannot reach the hub: offline mode is on"),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            1,
            "a file that should hold UTF-8 text does not",
        ),
        (ExceptionGroup("tasks", [InputError("--x", "is wrong")]), 2, "--x: is wrong"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_foreseeable_error_is_one_sentence(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded("drr x", raising(error)) == status
    told = capsys.readouterr().err
    assert told.startswith(f"drr x: {said}")
    assert told.count("\n") == 1


def test_an_error_that_nobody_foresaw_leaves_its_traceback_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded("drr x", raising(ZeroDivisionError("one by nothing"))) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "ZeroDivisionError: one by nothing" in told
    assert "--traceback" in told
    found = re.search(r"the traceback is in (\S+);", told)
    assert found is not None
    log = Path(found[1])
    assert "Traceback (most recent call last)" in log.read_text()
    log.unlink()


def test_the_traceback_is_shown_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRR_TRACEBACK", "1")
    assert guarded("drr x", raising(InputError("--x", "is wrong"))) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.endswith("drr x: --x: is wrong\n")
    assert in_one_sentence(ZeroDivisionError()) is None


def test_a_number_is_held_against_its_bounds() -> None:
    for value, bounds, said in (
        (0, {"least": 1}, "must be at least 1, not 0"),
        (3, {"least": 0, "most": 2}, "must lie between 0 and 2, not 3"),
        (0.0, {"above": 0, "most": 1}, "must be above 0 and at most 1, not 0"),
        (1.0, {"above": 0, "below": 1}, "must lie between 0 and 1, not 1"),
        (float("nan"), {"least": 0}, "must be at least 0, not nan"),
        (float("inf"), {"above": 0}, "must be above 0, not inf"),
        (2**32, {"least": 0, "most": 2**32 - 1}, "must lie between 0 and 4294967295, not 4294967296"),
    ):
        with pytest.raises(InputError, match=f"--x: {said}"):
            check_range("--x", value, **bounds)  # type: ignore[arg-type]
    check_range("--x", 1, least=1, most=1)


@pytest.mark.parametrize("url", ["", "host", "host:8000", "ftp://h/v1", "http://", "http://h:0", "http://h:99999"])
def test_an_address_is_one_of_http(url: str) -> None:
    with pytest.raises(InputError, match="--url: must be an address as in http"):
        check_url("--url", url)


def test_an_address_of_http_is_taken() -> None:
    for url in ("http://h", "https://h:1/v1", "http://[::1]:8000/v1", "http://127.0.0.1:8000"):
        check_url("--url", url)


def test_a_folder_to_write_into_may_have_to_be_made(tmp_path: Path) -> None:
    check_out_folder("--out", tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="is a file, not a folder"):
            check_out_folder("--out", path)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="nowhere is a file"):
        check_out_folder("--out", tmp_path / "nowhere")
    with pytest.raises(InputError, match="there is no file"):
        check_file("--x", tmp_path / "gone")


def test_what_may_not_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may do anything
    with pytest.raises(InputError, match=r"--out: nothing may be written into .* \(permission denied\)"):
        check_out_folder("--out", tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--x: .*file may not be read"):
        check_file("--x", tmp_path / "file")


def run_guarded(body: str, redirect: str) -> subprocess.CompletedProcess[str]:
    code = f"from drr.failures import guarded\ndef act():\n    {body}\nraise SystemExit(guarded('drr x', act))"
    command = f"{sys.executable} -c {json.dumps(code)} {redirect}".replace("\\n", "\n")
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)


def test_a_reader_that_has_seen_enough_ends_it_in_silence() -> None:
    result = run_guarded("for number in range(100000): print(number)", "| head -1")
    assert (result.stdout, result.stderr) == ("0\n", "")


def test_a_full_disk_under_the_output_is_one_sentence() -> None:
    result = run_guarded("print(1)", "> /dev/full")
    assert result.stderr == "drr x: cannot be written: the disk is full\n"
    assert result.returncode == 1


@pytest.mark.parametrize("url", ["http://me:s3cret@host/v1", "https://:s3cret@host:99999", "redis://me:s3@cret@host"])
def test_no_sentence_shows_a_password(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise InputError("--server", f"{url} and {url} cannot be used")

    assert guarded("drr", fails) == 2
    told = capsys.readouterr().err
    assert "cret@" not in told
    assert told.count(":***@host") == 2


class Config(pydantic.BaseModel):
    length: int = pydantic.Field(gt=0)
    name: str = ""

    @pydantic.field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name == "nobody":
            raise ValueError("nobody is known. Choose another")
        return name


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"length": -5}, "length: Input should be greater than 0 (got -5)"),
        ({"length": "x" * 500, "name": 7}, None),
        ({"length": 1, "name": "nobody"}, "nobody is known. Choose another"),
    ],
)
def test_the_first_complaint_is_told_not_how_many_there_are(data: Any, said: str | None) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        Config.model_validate(data)
    told = without_headline(f"argument --config: {caught.value}")
    assert "validation error" not in told
    assert "\n" not in told
    assert len(told) < 300
    assert told.startswith(
        "argument --config: length: Input should be" if said is None else f"argument --config: {said}"
    )
    assert without_headline("all is well") == "all is well"

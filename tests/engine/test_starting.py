"""Why an engine did not start: one sentence out of what its processes printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, field_validator

from drr.engine.starting import StartLog, cause_in, cause_of, starting
from drr.errors import InputError

BEFORE = "(EngineCore pid=7) ERROR 11-26 20:10:08 [core.py:1510] "
DIED = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"


def printed(*lines: str, prefix: str = BEFORE) -> str:
    return "".join(f"{prefix}{line}\n" for line in lines)


KV_CACHE = printed(
    "EngineCore failed to start.",
    "Traceback (most recent call last):",
    '  File "core.py", line 1, in run',
    "    raise ValueError(",
    "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.",
)
CHAINED = printed(
    "Traceback (most recent call last):",
    '  File "a.py", line 1, in f',
    "KeyError: 'x'",
    "",
    "During handling of the above exception, another exception occurred:",
    "",
    "Traceback (most recent call last):",
    '  File "b.py", line 2, in g',
    "    raise",
    "OSError: the weights are damaged",
)
WORKER = printed(
    "Traceback (most recent call last):",
    '  File "w.py", line 3, in init',
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    prefix="(Worker_TP0 pid=9) ERROR 11-26 20:10:08 [multiproc_executor.py:9] ",
) + printed(
    "Traceback (most recent call last):",
    '  File "e.py", line 4, in start',
    "Exception: WorkerProc initialization failed due to an exception in a background process.",
)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (KV_CACHE, "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`."),
        (CHAINED, "the weights are damaged"),
        (WORKER, "memory is used up (lower --gpu-memory-utilization or --max-model-len): CUDA out of memory. Tried"),
        ("INFO 11-26 20:10:08 [x.py:1] all is well\nValueError: not raised here\n", ""),
        ("", ""),
    ],
)
def test_the_first_cause_is_told(text: str, cause: str) -> None:
    assert cause_in(text).startswith(cause)
    assert bool(cause_in(text)) is bool(cause)


class Strict(BaseModel):
    dtype: str

    @field_validator("dtype")
    @classmethod
    def known(cls, value: str) -> str:
        raise ValueError(f"{value} is not supported")


def test_what_a_configuration_refuses_is_told_without_its_wrapping() -> None:
    with pytest.raises(ValueError, match="validation error") as refused:
        Strict(dtype="float8")
    assert cause_of(refused.value) == "float8 is not supported"
    assert cause_of(KeyError("invalid tool call parser: x")) == "invalid tool call parser: x"
    assert cause_of(RuntimeError("")) == "RuntimeError"
    assert cause_of(PermissionError(13, "x", "/m")) == "/m: may not be read or written (permission denied)"
    assert len(cause_of(ValueError("word " * 1000))) < 700


CODE = f"""
import subprocess, sys, time
from drr.engine.starting import starting
print("before", flush=True)
with starting("--model", "m"):
    print("loading", flush=True)
    subprocess.Popen([sys.executable, "-c", sys.argv[1]])
    time.sleep(1.0)
    if sys.argv[2] == "True":
        raise RuntimeError({DIED!r})
print("after", flush=True)
time.sleep(1.0)
"""
FAILING_CHILD = f"import sys; sys.stderr.write({KV_CACHE!r})"
LIVING_CHILD = (
    "import sys, time; print('ERROR 11-26 20:10:08 [x] one was overcome', flush=True); time.sleep(1.5); print('alive')"
)


def run(child: str, *, fails: bool, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CODE, child, str(fails)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


def test_a_failed_start_hides_tracebacks_and_keeps_them_in_a_file() -> None:
    result = run(FAILING_CHILD, fails=True)
    assert result.stdout == "before\nloading\n"
    last = result.stderr.splitlines()[-1]
    assert "--model: m cannot be started: No available memory for the cache blocks." in last
    assert "core.py:1510" not in result.stderr
    log = Path(last.rpartition(" is in ")[2].rstrip(")"))
    assert KV_CACHE in log.read_text()
    log.unlink()


def test_tracebacks_are_shown_where_they_are_asked_for() -> None:
    assert "core.py:1510" in run(FAILING_CHILD, fails=True, DRR_TRACEBACK="1").stderr


def test_what_turns_out_to_be_no_failure_is_shown_and_children_go_on_printing() -> None:
    result = run(LIVING_CHILD, fails=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:2] == ["before", "loading"]
    assert sorted(lines[2:]) == sorted(["ERROR 11-26 20:10:08 [x] one was overcome", "after", "alive"])


def test_input_errors_pass_as_they_are_and_leave_no_file() -> None:
    with pytest.raises(InputError, match="--prm: has no separator"), starting("--model", "m"):
        raise InputError("--prm", "has no separator")
    with StartLog() as log:
        pass
    assert not log.path.exists()

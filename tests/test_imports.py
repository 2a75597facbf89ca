"""Who may import whom, and what a server does not load."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

NOT_SERVED = (
    "datasets",
    "math_verify",
    "matplotlib",
    "peft",
    "drr.certify",
    "drr.cli",
    "drr.evaluate",
    "drr.learn",
    "drr.tasks",
)
"""Rooms that a server does without, and of the libraries that only they need those that vLLM does not load itself."""


def test_rooms_import_only_what_they_may() -> None:
    """The contracts in pyproject.toml."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_server_loads_nothing_that_only_learning_needs() -> None:
    code = f"import json, sys, server.serving; print(json.dumps([own for own in {NOT_SERVED} if own in sys.modules]))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads(result.stdout.splitlines()[-1]) == []

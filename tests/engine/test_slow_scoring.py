"""Slow scoring holds tokens back from the client; it must not slow the engine."""

import json
import statistics
import subprocess
import sys


def test_the_engine_does_not_wait_for_scores() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.slow_scoring"], capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    measured = json.loads(result.stdout.strip().splitlines()[-1])
    # An engine that waited would take ten times half a second longer than the one to two that a request thinks.
    assert statistics.median(measured["ratios"]) > 0.6, measured

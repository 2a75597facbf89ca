"""Models that judge, on engines of this process."""

import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from vllm.v1.engine.exceptions import EngineDeadError

from drr.engine.classifier import LocalClassifier, StepRewards
from drr.loop.scoring import ScorerUnavailableError
from tests.dm_logits import STEPS, inputs


def test_one_pass_gives_every_boundary_the_logits_that_it_has_alone() -> None:
    command = [sys.executable, "-m", "tests.dm_logits"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    for together, alone in zip(found["together"], found["alone"], strict=True):
        assert [pytest.approx(logits, abs=1e-4) for logits in alone] == together
        assert len({tuple(logits) for logits in alone}) == len(STEPS)
    block = 32  # of a CPU's cache, the larger one
    assert found["computed"] <= len(inputs()[-1]) + block, "no token but the rest of a block is computed twice"


async def test_a_dead_engine_is_told_as_scorers_tell_it() -> None:
    async def encode(*_: Any) -> AsyncGenerator[Any, None]:
        raise EngineDeadError
        yield

    for ask in (LocalClassifier(encode, causal=True)([1, 2], [1, 2]), StepRewards(encode)([1])):
        with pytest.raises(ScorerUnavailableError, match="EngineCore"):
            await ask

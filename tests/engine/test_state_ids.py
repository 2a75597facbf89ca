"""What heads in the engine say, read from a token's log-probabilities."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm.logprobs import Logprob

from drr.engine.judged_model import LEVEL
from drr.engine.state_ids import StateIds

IDS = StateIds(99, (98, 97))
TOKEN = 5


def told(outputs: Mapping[int, float], total: float = 0.0) -> dict[int, Logprob]:
    """The log-probabilities of logits that add up to exp(total)."""
    return {TOKEN: Logprob(-0.1), **{token: Logprob(LEVEL + value - total) for token, value in outputs.items()}}


@given(st.floats(-60, 60), st.floats(-60, 60), st.floats(-100, 200))
def test_outputs_are_read_whatever_the_other_logits_add_up_to(now: float, later: float, total: float) -> None:
    read = IDS.read(told({99: 0.0, 98: now, 97: later}, total))
    assert read == pytest.approx((now, later), abs=1e-4)


def test_a_request_asks_for_the_level_and_every_output() -> None:
    assert IDS.all == [99, 98, 97]


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {98: 1.0, 97: 2.0},
        {99: 0.0, 98: 1.0},
        {99: -math.inf, 98: -math.inf, 97: -math.inf},
        {99: 0.0, 98: 1.0, 97: -math.inf},
        {99: 0.0, 98: math.nan, 97: 0.0},
    ],
)
def test_what_is_not_told_is_not_read(outputs: dict[int, float]) -> None:
    assert IDS.read(told(outputs)) is None


def test_logits_that_no_head_wrote_are_not_taken_for_its_word() -> None:
    assert IDS.read({99: Logprob(-21.0), 98: Logprob(-19.5), 97: Logprob(-24.0)}) is None

"""The policy: pure, monotone, and never moved by a score that is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drr.loop.policy import PolicySettings, Score, StopCause, Verdict, decide

SCORES = st.lists(st.none() | st.floats(0, 1).map(lambda p: Score(p, p)), min_size=1, max_size=12)


def scores(*values: float | None) -> list[Score | None]:
    return [None if value is None else Score(value, value) for value in values]


def test_stops_at_the_threshold() -> None:
    settings = PolicySettings(threshold=0.9)
    assert decide(settings, scores(0.89)).verdict is Verdict.CONTINUE
    decision = decide(settings, scores(0.2, 0.9))
    assert (decision.verdict, decision.cause) == (Verdict.STOP, StopCause.SURE)


def test_min_steps_and_patience_wait() -> None:
    assert decide(PolicySettings(min_steps=3), scores(1, 1)).verdict is Verdict.CONTINUE
    assert decide(PolicySettings(min_steps=3), scores(1, 1, 1)).verdict is Verdict.STOP
    patient = PolicySettings(patience=2)
    assert decide(patient, scores(1)).verdict is Verdict.CONTINUE
    assert decide(patient, scores(1, None, 1)).verdict is Verdict.CONTINUE
    assert decide(patient, scores(None, 1, 1)).verdict is Verdict.STOP


def test_max_steps_needs_no_score() -> None:
    decision = decide(PolicySettings(max_steps=2), scores(None, None))
    assert (decision.verdict, decision.cause) == (Verdict.STOP, StopCause.MAX_STEPS)


def test_closing_is_never_a_stop_and_nudges_are_counted() -> None:
    settings = PolicySettings(nudge=1, nudge_below=0.5, max_steps=1)
    assert decide(settings, scores(0.4), closing=True).verdict is Verdict.NUDGE
    assert decide(settings, scores(0.4), closing=True, nudges=1).verdict is Verdict.CONTINUE
    assert decide(settings, scores(0.5), closing=True).verdict is Verdict.CONTINUE
    assert decide(settings, scores(None), closing=True).verdict is Verdict.CONTINUE
    assert decide(settings, scores(1.0), closing=True).verdict is Verdict.CONTINUE


@given(history=SCORES, low=st.floats(0, 1), high=st.floats(0, 1), patience=st.integers(1, 3))
def test_a_higher_threshold_never_stops_earlier(
    history: list[Score | None], low: float, high: float, patience: int
) -> None:
    low, high = sorted((low, high))
    strict = decide(PolicySettings(threshold=high, patience=patience), history)
    loose = decide(PolicySettings(threshold=low, patience=patience), history)
    assert strict.verdict is Verdict.CONTINUE or loose.verdict is Verdict.STOP


@given(history=SCORES, settings=st.builds(PolicySettings, threshold=st.floats(0, 1), patience=st.integers(1, 3)))
def test_losing_a_score_never_causes_a_stop(history: list[Score | None], settings: PolicySettings) -> None:
    without = [*history[:-1], None]
    assert decide(settings, without).verdict is Verdict.CONTINUE


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", 1.1), ("nudge_below", -0.1), ("min_steps", -1), ("max_steps", 0), ("patience", 0), ("nudge", -1)],
)
def test_bad_settings_name_the_field(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        PolicySettings(**{name: value})

"""What fails in every request is said once."""

import logging

import pytest

from drr.loop.complaints import Complaints


def raised(message: str) -> ValueError:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "drr")
    return caplog


def test_a_cause_is_said_once_an_hour_and_counted_meanwhile(heard: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    complaints = Complaints(lambda: now[0])
    for number in range(1000):
        complaints.complain("dm", raised(f"no such head: {number}"))
    assert len(heard.records) == 1
    assert "no such head: 0" in heard.text
    assert "in raised" in heard.text, "where it went wrong"
    now[0] = 3601.0
    complaints.complain("dm", raised("again"))
    assert len(heard.records) == 2
    assert "(999 more like it" in heard.records[1].getMessage()


def test_causes_are_told_apart(heard: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(lambda: 0.0)
    complaints.complain("dm", raised("a"))
    complaints.complain("prm", raised("a"))
    complaints.complain("dm", RuntimeError("b"))
    complaints.complain("dm", KeyError("b"))
    assert len(heard.records) == 4


def test_what_is_remembered_is_bounded(heard: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    complaints = Complaints(lambda: now[0])
    for number in range(2000):
        now[0] += 0.001
        complaints.complain(f"scorer {number}", RuntimeError())
    assert len(complaints._said) == 256
    complaints.complain("scorer 1999", RuntimeError())
    assert len(heard.records) == 2000

"""The `drr` object: everything checked, nothing ignored, the key at fault named."""

from typing import Any

import pytest

from server.schema import Defaults, DrrError, DrrRequest, Settings, resolve

WITH_DM = Defaults(mode="auto", threshold=0.8, nudge=1)
WITHOUT_DM = Defaults(mode="off", threshold=None)


def settings(asked: dict[str, Any] | None = None, alias: Any = None, defaults: Defaults = WITH_DM) -> Settings:
    return resolve(None if asked is None else DrrRequest.parse(asked), alias, defaults)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (7, "drr"),
        ([], "drr"),
        (None, "drr"),
        ({"treshold": 0.9}, "drr.treshold"),
        ({"threshold": 2}, "drr.threshold"),
        ({"threshold": "0.9"}, "drr.threshold"),
        ({"threshold": True}, "drr.threshold"),
        ({"threshold": float("nan")}, "drr.threshold"),
        ({"mode": "fast"}, "drr.mode"),
        ({"mode": "rethink"}, "drr.mode"),
        ({"threshold": 0.9, "max_lost_correct": 0.01}, "drr.max_lost_correct"),
        ({"max_lost_correct": 0}, "drr.max_lost_correct"),
        ({"min_steps": -1}, "drr.min_steps"),
        ({"min_steps": 1.5}, "drr.min_steps"),
        ({"max_steps": 0}, "drr.max_steps"),
        ({"patience": 0}, "drr.patience"),
        ({"max_thinking_tokens": -1}, "drr.max_thinking_tokens"),
        ({"answer_tokens": 0}, "drr.answer_tokens"),
        ({"nudge": "1"}, "drr.nudge"),
        ({"report": "all"}, "drr.report"),
    ],
)
def test_malformed_objects_name_the_key(asked: Any, param: str) -> None:
    with pytest.raises(DrrError) as caught:
        DrrRequest.parse(asked)
    assert caught.value.param == param
    assert str(caught.value).startswith(param)


@pytest.mark.parametrize(
    ("asked", "alias", "defaults", "param"),
    [
        ({"max_lost_correct": 0.01}, None, WITH_DM, "drr.max_lost_correct"),
        ({"mode": "off", "threshold": 0.5}, None, WITH_DM, "drr.threshold"),
        ({"mode": "off", "nudge": 1}, None, WITH_DM, "drr.nudge"),
        ({"mode": "shadow", "nudge": 1}, None, WITH_DM, "drr.nudge"),
        ({"mode": "stop"}, "off", WITH_DM, "drr.mode"),
        ({"threshold": 0.5}, "off", WITH_DM, "drr.threshold"),
        ({"mode": "stop"}, None, WITHOUT_DM, "drr.mode"),
        ({"mode": "shadow"}, None, WITHOUT_DM, "drr.mode"),
        ({"threshold": 0.5}, None, WITHOUT_DM, "drr.threshold"),
        ({"patience": 2}, None, WITHOUT_DM, "drr.patience"),
    ],
)
def test_contradictions_name_the_key(asked: Any, alias: Any, defaults: Defaults, param: str) -> None:
    with pytest.raises(DrrError) as caught:
        settings(asked, alias, defaults)
    assert caught.value.param == param


def test_silence_takes_the_defaults() -> None:
    quiet = settings()
    assert (quiet.mode, quiet.threshold, quiet.nudge, quiet.report) == ("auto", 0.8, 1, "steps")
    assert not quiet.explicit
    assert quiet.judged
    assert quiet.loops


def test_off_is_plain_unless_a_budget_is_set() -> None:
    assert not settings({"mode": "off"}).loops
    budget = settings({"mode": "off", "max_thinking_tokens": 0})
    assert budget.loops
    assert not budget.judged


def test_aliases_choose_the_mode() -> None:
    assert settings(alias="off").mode == "off"
    assert settings(alias="auto").explicit
    assert settings({"mode": "auto", "threshold": 0.3}, "auto").threshold == 0.3


def test_without_a_dm_only_budgets_remain() -> None:
    plain = settings({"mode": "auto", "max_thinking_tokens": 5}, None, WITHOUT_DM)
    assert (plain.mode, plain.loops, plain.threshold) == ("off", True, None)


def test_every_effective_setting_is_reported() -> None:
    reported = settings({"threshold": 0.7, "max_steps": 9}).as_dict()
    assert set(reported) == set(DrrRequest.model_fields) - {"max_lost_correct"}
    assert reported["threshold"] == 0.7
    loop = settings({"mode": "shadow"}).loop_settings(WITH_DM, 100, separate_answer=True)
    assert not loop.policy.acts
    assert loop.separate_answer

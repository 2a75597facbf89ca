"""The `drr` object: everything checked, nothing ignored, the key at fault named."""

from dataclasses import replace
from typing import Any

import pytest

from drr.judge.calibration import Calibration, Certificate
from drr.loop.policy import StopCause
from drr.loop.response import Outcome
from drr.loop.rule import Rule
from server.plan import ResponsePlan
from server.promise import risk_object
from server.report import outcome_object
from server.resolve import Asked, resolve
from server.schema import DrrError, DrrRequest
from server.settings import Defaults, Settings

WITH_DM = Defaults(mode="auto", rule=Rule(0.8), nudge=1)
WITHOUT_DM = Defaults(mode="off", rule=None)


def settings(asked: dict[str, Any] | None = None, alias: Any = None, defaults: Defaults = WITH_DM) -> Settings:
    request = None if asked is None else DrrRequest.parse(asked)
    return resolve(request, defaults, Asked(alias, temperature=0.0, explicit=asked is not None))


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (7, "drr"),
        ([], "drr"),
        ({"treshold": None}, "drr.treshold"),
        ({"threshold": float("inf")}, "drr.threshold"),
        ({"hopeless": -0.1}, "drr.hopeless"),
        ({"min_gain": 2}, "drr.min_gain"),
        ({"refusal": ""}, "drr.refusal"),
        ({"separator": 5}, "drr.separator"),
        ({"treshold": 0.9}, "drr.treshold"),
        ({"threshold": 2}, "drr.threshold"),
        ({"threshold": "0.9"}, "drr.threshold"),
        ({"threshold": True}, "drr.threshold"),
        ({"threshold": float("nan")}, "drr.threshold"),
        ({"mode": "fast"}, "drr.mode"),
        ({"mode": "think"}, "drr.mode"),
        ({"max_rethinks": -1}, "drr.max_rethinks"),
        ({"rethink": "again"}, "drr.rethink"),
        ({"accept": 1.5}, "drr.accept"),
        ({"on_exhausted": "cry"}, "drr.on_exhausted"),
        ({"parallel": 0}, "drr.parallel"),
        ({"rethink_temperature": 0}, "drr.rethink_temperature"),
        ({"max_lost_correct": 0}, "drr.max_lost_correct"),
        ({"min_steps": -1}, "drr.min_steps"),
        ({"min_steps": 1.5}, "drr.min_steps"),
        ({"min_step_tokens": -1}, "drr.min_step_tokens"),
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
        ({"threshold": 0.9, "max_lost_correct": 0.01}, None, WITH_DM, "drr.max_lost_correct"),
        ({"mode": "off", "max_lost_correct": 0.01}, None, WITH_DM, "drr.max_lost_correct"),
        ({"mode": "off", "threshold": 0.5}, None, WITH_DM, "drr.threshold"),
        ({"mode": "off", "nudge": 1}, None, WITH_DM, "drr.nudge"),
        ({"mode": "off", "min_step_tokens": 20}, None, WITH_DM, "drr.min_step_tokens"),
        ({"mode": "shadow", "nudge": 1}, None, WITH_DM, "drr.nudge"),
        ({"mode": "stop"}, "off", WITH_DM, "drr.mode"),
        ({"mode": "off", "max_rethinks": 1}, None, WITH_DM, "drr.max_rethinks"),
        ({"mode": "shadow", "max_rethinks": 1}, None, WITH_DM, "drr.max_rethinks"),
        ({"mode": "stop", "on_exhausted": "abstain"}, None, WITH_DM, "drr.on_exhausted"),
        ({"mode": "rethink", "threshold": 0.9}, None, WITH_DM, "drr.threshold"),
        ({"mode": "rethink"}, None, WITHOUT_DM, "drr.mode"),
        ({"max_rethinks": 2}, None, WITHOUT_DM, "drr.max_rethinks"),
        ({"rethink": "fresh"}, None, WITH_DM, "drr.rethink"),
        ({"accept": 0.5}, None, WITH_DM, "drr.accept"),
        ({"on_exhausted": "best"}, None, WITH_DM, "drr.on_exhausted"),
        ({"max_rethinks": 2, "parallel": 4}, None, WITH_DM, "drr.parallel"),
        ({"max_rethinks": 2, "parallel": 2, "rethink": "in_context"}, None, WITH_DM, "drr.parallel"),
        ({"max_rethinks": 2}, None, replace(WITH_DM, can_stop=False), "drr.max_rethinks"),
        ({"threshold": 0.5}, "off", WITH_DM, "drr.threshold"),
        ({"mode": "stop"}, None, WITHOUT_DM, "drr.mode"),
        ({"mode": "shadow"}, None, WITHOUT_DM, "drr.mode"),
        ({}, "auto", WITHOUT_DM, "model"),
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
    assert not settings(alias="auto").explicit, "who cannot send fields does not expect chunks without choices"
    assert settings({"mode": "auto", "threshold": 0.3}, "auto").threshold == 0.3


def test_without_a_dm_only_budgets_remain() -> None:
    plain = settings({"max_thinking_tokens": 5}, None, WITHOUT_DM)
    assert (plain.mode, plain.loops, plain.threshold) == ("off", True, None)
    with pytest.raises(DrrError, match="needs a judge"):
        settings({"mode": "auto"}, None, WITHOUT_DM)


def test_rethinking_is_asked_for_by_mode_or_by_number() -> None:
    assert not settings().rejects
    with pytest.raises(DrrError, match="contradicts mode rethink"):
        settings({"mode": "rethink", "max_rethinks": 0})
    assert settings({"mode": "rethink", "max_rethinks": 0, "on_exhausted": "abstain"}).rejects
    full = settings({"mode": "rethink"})
    assert (full.max_rethinks, full.accept, full.threshold) == (3, 0.5, None)
    assert full.loop_settings(WITH_DM, 100, separate_answer=False).policy.threshold is None
    both = settings({"max_rethinks": 1, "accept": 0.7, "parallel": 2, "threshold": 0.8})
    assert (both.mode, both.threshold, both.accept) == ("auto", 0.8, 0.7)
    assert both.loop_settings(WITH_DM, 100, separate_answer=False).policy.accept == 0.7
    assert both.rethink_settings(WITH_DM).parallel == 2
    assert settings({"on_exhausted": "abstain"}).rejects, "an answer that is doubted may be withheld at once"


def test_any_scorer_judges_where_it_is_asked_for() -> None:
    free = settings({"scorer": "confidence"}, None, WITHOUT_DM)
    assert (free.mode, free.scorer, free.threshold, free.judged) == ("auto", "confidence", 0.95, True)
    calibrated = settings({"scorer": "entropy", "threshold": 0.5}, None, CALIBRATED)
    assert (calibrated.scorer, calibrated.threshold, calibrated.hopeless, calibrated.patience) == (
        "entropy",
        0.5,
        None,
        1,
    )
    assert settings({"scorer": "dm"}).scorer == settings().scorer == "dm"
    other = replace(CALIBRATED, scorer="logprob")
    assert (settings(None, None, other).scorer, settings(None, None, other).threshold) == ("logprob", 0.98)
    by_dm = settings({"scorer": "dm", "max_lost_correct": 0.05}, None, other)
    assert (by_dm.scorer, by_dm.threshold) == ("dm", 0.9)
    assert settings({"scorer": "logprob"}, None, replace(WITH_DM, mode="shadow")).mode == "shadow"
    assert settings({"scorer": "logprob", "nudge": 2}).nudge_below == 0.98, "a level that it can fall below"
    assert settings({"mode": "off"}).scorer is None
    by_default = replace(WITHOUT_DM, mode="auto", scorer="logprob")
    assert settings(None, None, by_default).scorer == "logprob"
    assert settings({"mode": "rethink", "scorer": "self_critique"}, None, WITHOUT_DM).rejects
    for asked, defaults, param in (
        ({"scorer": "dm"}, WITHOUT_DM, "drr.scorer"),
        ({"scorer": "confidence"}, replace(WITHOUT_DM, can_stop=False), "drr.scorer"),
        ({"scorer": "confidence", "max_lost_correct": 0.01}, CALIBRATED, "drr.max_lost_correct"),
        ({"mode": "off", "scorer": "confidence"}, WITH_DM, "drr.scorer"),
    ):
        with pytest.raises(DrrError) as caught:
            settings(asked, None, defaults)
        assert caught.value.param == param
    slow = settings({"scorer": "critique"}).loop_settings(WITH_DM, 100, separate_answer=False)
    assert slow.deadline > WITH_DM.deadline


def test_every_effective_setting_is_reported() -> None:
    reported = settings({"threshold": 0.7, "max_steps": 9}).as_dict()
    assert set(reported) == set(DrrRequest.model_fields) | {"thinking_token_budget"}
    assert reported["threshold"] == 0.7
    loop = settings({"mode": "shadow"}).loop_settings(WITH_DM, 100, separate_answer=True)
    assert not loop.policy.acts
    assert loop.separate_answer
    assert loop.thinking_room == 100, "a shadow keeps nothing free for an answer that it will not ask for"
    limited = settings({"mode": "shadow", "max_thinking_tokens": 50})
    assert limited.loop_settings(WITH_DM, 1000, separate_answer=False).thinking_room < 1000


CALIBRATION = Calibration(
    confidence=0.95,
    source="key",
    labels="gold",
    questions={"test": 500},
    right=400,
    sampling={"temperature": 0.8, "top_p": 1.0, "top_k": 0, "max_tokens": 1024},
    certificates=(
        Certificate(0.01, Rule(0.97, 2), 1, 400, 0.02, 0.2, 0.1),
        Certificate(0.05, Rule(0.9, 1, 0.05, -0.1), 9, 400, 0.01, 0.4, -0.2),
    ),
    refused={"0.005": "too few questions"},
    drift={"edges": [0.5], "shares": [0.5, 0.5]},
    default={"rule": Rule(0.8, 2, 0.02).to_json()},
)
CALIBRATED = replace(WITH_DM, rule=Rule(0.8, 2, 0.02), calibration=CALIBRATION)


def test_a_risk_chooses_its_certified_rule() -> None:
    own = settings({"max_lost_correct": 0.03}, defaults=CALIBRATED)
    assert (own.threshold, own.patience, own.hopeless, own.min_gain) == (0.97, 2, None, None)
    assert own.as_dict()["max_lost_correct"] == 0.03
    loop = settings({"max_lost_correct": 0.05}, defaults=CALIBRATED).loop_settings(
        CALIBRATED, 100, separate_answer=False
    )
    assert (loop.policy.threshold, loop.policy.hopeless, loop.policy.min_gain) == (0.9, 0.05, -0.1)


def test_the_dms_own_rule_and_a_clients_threshold() -> None:
    assert settings(defaults=CALIBRATED).hopeless == 0.02
    own = settings({"threshold": 0.6}, defaults=CALIBRATED)
    assert (own.threshold, own.patience, own.hopeless) == (0.6, 2, 0.02), "a threshold is one number of the rule"
    own = settings({"threshold": 0.8, "hopeless": 0.02, "patience": 2}, defaults=CALIBRATED)
    assert own == replace(settings(defaults=CALIBRATED), explicit=True), "the default's own numbers change nothing"
    own = settings({"min_gain": -0.2}, defaults=CALIBRATED)
    assert (own.threshold, own.hopeless, own.min_gain) == (0.8, 0.02, -0.2)


def test_a_risk_without_a_certificate_thinks_in_full_or_is_refused() -> None:
    full = settings({"max_lost_correct": 0.001}, defaults=CALIBRATED)
    assert (full.mode, full.judged, full.loops, full.threshold) == ("auto", False, False, None)
    report = outcome_object(ResponsePlan(full, "q", None), Outcome())
    assert (report["stop_cause"], report["judge"]) == ("uncertified", None)
    assert (report["risk"]["certified"], report["risk"]["holds"]) == (None, True)
    budget = settings({"max_lost_correct": 0.001, "max_thinking_tokens": 5}, defaults=CALIBRATED)
    report = outcome_object(ResponsePlan(budget, "q", None), Outcome(StopCause.MAX_THINKING_TOKENS))
    assert (report["stop_cause"], report["risk"]["holds"]) == ("max_thinking_tokens", False)
    for asked in ({"max_rethinks": 2}, {"nudge": 1}, {"on_exhausted": "abstain"}):
        judged = settings({"max_lost_correct": 0.001, **asked}, defaults=CALIBRATED)
        assert (judged.judged, judged.threshold) == (True, None), "what else was asked for is done"
    with pytest.raises(DrrError, match="nobody judges") as caught:
        settings({"max_lost_correct": 0.001, "min_steps": 3}, defaults=CALIBRATED)
    assert caught.value.param == "drr.min_steps"
    with pytest.raises(DrrError, match=r"certified risks: 0\.01, 0\.05") as caught:
        settings({"mode": "stop", "max_lost_correct": 0.001}, defaults=CALIBRATED)
    assert caught.value.param == "drr.max_lost_correct"
    with pytest.raises(DrrError, match="has not been calibrated"):
        settings({"max_lost_correct": 0.05})
    with pytest.raises(DrrError, match="part of the certified rule") as caught:
        settings({"max_lost_correct": 0.05, "patience": 1}, defaults=CALIBRATED)
    assert caught.value.param == "drr.patience"


def test_where_attempts_may_be_rejected_the_rule_chosen_for_that_holds() -> None:
    assert CALIBRATED.calibration is not None
    again = {
        "auto": {"rule": Rule(0.95, 1, 0.3).to_json(), "accept": 0.7},
        "rethink": {"rule": Rule(1.0, 2, 0.1).to_json(), "accept": 0.6},
    }
    defaults = replace(CALIBRATED, calibration=replace(CALIBRATED.calibration, rethink=again))
    own = settings({"max_rethinks": 2}, defaults=defaults)
    assert (own.threshold, own.patience, own.hopeless, own.accept) == (0.95, 1, 0.3, 0.7)
    own = settings({"max_rethinks": 2, "threshold": 0.6, "accept": 0.2}, defaults=defaults)
    assert (own.threshold, own.hopeless, own.accept) == (0.6, 0.3, 0.2)
    own = settings({"mode": "rethink"}, defaults=defaults)
    assert (own.threshold, own.hopeless, own.accept) == (None, 0.1, 0.6)
    own = settings({}, defaults=defaults)
    assert (own.threshold, own.hopeless, own.accept) == (0.8, 0.02, None)
    own = settings({"on_exhausted": "abstain"}, defaults=defaults)
    assert (own.threshold, own.hopeless, own.accept) == (0.8, 0.02, 0.7)
    own = settings({"max_rethinks": 1, "max_lost_correct": 0.05}, defaults=defaults)
    assert (own.threshold, own.hopeless, own.accept) == (0.9, 0.05, 0.7)


def test_a_calibrated_scorer_judges_by_its_own_rules() -> None:
    assert CALIBRATED.calibration is not None
    confident = replace(CALIBRATED.calibration, default={"rule": Rule(0.993, 3).to_json()})
    defaults = replace(WITHOUT_DM, calibrations={"confidence": confident})
    own = settings({"scorer": "confidence"}, defaults=defaults)
    assert (own.threshold, own.patience, own.calibration) == (0.993, 3, confident)
    own = settings({"scorer": "confidence", "max_lost_correct": 0.05}, defaults=defaults)
    assert (own.threshold, own.min_gain) == (0.9, -0.1)
    assert settings({"scorer": "entropy"}, defaults=defaults).threshold == 0.9
    with pytest.raises(DrrError, match="has not been calibrated"):
        settings({"scorer": "entropy", "max_lost_correct": 0.05}, defaults=defaults)


def test_a_process_reward_model_judges_where_there_is_one() -> None:
    with pytest.raises(DrrError, match="without a process reward model") as caught:
        settings({"scorer": "prm"})
    assert caught.value.param == "drr.scorer"
    own = settings({"scorer": "prm", "max_rethinks": 1}, defaults=replace(WITHOUT_DM, has_prm=True))
    assert (own.mode, own.scorer, own.threshold, own.accept) == ("auto", "prm", 0.9, 0.5)


def test_responses_without_a_risk_promise_nothing() -> None:
    assert risk_object(settings(defaults=CALIBRATED), [], Outcome(), cut=False) is None

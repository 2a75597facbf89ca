"""Every key of the `drr` object, in every mode: honoured, or refused by name. The tests walk the table that the server,
docs/ and the OpenAPI document are made from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drr.judge.calibration import Certificate
from drr.loop.policy import StopCause
from drr.loop.rule import Rule
from server import tables
from server.causes import CAUSES
from server.keys import BY_NAME, EFFORTS, KEYS, MODES, Key, Mode, Need
from server.resolve import Asked, resolve
from server.schema import DrrError, DrrRequest
from server.settings import Defaults, DmDefaults, Settings
from tests.server.test_schema import CALIBRATION as CALIBRATION_OF_400

ROOT = Path(__file__).parents[2]

RULE = Rule(0.8, 2, 0.02, -0.3)
CERTIFICATE = Certificate(0.05, Rule(0.9, 1, 0.05, -0.1), 9, 400, 0.01, 0.4, -0.2)
CALIBRATION = replace(CALIBRATION_OF_400, certificates=(CERTIFICATE,), refused={}, default={"rule": RULE.to_json()})
BESIDE_RULE = Rule(0.6, 1, 0.01, -0.2)
BESIDE_DM = DmDefaults(BESIDE_RULE, nudge=0, nudge_below=0.35, nudge_cue="Hm,", nudge_cue_ids=(8, 9))
DEFAULTS = Defaults(mode="auto", rule=RULE, calibration=CALIBRATION, beside={"head": BESIDE_DM})
WITHOUT_JUDGE = Defaults(mode="off", rule=None, scorer=None)

VALUES: dict[str, Any] = {
    "threshold": 0.77,
    "hopeless": 0.07,
    "min_gain": -0.5,
    "patience": 3,
    "max_lost_correct": 0.05,
    "min_steps": 2,
    "max_steps": 9,
    "min_step_tokens": 20,
    "max_thinking_tokens": 50,
    "answer_tokens": 33,
    "nudge": 1,
    "nudge_below": 0.3,
    "max_rethinks": 2,
    "accept": 0.41,
    "rethink": "in_context",
    "parallel": 2,
    "rethink_temperature": 0.6,
    "on_exhausted": "last",
    "refusal": "Je ne sais pas.",
    "separator": "---",
    "scorer": "confidence",
    "dm": "head",
    "thinking_in": "content",
    "report": "summary",
}
"""Of every key a value that is no default."""

BESIDE: dict[str, dict[str, Any]] = {
    "nudge_below": {"nudge": 1},
    "accept": {"max_rethinks": 1},
    "rethink": {"max_rethinks": 1},
    "parallel": {"max_rethinks": 1},
    "rethink_temperature": {"max_rethinks": 1},
    "on_exhausted": {"max_rethinks": 1},
    "refusal": {"on_exhausted": "abstain"},
    "separator": {"max_rethinks": 1},
}
"""What a key needs beside it."""

IN_RETHINK: dict[str, dict[str, Any]] = {"min_steps": {"hopeless": 0.1}, "patience": {"hopeless": 0.1}}


def asked_for(key: Key, mode: Mode) -> dict[str, Any]:
    beside = {**BESIDE.get(key.name, {}), **(IN_RETHINK.get(key.name, {}) if mode == "rethink" else {})}
    return {"mode": mode, **{name: value for name, value in beside.items() if mode in BY_NAME[name].modes()}}


def settings(asked: dict[str, Any], defaults: Defaults = DEFAULTS, temperature: float = 0.0) -> Settings:
    return resolve(DrrRequest.parse(asked), defaults, Asked(temperature=temperature))


def refused(asked: dict[str, Any], defaults: Defaults = DEFAULTS, temperature: float = 0.0) -> DrrError:
    with pytest.raises(DrrError) as caught:
        settings(asked, defaults, temperature)
    return caught.value


def test_the_table_holds_all_keys_and_every_value_is_tried() -> None:
    assert [key.name for key in KEYS] == list(DrrRequest.model_fields)
    assert set(VALUES) == set(DrrRequest.model_fields) - {"mode"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("key", [key for key in KEYS if key.name != "mode"], ids=lambda key: key.name)
def test_a_key_is_honoured_or_refused_in_every_mode(key: Key, mode: Mode) -> None:
    without = asked_for(key, mode)
    asked = {**without, key.name: VALUES[key.name]}
    if mode in key.refused:
        error = refused(asked)
        assert error.param == f"drr.{key.name}"
        assert str(error) == f"drr.{key.name}: {key.refused[mode]}"
        return
    before, after = settings(without), settings(asked)
    assert after.as_dict()[key.name] == VALUES[key.name], "it is what the response says"
    assert settings({**without, key.name: None}) == before, "null is no key at all"
    with_loop = [own.loop_settings(DEFAULTS, 1000, separate_answer=False) for own in (before, after)]
    with_attempts = [own.rethink_settings(DEFAULTS) for own in (before, after)]
    elsewhere = key.name in ("scorer", "report", "max_lost_correct", "rethink_temperature", "thinking_in")
    assert elsewhere or with_loop[0] != with_loop[1] or with_attempts[0] != with_attempts[1], "it changes what is done"


NEEDS: list[tuple[str, Need, dict[str, Any], Defaults, float]] = [
    *(
        (key.name, Need.JUDGE, {key.name: VALUES[key.name]}, WITHOUT_JUDGE, 0.0)
        for key in KEYS
        if Need.JUDGE in key.needs
    ),
    ("min_steps", Need.JUDGED, {"max_lost_correct": 0.001, "min_steps": 2}, DEFAULTS, 0.0),
    ("min_step_tokens", Need.JUDGED, {"max_lost_correct": 0.001, "min_step_tokens": 2}, DEFAULTS, 0.0),
    *(
        (name, Need.UNCERTIFIED_RULE, {"max_lost_correct": risk, name: VALUES[name]}, DEFAULTS, 0.0)
        for name in ("hopeless", "min_gain", "patience")
        for risk in (0.05, 0.001)
    ),
    ("min_steps", Need.ENDS_EARLY, {"mode": "rethink", "min_steps": 2}, replace(DEFAULTS, rule=Rule(0.8)), 0.0),
    ("patience", Need.ENDS_EARLY, {"mode": "rethink", "patience": 2}, replace(DEFAULTS, rule=Rule(0.8)), 0.0),
    ("nudge_below", Need.NUDGES, {"nudge_below": 0.4}, DEFAULTS, 0.0),
    ("nudge_below", Need.NUDGES, {"nudge": 0, "nudge_below": 0.4}, replace(DEFAULTS, nudge=1), 0.0),
    ("accept", Need.REJECTS, {"accept": 0.4}, DEFAULTS, 0.0),
    ("on_exhausted", Need.REJECTS, {"on_exhausted": "best"}, DEFAULTS, 0.0),
    ("on_exhausted", Need.REJECTS, {"max_rethinks": 0, "on_exhausted": "last"}, DEFAULTS, 0.0),
    *(
        (name, Need.AGAIN, {"on_exhausted": "abstain", name: VALUES[name]}, DEFAULTS, 0.0)
        for name in ("rethink", "parallel", "rethink_temperature", "separator")
    ),
    ("refusal", Need.ABSTAINS, {"max_rethinks": 1, "refusal": "no"}, DEFAULTS, 0.0),
    ("separator", Need.SHOWS_SEPARATOR, {"max_rethinks": 1, "rethink": "in_context", "separator": "-"}, DEFAULTS, 0.0),
    ("separator", Need.SHOWS_SEPARATOR, {"max_rethinks": 1, "parallel": 2, "separator": "-"}, DEFAULTS, 0.0),
    ("rethink_temperature", Need.GREEDY, {"max_rethinks": 1, "rethink_temperature": 0.5}, DEFAULTS, 0.8),
    *(
        (
            key.name,
            Need.THINKS,
            {"max_thinking_tokens": 0, **BESIDE.get(key.name, {}), key.name: VALUES[key.name]},
            DEFAULTS,
            0.0,
        )
        for key in KEYS
        if Need.THINKS in key.needs and key.name not in BESIDE
    ),
    *(
        (key.name, Need.CLOSABLE, {key.name: VALUES[key.name]}, replace(WITHOUT_JUDGE, can_stop=False), 0.0)
        for key in KEYS
        if Need.CLOSABLE in key.needs and Need.JUDGE not in key.needs
    ),
    ("max_rethinks", Need.CLOSABLE, {"max_rethinks": 1}, replace(DEFAULTS, can_stop=False), 0.0),
]


@pytest.mark.parametrize(("name", "need", "asked", "defaults", "temperature"), NEEDS)
def test_what_a_key_needs_is_said_where_it_is_missing(
    name: str, need: Need, asked: dict[str, Any], defaults: Defaults, temperature: float
) -> None:
    error = refused(asked, defaults, temperature)
    assert str(error) == f"drr.{name}: {need.value}"


def test_every_need_is_tried() -> None:
    assert {need for _, need, *_ in NEEDS} == set(Need)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"min_steps": 5, "max_steps": 2}, "drr.min_steps"),
        ({"patience": 4, "max_steps": 3}, "drr.patience"),
        ({"mode": "rethink", "max_rethinks": 0}, "drr.max_rethinks"),
        ({"mode": "rethink", "max_rethinks": 0, "on_exhausted": "best"}, "drr.on_exhausted"),
        ({"threshold": 0.9, "max_lost_correct": 0.05}, "drr.max_lost_correct"),
        ({"max_rethinks": 1, "parallel": 3}, "drr.parallel"),
        ({"max_rethinks": 1, "parallel": 2, "rethink": "in_context"}, "drr.parallel"),
        ({"max_rethinks": 1, "threshold": 0.4, "accept": 0.6}, "drr.threshold"),
        ({"mode": "stop", "max_lost_correct": 0.001}, "drr.max_lost_correct"),
    ],
)
def test_contradictions_are_refused(asked: dict[str, Any], param: str) -> None:
    assert refused(asked).param == param


def test_a_mode_without_a_judge_is_refused() -> None:
    for mode in ("auto", "stop", "shadow", "rethink"):
        assert refused({"mode": mode}, WITHOUT_JUDGE).param == "drr.mode"
    assert settings({"mode": "off"}, WITHOUT_JUDGE).mode == "off"


def test_every_effort_is_a_request_that_can_be_made() -> None:
    risks = [EFFORTS[name]["max_lost_correct"] for name in ("minimal", "low", "high", "xhigh")]
    assert risks == sorted(risks, reverse=True), "more effort, less risk"
    for preset in EFFORTS.values():
        settings(dict(preset))


@pytest.mark.parametrize(("page", "name"), [(page, name) for page, names in tables.PAGES.items() for name in names])
def test_the_pages_have_the_tables(page: str, name: str) -> None:
    wanted = tables.section(name, tables.PAGES[page][name]())
    assert wanted in (ROOT / tables.DOCS / page).read_text(), "write it with: python -m server.tables"


def test_every_cause_is_told_of_once() -> None:
    assert [cause.cause for cause in CAUSES] == list(dict.fromkeys(cause.cause for cause in CAUSES))
    assert {cause.cause for cause in CAUSES} == set(StopCause)

"""`drr.dm`: one of several DMs judges, by what its own card says."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drr.judge.calibration import Certificate
from drr.judge.dm_folder import DmCard
from drr.judge.drift import DriftWatch
from drr.loop.policy import Verdict
from drr.loop.response import Finished, Outcome, StepReport
from drr.loop.rule import Rule
from server import metrics
from server.chat import DrrChat
from server.early_ends import Exit
from server.keys import KEYS, MODES, Mode, Need
from server.openapi import with_drr
from server.plan import PLAN_KEY, ResponsePlan
from server.promise import risk_object
from server.report import outcome_object
from server.resolve import Asked, resolve
from server.schema import DrrError, DrrRequest
from server.settings import Defaults, DmDefaults, Settings
from server.vllm_api import ChatCompletionRequest, ErrorResponse
from tests.fakes import FakeHead, FakeScorer
from tests.head_dms import make_dm
from tests.server.test_engine import Requests, engine_with
from tests.server.test_promise import AROUND, broken_by, request_of
from tests.server.test_schema import CALIBRATION

OWN = Rule(0.7, 3, 0.04, -0.15)
OWN_CALIBRATION = replace(
    CALIBRATION,
    right=77,
    sampling={"temperature": 0.3, "top_p": 1.0, "top_k": 0, "max_tokens": 1024},
    certificates=(Certificate(0.02, Rule(0.85, 1), 1, 77, 0.02, 0.2, 0.1),),
    default={"rule": OWN.to_json()},
    rethink={"rethink": {"rule": {"threshold": None, "hopeless": 0.2}, "accept": 0.66}},
)
NAMED = DmDefaults(OWN, OWN_CALIBRATION, nudge=2, nudge_below=0.45, nudge_cue="Hm,", nudge_cue_ids=(8, 9))
BARE = DmDefaults(Rule(0.6))
DEFAULTS = Defaults(
    mode="auto",
    rule=Rule(0.8, 2),
    calibration=CALIBRATION,
    beside={"small": NAMED, "bare": BARE},
    nudge=1,
    nudge_below=0.3,
    nudge_cue="Wait,",
    nudge_cue_ids=(7,),
    deadline=2.5,
)


def settings(asked: dict[str, Any], defaults: Defaults = DEFAULTS, **beside: Any) -> Settings:
    return resolve(DrrRequest.parse(asked), defaults, Asked(**{"temperature": 0.8, **beside}))


def refused(asked: dict[str, Any], defaults: Defaults = DEFAULTS, **beside: Any) -> str:
    with pytest.raises(DrrError) as caught:
        settings(asked, defaults, **beside)
    assert str(caught.value).startswith(f"{caught.value.param}: ")
    return str(caught.value)


# Which judges -------------------------------------------------------------------------------------------------


def test_a_named_dm_judges_by_what_its_card_says() -> None:
    own = settings({"dm": "small"})
    assert (own.judge, own.scorer, own.dm) == ("dm:small", "dm", "small")
    assert (own.threshold, own.patience, own.hopeless, own.min_gain) == (0.7, 3, 0.04, -0.15)
    assert (own.nudge, own.nudge_below) == (2, 0.45)
    assert own.calibration is OWN_CALIBRATION
    assert own.as_dict()["dm"] == "small"
    loop = own.loop_settings(DEFAULTS, 100, separate_answer=False)
    assert (loop.nudge_cue, loop.nudge_cue_ids) == ("Hm,", (8, 9))
    assert loop.deadline == 2.5, "it is a DM: nobody waits for it as for a scorer that asks the Reasoner"


def test_without_a_name_the_dm_of_dm_judges() -> None:
    for asked in ({}, {"scorer": "dm"}, {"dm": None}):
        own = settings(asked)
        assert (own.judge, own.dm, own.threshold, own.nudge, own.calibration) == ("dm", None, 0.8, 1, CALIBRATION)
        loop = own.loop_settings(DEFAULTS, 100, separate_answer=False)
        assert (loop.nudge_cue, loop.nudge_cue_ids) == ("Wait,", (7,))
    assert settings({"scorer": "confidence"}).dm is None


def test_naming_the_scorer_dm_beside_it_changes_nothing() -> None:
    assert settings({"dm": "small", "scorer": "dm"}) == settings({"dm": "small"})


def test_a_clients_own_numbers_stand_in_place_of_the_named_dms() -> None:
    own = settings({"dm": "small", "threshold": 0.9, "nudge": 1, "nudge_below": 0.2})
    assert (own.threshold, own.patience, own.nudge, own.nudge_below) == (0.9, 3, 1, 0.2)


def test_a_named_dm_that_is_not_calibrated_has_its_threshold_alone() -> None:
    own = settings({"dm": "bare"})
    assert (own.threshold, own.nudge, own.calibration) == (0.6, 0, None)
    assert "has not been calibrated" in refused({"dm": "bare", "max_lost_correct": 0.05})


def test_attempts_are_rejected_by_the_named_dms_calibration() -> None:
    own = settings({"dm": "small", "mode": "rethink"})
    assert (own.accept, own.hopeless) == (0.66, 0.2)
    assert settings({"mode": "rethink"}).accept == 0.5


def test_a_named_dm_judges_where_another_scorer_is_the_servers() -> None:
    other = replace(DEFAULTS, scorer="logprob")
    assert settings({}, other).judge == "logprob"
    assert settings({"dm": "small"}, other) == settings({"dm": "small"})


def test_naming_a_dm_is_asking_for_a_judgement() -> None:
    silent = replace(DEFAULTS, mode="off")
    assert settings({}, silent).mode == "off"
    assert settings({"dm": "small"}, silent).mode == "auto"
    assert settings({"dm": "small"}, replace(DEFAULTS, mode="shadow")).mode == "shadow"


# What is refused ----------------------------------------------------------------------------------------------


def test_a_name_that_no_dm_has_is_refused_with_those_that_there_are() -> None:
    assert refused({"dm": "big"}) == "drr.dm: this server has no DM of the name 'big'; there are: small, bare"
    assert refused({"dm": ""}) == "drr.dm: this server has no DM of the name ''; there are: small, bare"
    long = refused({"dm": "x" * 5000})
    assert long == f"drr.dm: this server has no DM of the name {'x' * 80!r}; there are: small, bare"
    alone = replace(DEFAULTS, beside={})
    assert refused({"dm": "small"}, alone) == (
        "drr.dm: this server has no DM of the name 'small'; there are: none (--dm-beside)"
    )
    assert refused({"dm": "small"}, Defaults(mode="off", rule=None, scorer=None)).startswith("drr.dm: ")


@pytest.mark.parametrize("value", [3, True, [], {}, 0.5])
def test_a_name_is_text(value: Any) -> None:
    with pytest.raises(DrrError, match=r"drr\.dm: "):
        DrrRequest.parse({"dm": value})


@pytest.mark.parametrize("scorer", ["confidence", "prm", "logprob"])
def test_a_name_beside_another_scorer_is_refused(scorer: str) -> None:
    assert refused({"dm": "small", "scorer": scorer}) == (f"drr.dm: {scorer} judges, as drr.scorer says: no DM does")


def test_a_name_is_refused_where_nobody_judges() -> None:
    assert refused({"dm": "small", "mode": "off"}) == "drr.dm: has no effect in mode off"
    assert refused({"dm": "small"}, forced_mode="off") == "drr.dm: has no effect in mode off"
    assert refused({"dm": "small", "max_thinking_tokens": 0}) == f"drr.dm: {Need.THINKS.value}"


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "off"])
def test_a_name_is_taken_in_every_mode_that_judges(mode: Mode) -> None:
    assert settings({"dm": "small", "mode": mode}).judge == "dm:small"


# What is promised ---------------------------------------------------------------------------------------------


def test_a_promise_is_that_of_the_named_dms_calibration() -> None:
    own = settings({"dm": "small", "max_lost_correct": 0.03, "nudge": 0})
    assert own.certificate is OWN_CALIBRATION.certificates[0]
    assert broken_by(request_of(temperature=0.3), own, AROUND) == []
    assert broken_by(request_of(temperature=0.8), own, AROUND) == ["temperature"]
    first = settings({"max_lost_correct": 0.03, "nudge": 0})
    assert broken_by(request_of(temperature=0.8), first, AROUND) == []
    risk = risk_object(own, [], Outcome(), cut=False)
    assert risk is not None
    assert (risk["certified"], risk["calibrated_on"]) == (0.02, "77 questions answered right")


def test_a_risk_that_only_the_other_dm_is_certified_for_is_uncertified() -> None:
    own = settings({"dm": "small", "max_lost_correct": 0.01})
    assert own.uncertified
    assert own.scorer is None
    assert own.dm is None, "nobody judges"
    assert "certified risks: 0.02" in refused({"dm": "small", "max_lost_correct": 0.01, "mode": "stop"})


# What the card says -------------------------------------------------------------------------------------------


def test_the_servers_side_of_a_dm_is_its_card(tmp_path: Path) -> None:
    folder = make_dm(
        tmp_path / "dm", "head", calibration=None, threshold=0.55, patience=2, nudge=1, nudge_below=0.2, nudge_cue="So,"
    )
    own = DmDefaults.of(DmCard.load(folder), lambda text: [len(text), 5])
    assert own == DmDefaults(Rule(0.55, 2), None, 1, 0.2, "So,", (3, 5))
    none = DmDefaults.of(None, lambda text: [len(text)])
    assert none == DmDefaults(None, None, 0, 0.5, "Wait,", (5,))


# In a response ------------------------------------------------------------------------------------------------


class Handler:
    """vLLM's chat handler, as far as the wrapper knows it: it keeps the plan that comes with a request."""

    def __init__(self) -> None:
        self.plans: list[ResponsePlan] = []
        self.models: Any = SimpleNamespace(base_model_paths=[SimpleNamespace(name="m")], lora_requests={})
        self.default_sampling_params = {"temperature": 0.8}

    def create_error_response(self, message: str, param: str | None = None) -> ErrorResponse:
        return ErrorResponse.model_validate(
            {"error": {"message": message, "type": "BadRequestError", "param": param, "code": 400}}
        )

    async def create_chat_completion(self, request: ChatCompletionRequest, raw_request: Any = None) -> ErrorResponse:
        self.plans.append((request.vllm_xargs or {})[PLAN_KEY])  # type: ignore[arg-type]
        return self.create_error_response("that is all")


def chat(monkeypatch: pytest.MonkeyPatch, defaults: Defaults = DEFAULTS) -> tuple[DrrChat, Handler]:
    engine = engine_with(Requests(), monkeypatch)
    assert engine.drr is not None
    engine.drr.defaults = defaults
    engine.drr.scorers.update({"dm": FakeScorer([0.1], id="first"), "dm:small": FakeHead([0.1], id="second")})
    handler: Any = Handler()
    runtime = replace(engine.drr, form=None)
    return DrrChat(handler, runtime), handler


async def planned(monkeypatch: pytest.MonkeyPatch, drr: Any, **fields: Any) -> ResponsePlan:
    made, handler = chat(monkeypatch)
    await made.create_chat_completion(request_of(drr=drr, **fields))
    return handler.plans[0]


async def test_a_response_tells_who_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    own = await planned(monkeypatch, {"dm": "small"})
    assert own.scorer_id == "second"
    report = outcome_object(own, Outcome())
    assert (report["judge"]["scorer"], report["judge"]["id"]) == ("dm", "second")
    assert report["settings"]["dm"] == "small"
    first = await planned(monkeypatch, {})
    assert first.scorer_id == "first"
    assert outcome_object(first, Outcome())["settings"]["dm"] is None


async def test_an_unknown_name_is_an_error_in_openais_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    made, handler = chat(monkeypatch)
    answer = await made.create_chat_completion(request_of(drr={"dm": "big"}))
    assert isinstance(answer, ErrorResponse)
    assert (answer.error.param, answer.error.code) == ("drr.dm", 400)
    assert handler.plans == []


@pytest.mark.parametrize(
    ("drr", "effort", "risk"),
    [
        ({"dm": "small"}, "low", 0.05),
        ({"dm": "small", "report": "summary"}, "minimal", 0.1),
        ({"dm": "bare"}, "low", None),
        ({"dm": "small"}, "max", None),
        ({"dm": "small", "threshold": 0.9}, "low", None),
        ({}, "low", 0.05),
    ],
)
async def test_an_effort_chooses_the_risk_of_the_dm_that_judges(
    drr: dict[str, Any], effort: str, risk: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, handler = chat(monkeypatch)
    made.runtime.scorers["dm:bare"] = FakeHead([0.1], id="third")
    await made.create_chat_completion(request_of(drr=drr, reasoning_effort=effort))
    own = handler.plans[0].settings
    assert own.max_lost_correct == risk
    assert own.dm == drr.get("dm")
    assert own.mode == "auto"


def test_the_drift_of_the_first_dm_is_watched_by_its_own_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(metrics, "observe_first_score", lambda watch, score: seen.append(score))
    engine = engine_with(Requests(), monkeypatch)
    assert engine.drr is not None
    engine.drr.drift = DriftWatch(CALIBRATION.drift)
    for drr, score in (({}, 0.25), ({"dm": "small"}, 0.5), ({"scorer": "logprob"}, 0.75)):
        own = ResponsePlan(settings(drr), "question", "id")
        engine._note(own, 0, StepReport(0, 3, score, score, Verdict.CONTINUE, 1.0), Exit("request"))
        engine._note(own, 0, Finished(Outcome(), "stop", None), Exit("request"))
    assert seen == [0.25]


# Where keys are told of ---------------------------------------------------------------------------------------


def test_the_key_is_in_the_openapi_document() -> None:
    document = with_drr({"components": {"schemas": {"ChatCompletionRequest": {"properties": {}}}}})
    told = document["components"]["schemas"]["DrrRequest"]["properties"]["dm"]
    key = next(key for key in KEYS if key.name == "dm")
    assert told["description"].startswith(key.meaning)
    assert "--dm-beside" in told["description"]
    assert {"type": "string"} in told["anyOf"]

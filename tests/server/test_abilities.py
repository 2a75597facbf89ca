"""What a model's card tells of DRR is what a request that asks for nothing gets."""

from typing import Any

from drr.loop.steps import StepRule
from server.abilities import abilities
from server.runtime import DrrRuntime
from server.settings import Defaults
from tests.fakes import FakeScorer
from tests.server.test_truth_table import CALIBRATION, RULE, WITHOUT_JUDGE, settings


def told(defaults: Defaults) -> dict[str, Any]:
    scorers: Any = {"dm": FakeScorer([0.5]), "confidence": FakeScorer([0.5])}
    scorers["dm"].id, scorers["confidence"].id = "a-dm", "confidence"
    return abilities(DrrRuntime(None, StepRule("tokens", 32), scorers, defaults))


def test_with_a_calibrated_dm() -> None:
    defaults = Defaults(mode="auto", rule=RULE, calibration=CALIBRATION)
    card = told(defaults)
    assert (card["judge"], card["step_rule"], card["risks"]) == ("a-dm", "tokens:32", [0.05])
    assert card["settings"] == card["auto"] == settings({}, defaults, 1.0).as_dict()
    assert card["thinking_again"] == settings({"max_rethinks": 1}, defaults, 1.0).as_dict()


def test_without_a_judge_nothing_is_offered() -> None:
    card = told(WITHOUT_JUDGE)
    assert (card["judge"], card["risks"], card["thinking_again"]) == (None, [], None)
    assert (card["settings"]["mode"], card["auto"]) == ("off", None)


def test_what_is_off_by_default_is_offered_all_the_same() -> None:
    card = told(Defaults(mode="off", rule=RULE, calibration=CALIBRATION))
    assert (card["settings"]["mode"], card["settings"]["threshold"]) == ("off", None)
    assert (card["judge"], card["auto"]["threshold"]) == ("a-dm", RULE.threshold)


def test_a_scorer_that_judges_by_default_is_named() -> None:
    card = told(Defaults(mode="auto", rule=None, scorer="confidence"))
    assert card["judge"] == "confidence"
    assert card["auto"]["threshold"] is not None

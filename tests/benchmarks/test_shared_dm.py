"""What the trial of a shared DM asks for."""

from typing import Any

import pytest

from benchmarks.answers import Answer
from benchmarks.shared_dm import Phase, faults


def answer(decisions: int, failed: int, tokens: int, cause: str) -> Answer:
    judge = {"decisions": decisions, "failed": failed, "late": 0, "mean_ms": 5.0 if decisions > failed else None}
    return Answer("complete", "stop", 0.1, 2.0, {"judge": judge, "thinking_tokens": tokens, "stop_cause": cause})


def figures(name: str, *answers: Answer) -> dict[str, Any]:
    return Phase(name, 10.0, list(answers), 0).figures()


JUDGED, FAILED = answer(4, 0, 100, "sure"), answer(3, 3, 300, "judge_unavailable")


def test_figures_of_a_phase() -> None:
    found = figures("both servers", JUDGED, FAILED, Answer("broken", "ReadError", 0, 1.0))
    assert (found["answers"], found["complete"], found["scores_failed"]) == (3, 2, 3)
    assert (found["judged"], found["thinking_tokens"], found["dm_ms"]) == (0.5, 200, 5.0)
    assert found["causes"] == {"sure": 1, "judge_unavailable": 1}
    assert found["answers_per_second"] == pytest.approx(0.2)


def trial(**phases: list[Answer]) -> dict[str, Any]:
    usual = {"both servers": [JUDGED], "the DM killed": [FAILED], "the DM back": [JUDGED]}
    told = {**usual, **{name.replace("_", " "): answers for name, answers in phases.items()}}
    return {
        "judged_again_after": {"first": 1.0, "second": 2.0},
        "phases": [figures(name, *answers) for name, answers in told.items()],
    }


def test_all_is_well() -> None:
    assert faults(trial()) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (trial(both_servers=[JUDGED, Answer("broken", "ReadError", 0, 1.0)]), "both servers: 1 of 2 had no complete"),
        (trial(both_servers=[]), "both servers: 0 of 0"),
        (trial(the_DM_killed=[JUDGED]), "no score failed"),
        (trial(the_DM_back=[FAILED]), "nothing is judged"),
        ({**trial(), "judged_again_after": {"first": None, "second": 1.0}}, "first server: not judged again"),
    ],
    ids=["broken", "silent", "not its DM", "not back", "one not back"],
)
def test_faults_are_told(found: dict[str, Any], said: str) -> None:
    (told,) = faults(found)
    assert said in told

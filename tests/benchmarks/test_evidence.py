"""The evidence benchmark; its section of the page shows what was recorded."""

import json
from pathlib import Path

import pytest

from benchmarks import evidence
from benchmarks.evidence import section
from benchmarks.pages import REFERENCE_PAGE
from drr.errors import InputError
from drr.evaluate.report import ALL
from drr.evaluate.write import RESULTS_NAME, summary
from drr.judge.calibration import Calibration
from drr.judge.dm_folder import DmCard
from drr.reference import dm_folder

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "evidence"


def row(name: str, family: str, gain: float, saved: float) -> dict[str, object]:
    return {
        "name": name,
        "family": family,
        "accuracy": 0.8,
        "tokens": 100.0,
        "thinking_tokens": 80.0,
        "seconds": 2.0,
        "gain_points": gain,
        "gain_interval": [gain - 1, gain + 1],
        "saved": saved,
        "saved_interval": [saved - 0.1, saved + 0.1],
        "lost_correct": 1,
        "gained_correct": 2,
    }


def test_a_stopper_is_shown_by_its_default_rule_and_its_best_in_hindsight() -> None:
    rows = [
        row("full thinking", "full", 0.0, 0.0),
        row("dm, default", "stop: dm", -0.4, 0.5),
        row("dm, 10 % lost", "stop: dm", -2.0, 0.7),
        row("dm, 5 % lost", "stop: dm", 0.1, 0.55),
        row("budget 64", "stop: budget", -9.0, 0.8),
        row("budget 128", "stop: budget", -5.0, 0.5),
        row("first stated answer", "stop: stated", -3.0, 0.6),
    ]
    text = summary({"groups": {ALL: rows, "logic": rows}, "equal_tokens": {ALL: []}, "selective": []}, [ALL])
    assert "|  | dm (3) | budget (2) | stated (1) |" in text
    assert "| logic | 50 %, -0.4 (55 %) | (none) | 60 %, -3.0 (none) |" in text


@pytest.mark.skipif(not (RESULTS / RESULTS_NAME).exists(), reason="no evidence has been recorded")
def test_the_page_says_what_was_recorded() -> None:
    results, settings = (json.loads((RESULTS / name).read_text()) for name in (RESULTS_NAME, "evidence.json"))
    assert section(results, settings, "../benchmarks/results/evidence/") in (ROOT / REFERENCE_PAGE).read_text()


def test_every_name_stands_for_strategies_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    certified = Calibration.from_json(DmCard.load(dm_folder()).calibration or {})

    class EveryoneLikeTheDm:
        def calibrations(self) -> dict[str, Calibration]:
            return dict.fromkeys(("dm", *evidence.SCORERS), certified)

    monkeypatch.setattr(evidence.Judges, "load", lambda dm, calibrations: EveryoneLikeTheDm())
    names = evidence._names(Path("dm"), Path("calibrations"))
    assert len(names) == len(set(names))
    for name in ("full thinking", "greedy, first stated answer", "rethink: critique, 8", "judged by self_critique"):
        assert name in names
    assert "first stated answer" in names
    assert "random, at 0.98" not in names


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(InputError, match="holds no evidence"):
        evidence.run(tmp_path / "work", tmp_path, None, 1)
    assert (tmp_path / "mine").read_text() == "precious"


def test_new_outcomes_take_the_place_of_the_old_whole(tmp_path: Path) -> None:
    out, outcomes = tmp_path / "out", tmp_path / "outcomes"
    for folder, name in ((out, "old.json"), (outcomes, "new.json"), (outcomes, "begun.partial")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    evidence._replace(out, outcomes)
    assert [path.name for path in out.iterdir()] == ["new.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "outcomes"]


def test_a_report_takes_no_options_of_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["evidence", "--report", "--limit", "5"])
    with pytest.raises(SystemExit):
        evidence.main()
    assert "--report runs nothing" in capsys.readouterr().err


def test_what_was_begun_with_another_dm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence._begin(tmp_path, None)
    evidence._begin(tmp_path, None)
    monkeypatch.setattr(evidence, "dm_state", lambda folder: "another")
    with pytest.raises(InputError, match="field dm"):
        evidence._begin(tmp_path, None)

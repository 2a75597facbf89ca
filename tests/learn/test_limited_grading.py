"""Commands go on where grading an answer takes too much: it is wrong, counted and named; a bad gold is set aside."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from drr.cli.main import main
from drr.learn.distill_config import DistillConfig
from drr.learn.distill_folder import close_folder
from drr.learn.records import REJECTED_NAME, Manifest, read_rollouts
from drr.tasks import Question, Split, grading_pool
from drr.tasks.arithmetic import questions
from drr.tasks.grading_worker import Limits
from tests.fake_engine import FakeEngine, distil
from tests.local_files import lines

ENDLESS = r"So \boxed{9^{9^{9}}}"
ASKED = questions(3, Split.TRAIN, 6)

# Ends its process on every answer that is too large by ten.
DYING = """
import os, re

def grade(response, gold):
    number = int(re.findall(r"-?\\d+", response)[-1])
    if number == int(gold) + 10:
        os._exit(1)
    return number == int(gold)
"""


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "dying_grader.py").write_text(DYING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grading_pool, "OWN_LIMITS", Limits(5.0))
    return "dying_grader:grade"


@pytest.mark.timeout(600)
def test_recorded_solutions_are_graded_to_the_end(tmp_path: Path) -> None:
    source = lines(
        tmp_path / "solutions.jsonl",
        {"question": "a?", "answer": "5", "solution": "The answer is 5 apples."},
        {"question": "b?", "answer": "5", "solution": ENDLESS},
        {"question": "c?", "answer": r"2\sqrt{3}", "solution": r"So \boxed{\sqrt{12}}"},
        {"question": "d?", "answer": "!!", "solution": "The answer is 5."},
        {"question": "e?", "answer": r"\frac{1", "solution": "The answer is 5."},
    )
    out = tmp_path / "records"
    command = [sys.executable, "-m", "drr.cli", "distill", source, "--recorded", "--out", str(out)]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=500, check=False, cwd=Path(__file__).parents[2]
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Traceback" not in result.stderr
    assert [(rollout.question, rollout.later) for rollout in read_rollouts(out)] == [
        ("a?", True),
        ("b?", False),
        ("c?", True),
    ]
    counts = Manifest.load(out).counts
    assert counts["over_limits"] == ["row 2: took more than 10 s"]
    assert counts["rejected_by_reason"] == {
        "answer holds no answer that can be read": 1,
        "answer is no expression that can be read": 1,
    }
    assert "grading given up, counted as wrong: 1" in result.stdout
    assert "row 2: took more than 10 s" in result.stdout
    rejected = [json.loads(line) for line in (out / REJECTED_NAME).read_text().splitlines()]
    assert [(reject["row"], reject["field"]) for reject in rejected] == [(4, "answer"), (5, "answer")]


@pytest.mark.parametrize("labels", ["gold", "consistency"])
def test_rollouts_are_graded_to_the_end(tmp_path: Path, dying: str, labels: str) -> None:
    config = DistillConfig(rollouts=4, extra_rollouts=0, shard_questions=4, grader=dying, labels=labels)  # type: ignore[arg-type]
    manifest = distil(ASKED, tmp_path / "records", config, FakeEngine(ASKED, skill=0.5))
    cases = manifest.counts["over_limits"]
    assert cases
    assert all(case.endswith("its process ended with status 1") for case in cases)
    rollouts = read_rollouts(tmp_path / "records")
    for rollout in rollouts:
        shown = f"question {rollout.question[:60]!r}, rollout {rollout.sample}"
        dead = int(rollout.answer) == int(rollout.gold) + 10
        assert dead is (f"{shown}: its process ended with status 1" in cases)
        assert rollout.later is (int(rollout.answer) == int(rollout.gold))
        for index, forced in enumerate(rollout.forced):
            named = f"{shown}, boundary {index}: its process ended with status 1" in cases
            assert named is (int(forced or "") == int(rollout.gold) + 10)
    again = close_folder(tmp_path / "records", replace(manifest, counts={}), [])
    assert again.counts["over_limits"] == cases, "they are kept with the records"


def test_a_question_whose_gold_cannot_be_read_is_not_rolled_out(tmp_path: Path) -> None:
    bad = Question("What is it?", "!!", "", 0)
    engine = FakeEngine(ASKED)
    manifest = distil([*ASKED, bad], tmp_path, DistillConfig(rollouts=1, extra_rollouts=0), engine)
    assert manifest.counts["questions"] == len(ASKED)
    assert manifest.counts["rejected_by_reason"] == {"answer holds no answer that can be read": 1}
    assert manifest.counts["over_limits"] == []


def test_a_grader_that_fails_ends_the_run_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "failing_grader.py").write_text("def grade(response, gold):\n    return 1 / 0\n")
    source = lines(tmp_path / "s.jsonl", {"question": "a?", "answer": "5", "solution": "The answer is 5."})
    command = ["distill", source, "--recorded", "--out", str(tmp_path / "out"), "--grader", "failing_grader:grade"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "--grader: 'failing_grader:grade' failed on the answer 'The answer is 5.', gold '5': ZeroDivision" in error
    assert "Traceback" not in error

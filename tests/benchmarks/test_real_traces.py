"""Recorded traces: imported, learned from and measured by the commands, each once; what an oracle could have saved."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.launch import run_drr
from benchmarks.real import traces
from benchmarks.real.traces import measure_traces, oracle_savings, spelled_alike
from drr.cli.main import main
from drr.errors import InputError
from drr.judge.dm_folder import read_trained_on
from drr.learn.dm_metrics import best_of
from drr.learn.records import Rollout, question_key, read_rollouts
from drr.learn.train_config import TRAIN_SHARE
from drr.tasks.grading_pool import Grading
from tests.fakes import rollout_of
from tests.local_files import lines
from tests.tiny_models import tiny

TRAINING = ("--epochs", "4", "--batch", "16", "--learning-rate", "1e-2", "--fresh-rate", "1", "--max-tokens", "64")


def solutions(folder: Path, questions: int) -> Path:
    """Four solutions a question, of which one, two or three are right; two steps show which."""
    rows = []
    for number in range(questions):
        for attempt in range(4):
            right = attempt < 1 + number % 3
            sign = "So 3=3." if right else "So 3=4."
            answer = number if right else number + 1 + attempt
            output = f"{sign}\n\nIt is {answer}.\n\n{sign}</think>\n\nThe answer is {answer}."
            rows.append({"question": f"What is {number}?", "answer": number, "output": output, "correct": right})
    return Path(lines(folder / "solutions.jsonl", *rows))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that were run, in this process."""
    run: list[str] = []

    def drr(*arguments: object) -> None:
        run.append(str(arguments[0]))
        assert main([*map(str, arguments)]) == 0

    monkeypatch.setattr(traces, "run_drr", drr)
    return run


@pytest.fixture
def grading() -> Iterator[Grading]:
    with Grading("auto") as found:
        yield found


def test_a_dm_is_trained_and_measured_on_other_questions(tmp_path: Path, commands: list[str]) -> None:
    source, backbone = solutions(tmp_path, 70), str(tiny(tmp_path / "backbone", "encoder"))
    work = tmp_path / "work"
    measure = partial(measure_traces, source, backbone, work, close="</think>", questions=60, training=TRAINING)
    found = measure()
    assert commands == ["distill", "train"]
    trained, asked = found["questions"]["trained on"], found["questions"]["measured on"]
    assert (trained, asked) == (round(TRAIN_SHARE * 60), 60 - round(TRAIN_SHARE * 60))
    tested = {question_key(rollout.question) for rollout in read_rollouts(work / "test")}
    assert (len(tested), len(read_trained_on(work / "dm"))) == (asked, trained)
    assert not tested & read_trained_on(work / "dm")
    assert found["attempts"] == 240
    assert found["right"] == pytest.approx(0.5, abs=0.06)
    assert found["now"]["all"]["boundaries"] == found["now"]["attempts"] == 4 * asked
    assert found["later"]["all"]["boundaries"] == 4 * 4 * asked
    for of in ("now", "later"):
        assert found[of]["last"]["auroc"] > 0.9
        low, high = found[of]["within_question_last"]["interval"]
        assert 0.9 < low <= found[of]["within_question_last"]["auroc"] <= high
    best = found["now"]["best_of"]
    assert best["questions"] == asked
    assert best["oracle"] == 1.0
    assert best["by_score"] > best["majority"] > best["random"]
    assert found["oracle"]["read"]["found"] == 1.0
    assert found["oracle"]["stated"]["found"] == 0.0
    assert json.loads(json.dumps(found)) == found

    assert measure() == found
    assert commands == ["distill", "train"]


def test_work_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = solutions(tmp_path, 4)
    run: list[tuple[str, ...]] = []

    def stopped(*arguments: object) -> None:
        run.append(tuple(map(str, arguments)))
        if arguments[0] == "train":
            raise KeyboardInterrupt
        assert main([*map(str, arguments)]) == 0

    monkeypatch.setattr(traces, "run_drr", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            measure_traces(source, "b", tmp_path / "work", step_rule="line", training=("--epochs", "1"))
    assert [command[0] for command in run] == ["distill", "train", "train"]
    assert run[0][-4:] == ("--step-rule", "line", "--out", str(tmp_path / "work" / "records"))
    assert run[1][-4:] == ("--train-share", "1", "--epochs", "1")
    with pytest.raises(InputError, match="field backbone: was begun with 'b', not 'c'"):
        measure_traces(source, "c", tmp_path / "work", step_rule="line", training=("--epochs", "1"))
    source.write_text(source.read_text() + "\n")
    with pytest.raises(InputError, match="field contents"):
        measure_traces(source, "b", tmp_path / "work", step_rule="line", training=("--epochs", "1"))
    with pytest.raises(InputError, match="there is no such file"):
        measure_traces(tmp_path / "nothing", "b", tmp_path / "work")


def test_commands_run_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    run = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: run.append((command, check)))
    run_drr("train", "--out", Path("dm"))
    assert run == [([sys.executable, "-m", "drr.cli", "train", "--out", "dm"], True)]


def answered(answer: str, gold: str = "70000", *, right: bool = False) -> Rollout:
    rollout = rollout_of([f"The answer is {answer}."])
    rollout.answer, rollout.gold, rollout.later = answer, gold, right
    return rollout


def test_votes_for_one_answer_are_counted_together() -> None:
    attempts = [answered("7"), answered("7"), answered("\\$70,\\!000", right=True), answered("70000", right=True)]
    attempts += [answered("70,000.", right=True)]
    assert [one.answer for one in spelled_alike(attempts)] == ["7", "7", *["70000"] * 3]
    assert best_of(np.zeros(4), attempts[:4])["majority"] == 0.0
    assert best_of(np.zeros(4), spelled_alike(attempts[1:]))["majority"] == 1.0
    wrong = [answered(text) for text in ("A: 60", "A: 140", "60", "$60", "Not known", "not  KNOWN", "")]
    same = [one.answer for one in spelled_alike(wrong)]
    assert same[0] == same[2] == same[3] != same[1]
    assert same[4] == same[5] != same[6]


def thought(*steps: str, gold: str = "12", right: bool = True) -> Rollout:
    """An attempt whose step i has 10 (i + 1) tokens."""
    rollout = rollout_of(list(steps))
    rollout.gold, rollout.later = gold, right
    rollout.step_tokens = [10 * (number + 1) for number in range(len(steps))]
    return rollout


def test_an_oracle_stops_behind_the_first_right_answer(grading: Grading) -> None:
    attempts = [
        thought("3 x 4 = 12\n\n", "So the answer is 12.\n\n", "Let me check.</think>\n\n", "The answer is 12."),
        thought("I see.\n\n", "No idea.</think>\n\n", "The answer is 12."),
        thought("The answer is 12.\n\n", "No, the answer is 13.</think>\n\n", "The answer is 13.", right=False),
        thought("The answer is 13.</think>\n\n", "The answer is 12.", right=False),
        thought("The answer is 5.\n\n", "The answer is 5.", gold=""),
    ]
    found = oracle_savings(attempts, grading, "</think>")
    assert (found["right"], found["wrong"]) == (2, 2)
    thinking = (10 + 20 + 30) + (10 + 20)
    assert found["stated"] == {"found": 0.5, "tokens": round(30 / thinking, 4), "steps": round(1 / 5, 4), "lost": 0.5}
    assert found["read"] == {"found": 0.5, "tokens": round(50 / thinking, 4), "steps": round(2 / 5, 4), "lost": 0.5}
    whole = oracle_savings(attempts, grading)
    assert whole["stated"]["found"] == 1.0
    assert whole["stated"]["tokens"] == round((30 + 40) / (100 + 60), 4)
    assert whole["stated"]["lost"] == 1.0
    nothing = oracle_savings([], grading)
    assert nothing["stated"] == {"found": None, "tokens": None, "steps": None, "lost": None}

"""The figures that the benchmarks compute, and the section on recorded savings."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.labels import dm_figures, relabel, relabelled
from benchmarks.out_of_distribution import measure
from benchmarks.pages import REFERENCE_PAGE, write_section
from benchmarks.repetition import Reader, padded, repeatable
from benchmarks.savings import Answer, Run, compared, first_statement, markdown
from drr import reference
from drr.learn.distill_folder import close_folder, open_folder, shard_path
from drr.learn.records import Rollout, read_rollouts, write_shard
from drr.tasks.grading import is_correct
from tests.fakes import rollout_of

ROOT = Path(__file__).resolve().parents[2]


def answer(right: bool, tokens: int, reasoning: str = "", steps: tuple[int, ...] = ()) -> Answer:
    return Answer(right, tokens, tokens - 10, "natural", reasoning, steps)


def test_runs_are_compared_question_by_question() -> None:
    base = Run("off", [answer(True, 100), answer(True, 100), answer(False, 100), answer(False, 100)], 2.0)
    run = Run("auto", [answer(True, 50), answer(False, 50), answer(True, 50), answer(True, 70)], 1.0)
    figures = compared(run, base, np.random.default_rng(0))
    assert (figures["lost_correct"], figures["gained_correct"]) == (1, 2)
    assert figures["accuracy_gain_points"] == 25.0
    assert figures["tokens_saved"] == 0.45
    low, high = figures["accuracy_gain_interval"]
    assert low < 25.0 < high
    assert compared(base, base, np.random.default_rng(0))["accuracy_gain_interval"] == [0.0, 0.0]


def test_the_first_statement_is_found_in_tokens() -> None:
    reasoning = "gain: 1+2=3.\n\nSo the answer is 3.\n\nLet me check.\n\n"
    assert first_statement(answer(True, 30, reasoning, (7, 6, 4))) == 13
    assert first_statement(answer(True, 30, "gain: 1+2=3.\n\n", (7,))) is None


def test_the_page_says_what_was_recorded() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "savings.json").read_text())
    assert markdown(results) in (ROOT / REFERENCE_PAGE).read_text()


def attempts(question: str, answers: list[str], difficulty: int = 2) -> list[Rollout]:
    """One rollout per answer; the gold answer is 3."""
    rollouts = []
    for sample, stated in enumerate(answers):
        rollout = rollout_of(
            ["x: 1+2=3.\n\n", f"So the answer is {stated}.\n\n", "Let me check.\n\n", f"1+2={stated}.\n\n"]
        )
        rollout.question, rollout.sample, rollout.answer, rollout.difficulty = question, sample, stated, difficulty
        rollout.forced = ["3", stated, stated, stated]
        rollout.now, rollout.later = [answer == "3" for answer in rollout.forced], stated == "3"
        rollouts.append(rollout)
    return rollouts


def test_majority_labels_need_no_gold(tmp_path: Path) -> None:
    rollouts = [*attempts("a", ["3", "3", "4"]), *attempts("b", ["5", "3", "5.0"]), *attempts("c", ["1", "2", "3"])]
    found = relabelled(rollouts, is_correct)
    assert set(found) == {"a", "b"}
    assert [rollout.later for rollout in found["b"]] == [True, False, True]
    assert found["b"][0].now == [False, True, True, True]
    settings = {"grader": "auto", "labels": "gold", "step_rule": "line", "reasoner": {"name": "r", "fingerprint": "f"}}
    manifest = open_folder(tmp_path / "gold", settings)
    write_shard(shard_path(tmp_path / "gold", 0), rollouts)
    close_folder(tmp_path / "gold", manifest, [])
    figures = relabel(tmp_path / "gold", tmp_path / "majority")
    assert figures == {"questions": 2, "without_majority": 1, "majority_right": 0.5, "same_later": 0.5}
    assert {rollout.gold for rollout in read_rollouts(tmp_path / "majority")} == {"3", "5"}


def test_dms_are_compared_and_their_certificates_tried_on_harder_questions() -> None:
    easy = [rollout for number in range(400) for rollout in attempts(f"What is {number} + 1?", ["3"])]
    hard = [rollout for number in range(40) for rollout in attempts(f"What is {number} + 2?", ["3", "4"], difficulty=8)]
    results = measure(reference.dm_folder(), [*easy, *hard], 4)
    assert results["certified_on"] < 400
    assert {risk["max_lost_correct"] for risk in results["risks"]} >= {0.05, 0.1}
    for risk in results["risks"]:
        assert risk["hard"]["right"] == 40
        assert risk["hard"]["lost"] == 0
    assert results["drift"]["hard"]["responses"] == 80
    assert results["drift"]["hard"]["warned_after"] is None
    assert results["drift"]["easy, left out"]["responses"] + results["certified_on"] < 400
    figures = dm_figures(reference.dm_folder(), hard)
    assert figures["rules"]["default"]["lost_rate"] == pytest.approx(0.0)
    assert 0 <= figures["auroc"]["first"] <= 1


def test_padding_repeats_right_steps_only() -> None:
    rollout = rollout_of(
        ["so: 1+2=3.\n\n", "so: 3*4=13.\n\n", "Let me check.\n\n", "12/4=3.\n\n", "So the answer is 3.\n\n"]
    )
    assert repeatable(rollout) == ["so: 1+2=3.\n\n", "12/4=3.\n\n"]
    longer = padded(rollout, 3)
    assert longer.steps == [*rollout.steps, "so: 1+2=3.\n\n", "12/4=3.\n\n", "so: 1+2=3.\n\n"]
    assert (longer.question, longer.later) == (rollout.question, rollout.later)
    assert repeatable(rollout_of(["7/0=3.\n\n", "7/2=3.\n\n"])) == []


def test_padded_text_is_read_by_the_reasoner_itself() -> None:
    reader = Reader(reference.reasoner_folder())
    rollout = rollout_of(["gain: 12+30=42.\n\n", "So the answer is 42.\n\n"])
    rollout.question = "Tom has 12 apples. He finds 30 more. How many apples does Tom have now?"
    likely = reader.read(rollout)
    assert [len(logprobs or []) for logprobs in likely.logprobs] == likely.step_tokens
    assert min(value for logprobs in likely.logprobs for value in logprobs or []) > -3.0
    wrong = reader.read(padded(rollout_of(["gain: 12+30=97.\n\n", "12+30=42.\n\n"]), 1))
    assert min(wrong.logprobs[0] or []) < -3.0
    assert len(wrong.logprobs) == 3


def test_sections_are_replaced_and_missing_ones_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- x: written by hand -->\nold\n<!-- end of x -->\nb\n")
    write_section(path, "x", "make x", "new")
    assert path.read_text() == "a\n<!-- x: written by make x -->\nnew\n<!-- end of x -->\nb\n"
    with pytest.raises(ValueError, match="has no section y"):
        write_section(path, "y", "make y", "new")

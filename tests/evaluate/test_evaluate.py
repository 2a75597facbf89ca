"""Evaluation of strategies on a fake engine: every token is counted, nothing is run twice, figures are right."""

import asyncio
import io
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drr import reference
from drr.cli import eval_command
from drr.cli.main import main
from drr.errors import InputError
from drr.evaluate.eval_config import EvalConfig
from drr.evaluate.report import (
    ALL,
    StrategyArrays,
    at_equal_tokens,
    best_mixture,
    figures,
    groups_of,
    judged,
    strategy_arrays,
)
from drr.evaluate.run import Evaluator, Row, StrategyOutcomes, evaluate, read_outcomes, recorded_settings, rows_path
from drr.evaluate.selective import Judged, areas, confusion, coverage_curve
from drr.evaluate.strategies import FULL, SAMPLES, Strategy, all_strategies
from drr.evaluate.tables import every_strategy, verdicts
from drr.evaluate.write import COVERAGE_NAME, PLOT_NAME, REPORT_NAME, RESULTS_NAME, write_report
from drr.judge.calibration import Calibration, Certificate
from drr.judge.scorer_card import ScorerCard
from drr.judge.scorers.registry import training_free
from drr.learn.distill_folder import questions_key
from drr.loop.formats import PlainChain
from drr.loop.policy import PolicySettings, Score
from drr.loop.probing import Probe
from drr.loop.rethink import RethinkSettings
from drr.loop.rule import Rule
from drr.loop.scoring import Boundary
from drr.loop.steps import StepRule
from drr.tasks import Split
from drr.tasks.arithmetic import questions
from drr.tasks.grading import is_correct
from drr.tasks.grading_pool import Grading
from tests.fake_engine import TOKENIZER, FakeEngine

ASKED = questions(3, Split.TEST, 10)
CONFIG = EvalConfig()
SCORERS = ["confidence", "answer_probe", "logprob"]


def strategies() -> list[Strategy]:
    everything = all_strategies(SCORERS, {}, (2, 4))  # type: ignore[arg-type]
    wanted = (
        FULL,
        "4 samples",
        "greedy",
        "first stated answer",
        "budget 32",
        "rethink: answer_probe, 2",
        "confidence, at 0.5",
        "judged by confidence",
        "oracle stop",
    )
    return [strategy for strategy in everything if strategy.name in wanted]


def run(out: Path, engine: FakeEngine, config: EvalConfig = CONFIG, asked: int = 10) -> None:
    evaluator = Evaluator(engine.reasoner(), dict(training_free()), Grading("auto"), config)
    asyncio.run(evaluate(evaluator, strategies(), ASKED[:asked], out, recorded_settings(config)))


def test_every_strategy_answers_every_question_and_nothing_is_left_running(tmp_path: Path) -> None:
    engine = FakeEngine(ASKED, skill=0.85)
    run(tmp_path, engine)
    assert engine.running == 0
    outcomes = {outcome.name: outcome for outcome in read_outcomes(tmp_path)}
    assert set(outcomes) == {strategy.name for strategy in strategies()}
    for outcome in outcomes.values():
        samples = 4 if outcome.name == "4 samples" else 1
        assert sorted((row.question, row.sample) for row in outcome.rows) == [
            (q, s) for q in range(10) for s in range(samples)
        ]
        for row in outcome.rows:
            assert row.right is is_correct(row.answer, ASKED[row.question].answer)
    full = {row.question: row for row in outcomes[FULL].rows if row.sample == 0}
    for row in outcomes["first stated answer"].rows:
        assert row.thinking_tokens < full[row.question].thinking_tokens
    for row in outcomes["confidence, at 0.5"].rows:
        assert row.probe_tokens > 0
        assert row.tokens > row.probe_tokens + row.thinking_tokens
    assert {row.attempts for row in outcomes["rethink: answer_probe, 2"].rows} == {1, 2}
    assert all(np.isnan(row.p_now) for row in outcomes["budget 32"].rows)
    stopped = [row for row in outcomes["oracle stop"].rows if row.stop_cause == "sure"]
    assert stopped
    assert all(row.right and not row.probe_tokens for row in stopped), "it knows what the answer will be"


def test_a_run_goes_on_where_it_was_and_other_settings_are_refused(tmp_path: Path) -> None:
    first = FakeEngine(ASKED)
    run(tmp_path, first)
    missing = tmp_path / "greedy.parquet"
    before = missing.read_bytes()
    missing.unlink()
    again = FakeEngine(ASKED)
    run(tmp_path, again)
    assert 0 < again.requests < first.requests / 4
    made, made_before = (pq.read_table(source).drop_columns(["p_now"]) for source in (missing, io.BytesIO(before)))
    assert made.equals(made_before)
    changed = replace(strategies()[0], max_thinking_tokens=5)
    evaluator = Evaluator(again.reasoner(), dict(training_free()), Grading("auto"), CONFIG)
    with pytest.raises(InputError, match="field max_thinking_tokens: was begun with None, not 5"):
        asyncio.run(evaluate(evaluator, [changed], ASKED, tmp_path, recorded_settings(CONFIG)))
    with pytest.raises(InputError, match=r"field temperature: was begun with 0\.8"):
        run(tmp_path, again, EvalConfig(temperature=0.5))
    with pytest.raises(InputError, match="field questions"):
        run(tmp_path, again, asked=5)


def test_outcomes_of_before_a_setting_was_there_are_continued(tmp_path: Path) -> None:
    run(tmp_path, FakeEngine(ASKED))
    for path in tmp_path.glob("*.parquet"):
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[b"drr"])
        del about["definition"]["policy"]["stops"]
        if about["definition"]["rethink"]:
            del about["definition"]["rethink"]["separator"]
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"drr": json.dumps(about)}), path)
    again = FakeEngine(ASKED)
    run(tmp_path, again)
    assert again.requests == 0


def test_a_run_that_is_killed_ends_with_the_same_outcomes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole, FakeEngine(ASKED, skill=0.85))
    process = subprocess.Popen([sys.executable, "-m", "tests.evaluate.test_evaluate", str(killed)])
    deadline = time.monotonic() + 120
    while len(list(killed.glob("*.parquet"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(list(killed.glob("*.parquet"))) < len(list(whole.glob("*.parquet")))
    run(killed, FakeEngine(ASKED, skill=0.85))
    for path in whole.glob("*.parquet"):
        made, again = (pq.read_table(folder / path.name).drop_columns(["p_now"]) for folder in (whole, killed))
        assert again.equals(made), path.name


def row(question: int, sample: int, answer: str, right: bool, tokens: int, p_now: float) -> Row:
    group = "odd" if question % 2 else "even"
    return Row(question, group, sample, answer, right, tokens, tokens // 2, 0, 1, p_now, 0, "natural")


def test_samples_are_put_together_and_all_of_their_tokens_count() -> None:
    drawn = [
        [("3", True, 0.2), ("4", False, 0.9), ("3", True, 0.3), ("5", False, 0.1)],
        [("7", False, 0.1), ("8", True, 0.8), ("7", False, 0.2), ("7", False, 0.3)],
    ]
    rows = [
        row(q, s, *sample[:2], 100, sample[2]) for q, samples in enumerate(drawn) for s, sample in enumerate(samples)
    ]
    found = {
        strategy.name: strategy
        for strategy in strategy_arrays([StrategyOutcomes("4 samples", SAMPLES, 8.0, rows)], Grading("auto"))
    }
    assert found["self-consistency, 2"].right.tolist() == [1, 0], "where no two agree, the first"
    assert found["self-consistency, 4"].right.tolist() == [1, 0]
    assert found["best of 4 by DM"].right.tolist() == [0, 1]
    assert found["any of 4 (oracle)"].right.tolist() == [1, 1]
    assert found["self-consistency, 4"].tokens.tolist() == [400, 400]
    assert found["best of 2 by DM"].seconds == 4.0


def test_empty_answers_do_not_vote() -> None:
    rows = [row(0, sample, answer, answer == "3", 10, 0.5) for sample, answer in enumerate(["3", "", ""])]
    found = {
        strategy.name: strategy
        for strategy in strategy_arrays([StrategyOutcomes("3 samples", SAMPLES, 8.0, rows)], Grading("auto"))
    }
    assert found["self-consistency, 3"].right.tolist() == [1]


def test_figures_are_paired_with_full_thinking() -> None:
    rng = np.random.default_rng(0)
    right, tokens = (rng.random(400) < 0.7).astype(float), rng.integers(100, 300, 400).astype(float)
    half = StrategyArrays("half", "x", right, tokens / 2, tokens / 4, 1.0)
    worse = StrategyArrays("worse", "x", np.where(rng.random(400) < 0.1, 0.0, right), tokens, tokens, 1.0)
    full, cheap, bad = figures([StrategyArrays(FULL, "full", right, tokens, tokens / 2, 2.0), half, worse])
    assert (full["gain_points"], full["gain_interval"], full["saved"]) == (0.0, [0.0, 0.0], 0.0)
    assert (cheap["saved"], cheap["saved_interval"], cheap["lost_correct"]) == (0.5, [0.5, 0.5], 0)
    assert bad["gain_interval"][1] < 0
    assert bad["lost_correct"] == round(-4 * bad["gain_points"])
    assert bad["gained_correct"] == 0


def test_what_came_from_a_cache_has_no_time() -> None:
    right, tokens = np.ones(30), np.full(30, 100.0)
    full = StrategyArrays(FULL, "full", right, tokens, tokens, 12.4)
    found = figures([full, replace(full, name="cached", seconds=None)])
    rows = [line.split(" | ") for line in every_strategy(found).splitlines() if "100.0 %" in line]
    assert [row[-3] for row in rows] == ["12", "–"]
    assert json.loads(json.dumps(found))[1]["seconds"] is None


CALIBRATION = Calibration(
    confidence=0.95,
    source="key",
    labels="gold",
    questions={"test": 500},
    right=400,
    sampling={},
    certificates=(Certificate(0.01, Rule(0.97), 1, 400, 0.02, 0.2, 0.1),),
    refused={},
    drift={"edges": [0.5], "shares": [0.5, 0.5]},
    default={"rule": Rule(0.4, 2, 0.3).to_json()},
    rethink={
        "auto": {"rule": Rule(0.8, 1, 0.5).to_json(), "accept": 0.6},
        "rethink": {"rule": Rule(1.0).to_json(), "accept": 0.7},
    },
)


def test_a_calibrated_judge_brings_its_rules_and_thinking_again() -> None:
    found = all_strategies(["dm", "entropy"], {"dm": CALIBRATION}, (2, 4))
    names = [strategy.name for strategy in found]
    assert len(set(names)) == len(names)
    by_name = {strategy.name: strategy for strategy in found}
    assert by_name["dm, 1 % lost"].policy == PolicySettings(0.97)
    both = by_name["stop + rethink: dm, 4"]
    assert (both.policy.threshold, both.policy.hopeless, both.policy.accept) == (0.8, 0.5, 0.6)
    assert both.rethink is not None
    assert (both.rethink.max_rethinks, both.rethink.kind) == (3, "fresh")
    in_context = by_name["in context, stop + rethink: dm, 4"].rethink
    assert in_context is not None
    assert in_context.kind == "in_context"
    assert by_name["rethink: dm, 2"].policy.accept == 0.7
    assert by_name["rethink: dm, 2"].step_rule is None, "the DM was trained on steps"
    assert by_name["rethink: entropy, 2"].step_rule == StepRule.parse("attempt"), "asked where it matters only"
    assert by_name[FULL].scorer is None
    assert not by_name["4 samples"].policy.acts, "they are scored for the best of k, and left alone"
    greedy = by_name["greedy, stop + rethink: dm, 4"]
    assert (greedy.greedy, greedy.policy) == (True, both.policy)


def test_a_critique_is_also_followed_by_an_attempt_that_sees_the_rejected_one() -> None:
    by_name = {strategy.name: strategy for strategy in all_strategies(["critique", "entropy"], {}, (2,))}
    seen = by_name["in context, rethink: critique, 2"].rethink
    assert seen is not None
    assert (seen.kind, seen.max_rethinks) == ("in_context", 1)
    assert "in context, rethink: entropy, 2" not in by_name


def test_the_report_is_made_of_what_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, FakeEngine(ASKED))
    command = ["eval", "arithmetic:10:3:test", "--out", str(tmp_path), "--report"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "self-consistency, 4" in printed
    results = json.loads((tmp_path / RESULTS_NAME).read_text())
    assert len(results["groups"][ALL]) == len(strategies()) - 2 + 8, (
        "two numbers of samples, each put together without a DM"
    )
    assert [judge["judge"] for judge in results["selective"]] == ["confidence"]
    assert (tmp_path / PLOT_NAME).stat().st_size > 10_000
    assert (tmp_path / COVERAGE_NAME).stat().st_size > 10_000
    text = (tmp_path / REPORT_NAME).read_text()
    assert "| confidence | " in text
    assert "### Who confirms what" in text
    assert "Every strategy: all questions" in text
    assert "Boundaries without a score" not in text


def test_boundaries_without_a_score_are_told(tmp_path: Path) -> None:
    run(tmp_path, FakeEngine(ASKED))
    path = rows_path(tmp_path, "confidence, at 0.5")
    table = pq.read_table(path)
    unscored = pa.array([2] + [0] * (len(table) - 1))
    pq.write_table(table.set_column(table.schema.get_field_index("unscored"), "unscored", unscored), path)
    with Grading("auto") as grading:
        write_report(tmp_path, grading)
    assert "- confidence, at 0.5: 2\n" in (tmp_path / REPORT_NAME).read_text()


def test_answers_whose_grading_is_given_up_are_wrong_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = "number == int(gold) + 10 or len(gold) > 3"
    (tmp_path / "dying.py").write_text(
        "import os, re\n\ndef grade(response, gold):\n    number = int(re.findall(r'-?\\d+', response)[-1])\n"
        f"    if {wrong}:\n        os._exit(1)\n    return number == int(gold)\n"
    )
    out, chosen = tmp_path / "out", [strategy for strategy in strategies() if strategy.name in (FULL, "oracle stop")]
    with Grading("dying:grade") as grading:
        evaluator = Evaluator(FakeEngine(ASKED, skill=0.4).reasoner(), dict(training_free()), grading, CONFIG)
        asyncio.run(evaluate(evaluator, chosen, ASKED, out, recorded_settings(CONFIG)))
    outcomes = {outcome.name: outcome for outcome in read_outcomes(out)}
    dead = [row for row in outcomes[FULL].rows if int(row.answer) == int(ASKED[row.question].answer) + 10]
    assert dead
    assert not any(row.right for row in dead)
    assert outcomes[FULL].over_limits == tuple(
        sorted(f"{FULL}: question {row.question}, sample 0: its process ended with status 1" for row in dead)
    )
    assert any(", oracle: " in case for case in outcomes["oracle stop"].over_limits)
    command = ["eval", "arithmetic:10:3:test", "--out", str(out), "--report"]
    assert main([*command, "--grader", "dying:grade"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    results = json.loads((out / RESULTS_NAME).read_text())
    assert set(outcomes[FULL].over_limits) < set(results["over_limits"])
    assert f"counted as wrong: {len(results['over_limits'])}" in printed
    assert f"- {outcomes[FULL].over_limits[0]}\n" in (out / REPORT_NAME).read_text()


def test_questions_whose_gold_cannot_be_read_are_set_aside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    async def look(*given: Any) -> None:
        asked.append([question.text for question in given[4]])
        raise InputError("here", "is enough")

    monkeypatch.setattr(eval_command, "_evaluate", look)
    source = tmp_path / "q.jsonl"
    rows = [{"question": f"{answer}?", "answer": answer} for answer in ("72", "!!", r"\sqrt{2}", r"\frac{1")]
    source.write_text("\n".join(map(json.dumps, rows)))
    command = ["eval", str(source), "--reasoner", "r", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert asked == [["72?", r"\sqrt{2}?"]]
    printed = " ".join(capsys.readouterr().out.split())
    assert "set aside: row 2, answer: holds no answer that can be read" in printed
    assert "set aside: row 4, answer: is no expression that can be read" in printed
    source.write_text(json.dumps(rows[1]))
    assert main(command) == 2
    assert "questions: no gold answer can be used" in " ".join(capsys.readouterr().err.split())


def test_groups_have_figures_of_their_own() -> None:
    rows = [row(q, 0, "3", q % 2 == 0, 100, 0.5) for q in range(60)]
    outcomes = [StrategyOutcomes(FULL, "full", 8.0, rows)]
    groups = groups_of(outcomes)
    assert {name: len(group) for name, group in groups.items()} == {ALL: 60, "even": 30, "odd": 30}
    (strategy, *_) = strategy_arrays(outcomes, Grading("auto"))
    even = figures([strategy.of(groups["even"])])[0]
    assert (even["accuracy"], even["thinking_tokens"]) == (1.0, 50.0)
    assert figures([strategy.of(groups["odd"])])[0]["accuracy"] == 0.0
    assert set(groups_of([StrategyOutcomes(FULL, "full", 8.0, rows[:30])])) == {ALL}, "15 questions are too few"


def flat(name: str, family: str, right: float, tokens: float, questions: int = 400) -> StrategyArrays:
    rights = (np.arange(questions) < right * questions).astype(float)
    return StrategyArrays(name, family, rights, np.full(questions, tokens), np.full(questions, 10.0), 1.0)


def test_strategies_meet_at_equal_tokens() -> None:
    found = [
        flat(FULL, "full", 0.6, 100.0),
        flat("self-consistency, 2", "self-consistency", 0.6, 200.0),
        flat("self-consistency, 4", "self-consistency", 0.72, 400.0),
        flat("ours, 1", "ours", 0.65, 80.0),
        flat("ours, 2", "ours", 0.75, 200.0),
        flat("ours, 3", "ours", 0.75, 500.0),
    ]
    against = [
        comparison for comparison in at_equal_tokens(found, ["ours"]) if comparison["against"] == "self-consistency"
    ]
    mixtures = [(comparison["their_tokens"], comparison["their_accuracy"]) for comparison in against]
    assert mixtures == [(100, 0.6), (200, 0.64), (400, 0.72)], (
        "two samples are no better than a mixture of one and four"
    )
    assert [comparison["gain_points"] for comparison in against] == [5.0, 11.0, 3.0]
    assert all(
        comparison["gain_interval"][0] < comparison["gain_points"] < comparison["gain_interval"][1]
        for comparison in against
    )


@given(
    points=st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=8), wanted=st.integers(1, 60)
)
def test_the_best_mixture_is_no_worse_than_any_point_or_pair(points: list[tuple[int, float]], wanted: int) -> None:
    tokens, right = (np.asarray([float(point[part]) for point in points]) for part in (0, 1))
    spent, reached = best_mixture(tokens, right, wanted)
    affordable = [r for t, r in points if t <= wanted]
    if not affordable:
        assert spent == min(tokens)
        return
    assert spent <= wanted
    assert reached >= max(affordable) - 1e-9
    for left_tokens, left in points:
        for right_tokens, other in points:
            if left_tokens <= wanted < right_tokens:
                share = (wanted - left_tokens) / (right_tokens - left_tokens)
                assert reached >= (1 - share) * left + share * other - 1e-9
    assert reached <= max(right) + 1e-9


def test_selective_answering() -> None:
    right = np.asarray([1.0, 1.0, 0.0, 0.0])
    assert coverage_curve(np.asarray([0.9, 0.8, 0.2, 0.1]), right).tolist() == pytest.approx([1, 1, 2 / 3, 0.5])
    assert coverage_curve(np.full(4, 0.5), right).tolist() == [0.5] * 4, "a judge that knows nothing gains nothing"
    rng = np.random.default_rng(0)
    truth = (rng.random(600) < 0.6).astype(float)
    sharp, blunt = truth + rng.normal(0, 0.3, 600), truth + rng.normal(0, 3.0, 600)
    one, other = areas([Judged("sharp", sharp, truth), Judged("blunt", blunt, truth)])
    assert one["against_first_interval"] == [0, 0]
    assert other["against_first_interval"][1] < 0
    assert one["interval"][0] < one["area"] < one["interval"][1]


def test_what_a_judge_confirms_is_told_apart_by_what_is_right() -> None:
    right = np.asarray([1.0, 1.0, 1.0, 0.0])
    found = confusion(Judged("judge", np.asarray([0.9, 0.5, 0.4, 0.6]), right), 0.5)
    assert (found["true_confirmed"], found["false_confirmed"], found["true_verdicts"]) == (0.6667, 1.0, 0.5)
    none_wrong = confusion(Judged("judge", np.ones(2), np.ones(2)), 0.5)
    assert (none_wrong["true_confirmed"], none_wrong["false_confirmed"]) == (1.0, None)
    assert "| judge | 0.5 | 100.0 % | - | 100.0 % |" in verdicts([none_wrong])


def test_judges_are_compared_on_full_answers() -> None:
    rows = [row(q, s, "3", True, 100, 0.1 * q) for q in range(4) for s in range(2)]
    outcomes = [
        StrategyOutcomes("judged by entropy", "judged", 1.0, rows[::2]),
        StrategyOutcomes("2 samples", SAMPLES, 8.0, rows),
    ]
    found = judged([*outcomes, StrategyOutcomes(FULL, "full", 1.0, rows[::2])])
    assert [judge.name for judge in found] == ["dm", "entropy"]
    assert found[0].belief.tolist() == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_strategys_whole_name_means_that_one_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen: list[list[str]] = []

    async def look(*given: Any) -> None:
        chosen.append([strategy.name for strategy in given[3]])
        raise InputError("here", "is enough")

    monkeypatch.setattr(eval_command, "_evaluate", look)
    command = ["eval", "arithmetic:10:3:test", "--reasoner", "r", "--out", str(tmp_path)]
    for part in ("greedy", "greedy, f"):
        assert main([*command, "--strategy", part]) == 2
    assert chosen == [[FULL, "greedy"], [FULL, "greedy, first stated answer"]]


def test_questions_that_a_judge_was_calibrated_on_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = replace(CALIBRATION, source=questions_key(questions(3, Split.TEST, 10)))
    ScorerCard("entropy", "r", "r", "blank_line", calibration.to_json()).save(tmp_path / "scorers")
    command = ["eval", "arithmetic:10:3:test", "--reasoner", "r", "--out", str(tmp_path / "out")]
    assert main([*command, "--calibration", str(tmp_path / "scorers")]) == 2
    assert "questions: are those that entropy was calibrated on" in capsys.readouterr().err


def test_another_sampling_than_the_calibrations_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    judges = {"entropy": replace(CALIBRATION, sampling={"temperature": 0.8}), "dm": CALIBRATION}
    eval_command._tell_other_sampling(judges, 0.8)
    assert capsys.readouterr().out == ""
    eval_command._tell_other_sampling(judges, 0.3)
    said = capsys.readouterr().out
    assert "entropy was calibrated at temperature 0.8, not 0.3" in said
    assert "dm" not in said
    eval_command._tell_other_sampling({"dm": replace(CALIBRATION, sampling={"dtype": "bfloat16"})}, 0.8)
    assert "dm was calibrated with --dtype bfloat16, not with the usual --dtype" in capsys.readouterr().out
    eval_command._tell_other_sampling({"dm": CALIBRATION}, 0.8, "float16")
    assert "dm was calibrated with the usual --dtype, not with --dtype float16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scorer", "dm"], "--scorer"),
        (["--scorer", "guess"], "--scorer"),
        (["--attempts", "1"], "--attempts"),
        (["--strategy", "magic"], "--strategy: 'magic' fits none of:\n  full thinking\n"),
        (["--concurrency", "0"], "--concurrency: must be at least 1"),
        (["--temperature", "0"], "--temperature"),
        (["--max-tokens", "3"], "--max-tokens"),
        (["--step-rule", "word"], "--step-rule"),
        (["--dm", "nowhere"], "nowhere: is no DM"),
        (["--report"], "--reasoner: is not for --report"),
        (["--use-cache", "c", "--prm", "p"], "--use-cache: is not for a judge beside the Reasoner's engine"),
        (["--use-cache", "c", "--dm", str(reference.dm_folder())], "--use-cache: is not for a judge beside"),
    ],
)
def test_what_cannot_be_run_is_named(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "arithmetic:10:3:test", "--reasoner", "r", "--out", str(tmp_path), *arguments]
    assert main(command) == 2
    assert said in capsys.readouterr().err


class Believing:
    def __init__(self, p_now: float) -> None:
        self.p_now = p_now

    async def score(self, boundary: Boundary) -> Score:
        return Score(self.p_now, 0.5)


class EverSurer:
    """Believes less in every attempt than in those before it, or more."""

    id = "surer"

    def __init__(self, direction: float) -> None:
        self.direction, self.attempts = direction, 0

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "Believing":
        self.attempts += 1
        return Believing(0.5 + self.direction * self.attempts / 1000)


@pytest.mark.parametrize(("direction", "chosen"), [(-1.0, 0), (1.0, 1)])
def test_where_a_chain_holds_its_answer_the_chosen_attempt_still_answers(
    tmp_path: Path, direction: float, chosen: int
) -> None:
    cue = "\n\nThe answer is"
    form = PlainChain(close_ids=tuple(TOKENIZER.encode(cue, add_special_tokens=False)), close_text=cue)
    engine = FakeEngine(ASKED, skill=0.5, form=form)
    scorers: Any = {"dm": EverSurer(direction)}
    asked = [
        Strategy(FULL, "full"),
        Strategy("2 samples", SAMPLES, samples=2),
        Strategy(
            "again", "again", scorer="dm", policy=PolicySettings(threshold=None, accept=0.9), rethink=RethinkSettings(1)
        ),
    ]
    evaluator = Evaluator(engine.reasoner(), scorers, Grading("auto"), CONFIG)
    asyncio.run(evaluate(evaluator, asked, ASKED, tmp_path, recorded_settings(CONFIG)))
    found = {outcome.name: outcome.rows for outcome in read_outcomes(tmp_path)}
    samples = {(row.question, row.sample): row.answer for row in found["2 samples"]}
    assert any(samples[question, 0] != samples[question, 1] for question in range(10))
    assert [row.answer for row in found["again"]] == [samples[row.question, chosen] for row in found["again"]]
    assert {row.attempts for row in found["again"]} == {2}


if __name__ == "__main__":
    run(Path(sys.argv[1]), FakeEngine(ASKED, skill=0.85, pace=0.2))

"""The evidence on a real model: how questions are split, how sampling is chosen, what each stage asks for."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.pages import EVIDENCE_PAGE
from benchmarks.real import __main__ as command
from benchmarks.real import run as stages
from benchmarks.real.plan import PASSES, plan
from benchmarks.real.questions import DEFAULT_SETS, QuestionSet, Use, sets_of, split_questions, write_questions
from benchmarks.real.report import (
    DM_NAME,
    OUTCOMES_NAME,
    PLAN_NAME,
    SAMPLING_NAME,
    SECTIONS,
    SETTINGS_NAME,
    publish,
    report,
)
from benchmarks.real.sampling import Sampled, Sampling, choose, sampled
from drr.certify.scorer_names import check_names
from drr.errors import InputError
from drr.evaluate.run import Row, rows_path
from drr.evaluate.strategies import FULL, JUDGED, all_strategies
from drr.evaluate.strategy_names import select_strategies
from drr.judge.calibration import Calibration
from drr.judge.dm_folder import STATE_HEAD_NAME, DmCard
from drr.judge.dm_sums import check_sums
from drr.judge.self_test import SELF_TEST_NAME
from drr.reference import SERVED_DM, dm_folder
from drr.tasks.sources import load_questions

ROOT = Path(__file__).resolve().parents[2]

SIZES: dict[Use, int] = {"test": 5, "validation": 3, "calibration": 4, "train": 6}


def written(path: Path, count: int, start: int = 0, answer: str = "7") -> str:
    rows = [{"question": f"What is {start + number} and more?", "answer": answer} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_no_question_has_two_uses(tmp_path: Path) -> None:
    one = QuestionSet("sums", written(tmp_path / "a.jsonl", 30))
    found = split_questions(one, SIZES)
    texts = [question.text for questions in found.values() for question in questions]
    assert len(texts) == len(set(texts)) == sum(SIZES.values())
    assert {use: len(questions) for use, questions in found.items()} == SIZES


def test_more_training_questions_leave_the_others_as_they_were(tmp_path: Path) -> None:
    one = QuestionSet("sums", written(tmp_path / "a.jsonl", 40))
    less, more = split_questions(one, SIZES), split_questions(one, {**SIZES, "train": 20})
    for use in ("test", "validation", "calibration"):
        assert less[use] == more[use]
    assert more["train"][: SIZES["train"]] == less["train"]


def test_test_questions_come_from_the_source_that_is_named_for_them(tmp_path: Path) -> None:
    # The two sources share questions; none of those that test is left among the others.
    one = QuestionSet("sums", written(tmp_path / "a.jsonl", 30), written(tmp_path / "b.jsonl", 12, start=20))
    found = split_questions(one, SIZES)
    named = {question.text for question in load_questions(str(tmp_path / "b.jsonl")).questions}
    assert {question.text for question in found["test"]} <= named
    others = {question.text for use in ("validation", "calibration", "train") for question in found[use]}
    assert not others & {question.text for question in found["test"]}


def test_too_few_questions_are_told(tmp_path: Path) -> None:
    one = QuestionSet("sums", written(tmp_path / "a.jsonl", 10))
    with pytest.raises(InputError, match="sums has only 2 questions for calibration, not 4"):
        split_questions(one, SIZES)


@pytest.mark.parametrize(
    ("words", "reason"), [([["sums"]], "takes NAME TRAIN"), ([["a", "b"], ["a", "c"]], "names a set twice")]
)
def test_a_set_that_is_not_one_is_told(words: list[list[str]], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        sets_of(words)
    assert sets_of(None) == list(DEFAULT_SETS)


def test_every_file_holds_all_sets_with_their_names_and_asks_for_steps(tmp_path: Path) -> None:
    sets = [
        QuestionSet("sums", written(tmp_path / "a.jsonl", 30)),
        QuestionSet("facts", written(tmp_path / "b.jsonl", 30, start=100, answer="yes")),
        QuestionSet("letters", written(tmp_path / "c.jsonl", 30, start=200, answer="B")),
    ]
    paths = write_questions(sets, SIZES, tmp_path)
    for use, path in paths.items():
        questions = load_questions(str(path)).questions
        assert [sum(question.family == one.name for question in questions) for one in sets] == [SIZES[use]] * 3
        families = [question.family for question in questions]
        assert families != sorted(families), "the sets are mixed"
        for question in questions:
            assert "blank line between steps" in question.text
            assert ("yes or no" in question.text) == (question.family == "facts")
            assert ("letter" in question.text) == (question.family == "letters")


def tried(temperature: float, accuracy: float) -> Sampled:
    return Sampled(temperature, accuracy, 0.02, 0.5, {}, 100.0, 0.0)


def test_the_highest_temperature_as_good_as_the_best_is_chosen() -> None:
    assert choose([tried(0, 0.6), tried(0.3, 0.40), tried(0.5, 0.41), tried(0.7, 0.395), tried(1.0, 0.38)]) == 0.7
    assert choose([tried(0, 0.6), tried(0.3, 0.50), tried(0.5, 0.40)]) == 0.3


def answer(question: int, group: str, right: bool, *, cut: bool = False) -> Row:
    cause = "max_tokens" if cut else "natural"
    return Row(question, group, 0, "7", right, 50, 40, 0, 1, float("nan"), 0, cause)


@pytest.mark.parametrize("cause", ["max_tokens", "context_length", "answer_reserve"])
def test_an_answer_that_ran_out_of_room_was_cut(cause: str) -> None:
    whole = [answer(number, "a", True) for number in range(3)]
    assert sampled(0.5, [*whole, replace(answer(3, "a", False), stop_cause=cause)]).cut == 0.25


def test_the_figures_of_a_temperature_count_questions_not_attempts() -> None:
    rows = [answer(0, "a", True), answer(1, "b", False), answer(0, "a", False, cut=True), answer(1, "b", False)]
    found = sampled(0.5, rows)
    assert (found.accuracy, found.any_right, found.cut) == (0.25, 0.5, 0.25)
    assert found.by_set == {"a": 0.5, "b": 0.0}
    assert found.error == pytest.approx(0.25, abs=1e-3)  # of two questions: 0.5 and 0


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the stages would run."""
    found: list[list[str]] = []
    monkeypatch.setattr(stages, "run_drr", lambda *arguments: found.append(list(map(str, arguments))))
    chosen = Sampling([tried(0.5, 0.4)], 0.5, 100.0)
    monkeypatch.setattr(stages, "is_causal", lambda backbone: backbone == "causal")
    monkeypatch.setattr(stages, "_skill", lambda place: found.append(["skill"]))
    monkeypatch.setattr(stages, "_remedies", lambda place: found.append(["remedies"]))
    monkeypatch.setattr(stages, "choose_sampling", lambda *arguments: chosen)
    return found


def begun(tmp_path: Path, **more: Any) -> None:
    sets = [QuestionSet("sums", written(tmp_path / "a.jsonl", 200))]
    sizes = more.pop("sizes", stages.Sizes(20, 20, 20, 20))
    stages.run("reasoner", sets, sizes, tmp_path / "work", tmp_path / "out", **more)


def test_every_stage_hands_the_next_what_it_made(tmp_path: Path, commands: list[list[str]]) -> None:
    begun(tmp_path, backbone="small", dtype="bfloat16")
    by_command = {name: [command for command in commands if command[0] == name] for name in ("distill", "train")}
    assert [command[1].rpartition("/")[2] for command in by_command["distill"]] == [
        "train.jsonl",
        "calibration.jsonl",
    ]
    assert all(command[command.index("--temperature") + 1] == "0.5" for command in by_command["distill"])
    assert [command[command.index("--kind") + 1] for command in by_command["train"]] == list(stages.KINDS)
    assert "--boundaries-per-rollout" in by_command["train"][1]
    sampled_alike = [command for command in commands if command[0] in ("distill", "eval")]
    for option in ("--temperature", "--max-tokens", "--answer-tokens", "--dtype", "--use-cache"):
        assert len({command[command.index(option) + 1] for command in sampled_alike}) == 1


def test_a_causal_backbone_is_told_nothing_that_is_for_encoders(tmp_path: Path, commands: list[list[str]]) -> None:
    begun(tmp_path, backbone="causal", only=["questions", "dms"])
    assert not any("--boundaries-per-rollout" in command for command in commands)


def test_the_time_decides_how_many_questions_train(tmp_path: Path, commands: list[list[str]]) -> None:
    sizes = stages.Sizes(20, 20, 20, 100)
    # 100 tokens a second, 100 tokens an attempt: a second each.
    fixed = 20 * (2 * 1.3 + PASSES) / 3600
    each = 4 * 1.3 / 3600
    begun(tmp_path, sizes=sizes, hours=fixed + 50.5 * each, only=["questions", "plan"])
    assert len(load_questions(str(tmp_path / "work" / "questions" / "train.jsonl")).questions) == 50
    told = json.loads((tmp_path / "work" / PLAN_NAME).read_text())
    assert told["hours"]["outcomes"] == pytest.approx(20 * PASSES / 3600, abs=0.01)
    found = Sampling([tried(0.5, 0.4)], 0.5, 100.0)
    assert plan(found, 1, sizes.by_use(), stages.ROLLOUTS, 0.001).train == 20, "too few teach nothing"
    assert plan(found, 1, sizes.by_use(), stages.ROLLOUTS, 1000).train == 100, "no more than were asked for"
    assert plan(found, 1, sizes.by_use(), stages.ROLLOUTS, None).train == 100


def test_without_a_backbone_only_a_head_is_trained(tmp_path: Path, commands: list[list[str]]) -> None:
    begun(tmp_path)
    assert [command[2] for command in commands if command[0] == "train"] == ["head"]


def test_work_is_continued_with_the_same_settings_only(tmp_path: Path, commands: list[list[str]]) -> None:
    begun(tmp_path, only=["questions"])
    begun(tmp_path, only=["questions"])
    with pytest.raises(InputError, match="was begun with"):
        begun(tmp_path, only=["questions"], sizes=stages.Sizes(20, 20, 20, 40))
    with pytest.raises(InputError, match="field dtype: was begun with"):
        begun(tmp_path, only=["dms"], dtype="bfloat16")
    with pytest.raises(InputError, match="is none of questions"):
        begun(tmp_path, only=["everything"])
    assert commands == []


def test_every_name_stands_for_strategies_that_are_there() -> None:
    check_names(stages.CALIBRATED, None)
    certified = Calibration.from_json(DmCard.load(dm_folder()).calibration or {})
    calibrations: dict[str, Calibration] = dict.fromkeys(("dm", *stages.CALIBRATED), certified)
    everything = all_strategies(("dm", *stages.SCORERS), calibrations, stages.ATTEMPTS)
    for group in stages.STRATEGIES:
        for name in group:
            assert select_strategies(everything, [name])


def outcomes(folder: Path, name: str, family: str, right: Callable[[int], bool], **more: Any) -> None:
    """Outcomes of a strategy on 60 questions of two sets."""
    rows = [
        Row(number, "sums" if number % 2 else "facts", 0, "7", right(number), 50, 40, 0, 1, number / 60, 0, "natural")
        for number in range(60)
    ]
    table = pa.table({column.name: [getattr(row, column.name) for row in rows] for column in fields(Row)})
    about = {"definition": {"name": name, "family": family}, "seconds": 1.0, **more}
    pq.write_table(table.replace_schema_metadata({"drr": json.dumps(about)}), rows_path(folder, name))


@pytest.fixture
def published(tmp_path: Path, commands: list[list[str]]) -> Path:
    """What a run leaves for the report."""
    begun(tmp_path, only=["questions"])
    work = tmp_path / "work"
    ways = [tried(0, 0.6), tried(0.5, 0.4)]
    (work / SAMPLING_NAME).write_text(json.dumps(asdict(Sampling(ways, 0.5, 100.0))))
    (work / OUTCOMES_NAME).mkdir()
    outcomes(work / OUTCOMES_NAME, FULL, "full", lambda number: number % 3 == 0)
    outcomes(work / OUTCOMES_NAME, "judged by logprob", JUDGED, lambda number: number >= 30)
    publish(work, tmp_path / "out", {"head": dm_folder(SERVED_DM)})
    return tmp_path / "out"


PAGE = "".join(f"# {name}\n<!-- {name}: written by x -->\n<!-- end of {name} -->\n" for name in SECTIONS)


def test_the_page_is_made_of_what_was_recorded(tmp_path: Path, published: Path) -> None:
    page = tmp_path / "evidence.md"
    page.write_text(PAGE)
    report(published, page)
    text = page.read_text()
    assert "| 0.5 | 40.0 % (standard error 2.0)" in text
    assert "### sums" in text
    assert "| full thinking | 33.3 % |" in text
    assert "| logprob | 0.84" in text, "the mean accuracy of a judge who knows every answer, half of which are right"
    assert "| head | 1 % | 19.0 % | 7 of" in text
    first = {path: path.read_bytes() for path in [page, *published.rglob("*")] if path.is_file()}
    report(published, page)
    assert {path: path.read_bytes() for path in first} == first, "bit for bit"


def test_a_page_that_is_not_there_is_begun(tmp_path: Path, published: Path) -> None:
    report(published, tmp_path / "docs" / "evidence.md")
    text = (tmp_path / "docs" / "evidence.md").read_text()
    assert text.startswith("# Evidence\n\n## Setup")
    assert "| full thinking | 33.3 % |" in text


def test_nothing_published_says_where_it_lay(published: Path, tmp_path: Path) -> None:
    settings = (published / SETTINGS_NAME).read_text()
    assert "/" not in json.loads(settings)["reasoner"]
    assert str(tmp_path) not in settings


def test_the_head_is_kept_without_a_question(published: Path) -> None:
    kept = published / DM_NAME
    served = dm_folder(SERVED_DM)
    assert (kept / STATE_HEAD_NAME).read_bytes() == (served / STATE_HEAD_NAME).read_bytes()
    check_sums(kept)
    assert DmCard.load(kept) == DmCard.load(served)
    assert not (kept / SELF_TEST_NAME).exists()


def test_a_report_of_nothing_is_told(tmp_path: Path, published: Path) -> None:
    with pytest.raises(InputError, match="holds no evidence"):
        report(tmp_path / "nowhere", tmp_path / "evidence.md")
    (tmp_path / "evidence.md").write_text("<!-- real skill: written by x -->\n<!-- end of real skill -->\n")
    with pytest.raises(InputError, match="has no section real setup"):
        report(published, tmp_path / "evidence.md")


def test_a_page_about_something_else_gets_the_sections_at_its_end(tmp_path: Path, published: Path) -> None:
    page = tmp_path / "evidence.md"
    shutil.copyfile(ROOT / EVIDENCE_PAGE, page)
    before = page.read_text()
    report(published, page)
    text = page.read_text()
    if "<!-- real setup: written by" not in before:
        assert text.startswith(before.rstrip())
    assert text.count("| full thinking | 33.3 % |") >= 1
    report(published, page)
    assert page.read_text() == text


def test_the_command_hands_on_everything_that_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []
    monkeypatch.setattr(command, "prepare_environment", lambda **quiet: None)
    monkeypatch.setattr(command, "run", lambda *arguments: handed.extend(arguments))
    monkeypatch.setattr(command, "report", lambda *arguments: handed.extend(arguments))
    sizes = ("--test", "21", "--validation", "22", "--calibration", "23", "--train", "24")
    more = (
        "--stage",
        "plan",
        "--backbone",
        "b",
        "--hours",
        "2",
        "--dtype",
        "float16",
        "--traces",
        "t",
        "--traces",
        "u",
    )
    places = ("--work", "w", "--out", "o", "--page", "p")
    told = ["real", "--reasoner", "r", "--set", "sums", "a", "b", *sizes, *more, *places]
    monkeypatch.setattr(sys, "argv", told)
    assert command.main() == 0
    sets, wanted = [QuestionSet("sums", "a", "b")], stages.Sizes(21, 22, 23, 24)
    begun = ["r", sets, wanted, Path("w"), Path("o"), ["plan"], "b", 2.0, [Path("t"), Path("u")], "float16"]
    assert handed == begun, "nothing is published by that stage, and so nothing reported"
    monkeypatch.setattr(sys, "argv", [*told, "--stage", "publish"])
    assert command.main() == 0
    assert handed[len(begun) :] == [*begun[:5], ["plan", "publish"], *begun[6:], Path("o"), Path("p")]

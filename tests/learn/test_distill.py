"""Distillation: every boundary is forced and graded, mixed questions get more rollouts, and a kill loses nothing."""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from drr import reference
from drr.cli.main import main
from drr.engine.formats import choose_format
from drr.engine.open_reasoner import OpenReasoner, known_format
from drr.errors import InputError
from drr.judge.dm_folder import fingerprint
from drr.learn.distill import distill
from drr.learn.distill_config import DistillConfig
from drr.learn.records import MANIFEST_NAME, REJECTED_NAME, Manifest, Rollout, behaviour_features, read_rollouts, shards
from drr.loop.steps import StepRule
from drr.tasks import Question, Split
from drr.tasks.arithmetic import questions
from drr.tasks.grading import is_correct
from drr.tasks.sources import load_questions
from tests.fake_engine import TOKENIZER, FakeEngine, distil

ASKED = questions(3, Split.TRAIN, 12)
CONFIG = DistillConfig(rollouts=3, extra_rollouts=2, shard_questions=5)


def by_question(rollouts: list[Rollout]) -> dict[str, list[Rollout]]:
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.question, []).append(rollout)
    return groups


def test_every_boundary_is_forced_and_graded(tmp_path: Path) -> None:
    engine = FakeEngine(ASKED)
    manifest = distil(ASKED, tmp_path, CONFIG, engine)
    rollouts = read_rollouts(tmp_path)
    assert engine.running == 0
    assert engine.requests == sum(1 + len(rollout.steps) for rollout in rollouts)
    for rollout in rollouts:
        assert [step.strip() for step in rollout.steps][::2] == ["so: 1+2=3.", "Let me check."]
        assert rollout.now == [is_correct(answer or "", rollout.gold) for answer in rollout.forced]
        assert rollout.later == is_correct(rollout.answer, rollout.gold)
        assert rollout.thinking_tokens == sum(rollout.step_tokens)
        assert [len(logprobs or []) for logprobs in rollout.logprobs] == rollout.step_tokens
        assert all(features is not None for features in behaviour_features(rollout))
    assert manifest.complete
    assert manifest.counts["rollouts"] == len(rollouts)
    assert manifest.counts["boundaries"] == sum(len(rollout.steps) for rollout in rollouts)


def test_a_chain_of_thought_without_markers_is_forced_by_the_cue(tmp_path: Path) -> None:
    cue = "\n\nTherefore, the final answer is"
    tokenizer = AutoTokenizer.from_pretrained(reference.reasoner_folder())
    tokenizer.chat_template = "{{ messages[0].content }}"
    form = choose_format(tokenizer, "", cue).form
    assert form.turn_holds_answer, "a template that knows no markers"
    engine = FakeEngine(ASKED, form=form)
    distil(ASKED, tmp_path, DistillConfig(rollouts=2, extra_rollouts=0), engine)
    for rollout in read_rollouts(tmp_path):
        assert [step.split()[0] for step in rollout.steps] == ["so:", "It", "The"]
        assert rollout.now == [is_correct(answer or "", rollout.gold) for answer in rollout.forced]
        assert rollout.later == is_correct(rollout.answer, rollout.gold)
        assert rollout.total_tokens == rollout.thinking_tokens + 1, "the chain holds its answer; the turn has an end"
        assert all((answer or "").lstrip("-").isdigit() for answer in rollout.forced)


def test_questions_with_mixed_outcomes_get_more_rollouts(tmp_path: Path) -> None:
    distil(ASKED, tmp_path, CONFIG)
    sizes = set()
    for rollouts in by_question(read_rollouts(tmp_path)).values():
        mixed = len({rollout.later for rollout in rollouts[:3]}) == 2
        assert len(rollouts) == (5 if mixed else 3)
        sizes.add(len(rollouts))
    assert sizes == {3, 5}


def test_without_gold_answers_the_majority_stands_in(tmp_path: Path) -> None:
    nameless = [Question(question.text, "", "", 0) for question in ASKED]
    distil(
        nameless, tmp_path, DistillConfig(rollouts=6, extra_rollouts=0, labels="consistency"), FakeEngine(ASKED, 0.7)
    )
    agreed = {question: rollouts[0].gold for question, rollouts in by_question(read_rollouts(tmp_path)).items()}
    right = [agreed[question.text] == question.answer for question in ASKED if question.text in agreed]
    assert len(right) >= 10
    assert sum(right) >= 0.8 * len(right)


def test_questions_that_cannot_be_graded_or_read_are_set_aside(tmp_path: Path) -> None:
    long = Question("What is " + "1 + " * 400 + "1?", "401", "", 0)
    engine = FakeEngine([*ASKED, long])
    reasoner_limit = 600
    manifest = asyncio.run(distill(engine.reasoner(reasoner_limit), [*ASKED, long], tmp_path, CONFIG))
    assert manifest.counts["questions"] == len(ASKED)
    rejected = [json.loads(line) for line in (tmp_path / REJECTED_NAME).read_text().splitlines()]
    assert [(reject["source"], reject["row"], reject["field"]) for reject in rejected] == [
        ("questions", 13, "question")
    ]
    assert "tokens long" in rejected[0]["reason"]


def test_a_question_that_is_set_aside_is_named_by_its_row_in_the_file(tmp_path: Path) -> None:
    rows = ["broken", *(json.dumps({"question": question.text, "answer": question.answer}) for question in ASKED[:2])]
    rows.append(json.dumps({"question": "What is " + "1 + " * 400 + "1?", "answer": "401"}))
    source = tmp_path / "questions.jsonl"
    source.write_text("\n".join(rows))
    loaded = load_questions(str(source))
    reasoner, out = FakeEngine(loaded.questions).reasoner(600), tmp_path / "records"
    work = distill(reasoner, loaded.questions, out, CONFIG, rejects=loaded.rejects, source=str(source))
    assert asyncio.run(work).counts["rejected"] == 2
    rejected = [json.loads(line) for line in (out / REJECTED_NAME).read_text().splitlines()]
    assert [(reject["source"], reject["row"]) for reject in rejected] == [(str(source), 1), (str(source), 4)]


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    distil(ASKED, tmp_path, CONFIG)
    with pytest.raises(InputError, match=r"field temperature: was begun with 0.8, not 0.5"):
        distil(ASKED, tmp_path, DistillConfig(rollouts=3, extra_rollouts=2, shard_questions=5, temperature=0.5))
    with pytest.raises(InputError, match="field questions"):
        distil(ASKED[:6], tmp_path, CONFIG)
    (tmp_path / MANIFEST_NAME).unlink()
    with pytest.raises(InputError, match=r"no manifest\.json"):
        distil(ASKED, tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"rollouts": 0}, "--rollouts"),
        ({"answer_tokens": 0}, "--answer-tokens"),
        ({"temperature": -1.0}, "--temperature"),
        ({"top_p": 1.5}, "--top-p"),
        ({"top_k": -1}, "--top-k"),
        ({"rollouts": 2, "labels": "consistency"}, "--labels"),
        ({"temperature": 0.0}, "--temperature"),
        ({"max_tokens": 1}, "--max-tokens"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], option: str) -> None:
    with pytest.raises(InputError, match=option):
        DistillConfig(**settings)  # type: ignore[arg-type]


def test_a_reasoner_that_cannot_be_asked_is_refused() -> None:
    plain = AutoTokenizer.from_pretrained(reference.reasoner_folder())
    assert known_format(plain, "").close_text == "</think>"
    with pytest.raises(InputError, match=r"--reasoning-parser: vLLM knows no 'nix'; it knows .*qwen3"):
        known_format(plain, "nix")
    for parser, said in (
        ("mistral", "does not fit this Reasoner"),
        ("hunyuan_a13b", "does not say how thinking is marked"),
    ):
        with pytest.raises(InputError, match=f"--reasoning-parser: {parser} {said}"):
            known_format(plain, parser)
    plain.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        known_format(plain, "")


def test_a_finished_folder_is_shown_without_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reasoner, rows, out = reference.reasoner_folder(), tmp_path / "q.jsonl", tmp_path / "records"
    rows.write_text("\n".join(json.dumps({"question": question.text, "answer": question.answer}) for question in ASKED))
    config = DistillConfig(rollouts=2, extra_rollouts=0)
    engine = replace(FakeEngine(ASKED).reasoner(), name=reasoner.name, fingerprint=fingerprint(reasoner))
    asyncio.run(distill(engine, load_questions(str(rows)).questions, out, config))
    monkeypatch.setattr("drr.engine.open_reasoner.open_engine", lambda *_: pytest.fail("an engine was started"))
    command = ["distill", str(rows), "--reasoner", str(reasoner), "--out", str(out), "--extra-rollouts", "0"]
    assert main([*command, "--rollouts", "2"]) == 0
    assert "12 questions" in capsys.readouterr().out
    assert main([*command, "--rollouts", "3"]) == 2
    assert "field rollouts: was begun with 2, not 3" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_data_type_reaches_the_engine_and_the_records(
    dtype: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    @contextlib.asynccontextmanager
    async def opened(*_: object, dtype: str | None = None) -> AsyncIterator[OpenReasoner]:
        asked.append(dtype)
        yield FakeEngine(ASKED).reasoner()

    monkeypatch.setattr("drr.engine.open_reasoner.open_engine", opened)
    rows, out = tmp_path / "q.jsonl", tmp_path / "out"
    rows.write_text("\n".join(json.dumps({"question": question.text, "answer": question.answer}) for question in ASKED))
    command = ["distill", str(rows), "--reasoner", str(reference.reasoner_folder()), "--out", str(out)]
    more = [] if dtype is None else ["--dtype", dtype]
    assert main([*command, "--rollouts", "1", "--extra-rollouts", "0", *more]) == 0
    assert asked == [dtype]
    assert Manifest.load(out).settings.get("dtype") == dtype


def test_the_step_rule_is_the_one_asked_for(tmp_path: Path) -> None:
    distil(ASKED[:2], tmp_path, DistillConfig(rollouts=1, extra_rollouts=0, step_rule=StepRule("attempt")))
    assert {len(rollout.steps) for rollout in read_rollouts(tmp_path)} == {1}


def run_and_kill(out: Path, after: float | None, count: int = 24, pace: float = 0.05) -> bool:
    """Distil in a process of its own; kill it `after` seconds from its start. True when it finished."""
    command = [sys.executable, "-m", "tests.fake_engine", str(out), str(count), str(pace)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if after is None:
            return process.wait(timeout=120) == 0
        time.sleep(after)
        return process.poll() == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_run_killed_at_any_moment_ends_with_the_same_records(tmp_path: Path, kills: int) -> None:
    assert run_and_kill(tmp_path / "whole", None)
    rng = random.Random(0)
    for _ in range(kills):
        run_and_kill(tmp_path / "killed", rng.uniform(3, 15))
    assert run_and_kill(tmp_path / "killed", None)
    assert read_rollouts(tmp_path / "killed") == read_rollouts(tmp_path / "whole")
    whole, killed = Manifest.load(tmp_path / "whole"), Manifest.load(tmp_path / "killed")
    assert (killed.counts, killed.complete) == (whole.counts, True)


def test_finished_batches_are_not_repeated(tmp_path: Path) -> None:
    distil(ASKED, tmp_path, CONFIG)
    written = {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
    next(iter(written)).unlink()
    engine = FakeEngine(ASKED)
    distil(ASKED, tmp_path, CONFIG, engine)
    assert 0 < engine.requests < 5 * 5 * 6
    assert [path.stat().st_mtime_ns == written[path] for path in shards(tmp_path)] == [False, True, True]


def test_batches_overlap_and_one_that_fails_ends_all(tmp_path: Path) -> None:
    """The next batch begins while the longest attempts of one end; whatever fails leaves no request behind."""
    config = DistillConfig(rollouts=2, extra_rollouts=0, shard_questions=2)
    engine, seen = FakeEngine(ASKED), list[int]()

    class Slow(FakeEngine):
        async def generate(self, prompt: Any, params: Any, request_id: str, **_: Any) -> AsyncGenerator[Any, None]:
            text = TOKENIZER.decode(list(prompt["prompt_token_ids"]))
            first = any(question.text in text for question in ASKED[:2])
            async for output in super().generate(prompt, params, request_id):
                await asyncio.sleep(0.05 if first else 0)
                seen.append(len(shards(tmp_path / "slow")) if not first else -1)
                yield output

    distil(ASKED, tmp_path / "slow", config, Slow(ASKED))
    assert 0 in seen, "other batches began before the first one's shard was there"
    distil(ASKED, tmp_path / "plain", config, engine)
    assert read_rollouts(tmp_path / "slow") == read_rollouts(tmp_path / "plain")

    class Broken(Slow):
        async def generate(self, prompt: Any, params: Any, request_id: str, **_: Any) -> AsyncGenerator[Any, None]:
            if ASKED[3].text in TOKENIZER.decode(list(prompt["prompt_token_ids"])):
                raise InputError("--server", "stopped answering")
            async for output in super().generate(prompt, params, request_id):
                yield output

    broken = Broken(ASKED)

    async def fails() -> None:
        with pytest.raises(InputError, match="stopped answering"):
            await distill(broken.reasoner(), ASKED, tmp_path / "broken", config)
        assert broken.running == 0, "before the event loop ends, which would close everything"

    asyncio.run(fails())

"""From a server's decision log to behaviour records: what is taken, as what, and what is left out."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drr.cli.main import main
from drr.decisions.schema import Row
from drr.engine.formats import choose_format
from drr.engine.open_reasoner import OpenReasoner
from drr.errors import InputError
from drr.learn.distill import distill
from drr.learn.distill_config import DistillConfig
from drr.learn.from_log import Choosing, Drawn, End, Logged, LoggedAttempt, read_logged
from drr.learn.logged_reasoner import LoggedReasoner
from drr.learn.records import MANIFEST_NAME, Manifest, Rollout, behaviour_features, read_rollouts
from drr.loop.reasoner import Phase, Segment
from drr.tasks import Question, Split
from drr.tasks.arithmetic import questions
from drr.tasks.grading import is_correct
from tests.fake_engine import FORM, TOKENIZER, FakeEngine
from tests.fakes import FakeReasoner
from tests.learn.logs import FINGERPRINT, served, write_log

ASKED = questions(3, Split.TRAIN, 12)
CONFIG = DistillConfig(rollouts=1, extra_rollouts=0, shard_questions=5)
SHADOW = {"mode": "shadow"}


def rows_of(engine: FakeEngine, asked: list[Question], drr: dict[str, Any] | None = None, **options: Any) -> list[Row]:
    async def ask() -> list[Row]:
        numbered = enumerate(asked)
        return [await served(engine, question.text, drr, number=number, **options) for number, question in numbered]

    return asyncio.run(ask())


def logged_in(folder: Path, golds: list[Question] | None = None, **choosing: Any) -> Logged:
    return read_logged(folder, Choosing(FINGERPRINT, **choosing), golds)


def learned(
    engine: FakeEngine, logged: Logged, out: Path, config: DistillConfig = CONFIG
) -> tuple[Manifest, list[Rollout]]:
    manifest = asyncio.run(distill(engine.reasoner(), logged.questions, out, config, logged=logged))
    return manifest, read_rollouts(out)


def test_a_logged_response_becomes_a_rollout_with_its_own_tokens(tmp_path: Path) -> None:
    engine = FakeEngine(ASKED)
    rows = rows_of(engine, ASKED, SHADOW)
    write_log(tmp_path / "log", rows)
    before = engine.requests
    logged = logged_in(tmp_path / "log", ASKED)
    manifest, rollouts = learned(engine, logged, tmp_path / "records")
    assert engine.requests - before == sum(len(rollout.steps) for rollout in rollouts), "nothing but forced answers"
    by_question = {row["text"]["question"]: row for row in rows}
    assert len(rollouts) == len(ASKED)
    for rollout in rollouts:
        row = by_question[rollout.question]
        (output,) = row["text"]["attempts"]
        ids, start, end = output["ids"], output["thinking_from"], output["thinking_to"]
        assert [*(rollout.prompt_ids or ()), *(rollout.thought_ids or ())] == [*row["text"]["prompt_ids"], *ids[:end]]
        assert rollout.thought_ids == ids[start:end]
        told = [value for step in rollout.logprobs for value in step or ()]
        assert told == pytest.approx(output["logprobs"][start:end], rel=1e-6)
        assert rollout.step_tokens == [boundary["tokens"] for boundary in row["boundaries"]]
        for known, boundary in zip(behaviour_features(rollout), row["boundaries"], strict=True):
            assert known == pytest.approx(boundary["features"], rel=1e-5), "as served"
        assert rollout.answer == row["text"]["answer"].rpartition(" ")[2].rstrip(".")
        assert rollout.later == is_correct(rollout.answer, rollout.gold)
        assert rollout.now == [is_correct(answer or "", rollout.gold) for answer in rollout.forced]
    assert manifest.settings["from_log"]["used"] == len(ASKED)
    assert manifest.settings["from_log"]["ends"] == {"answer": len(ASKED)}
    assert manifest.settings["from_log"]["drawn"] == {"temperature=0.5 top_p=1 top_k=0": len(ASKED)}


def test_a_chain_of_thought_without_markers_is_played_as_it_was(tmp_path: Path) -> None:
    tokenizer = type(TOKENIZER).from_pretrained(TOKENIZER.name_or_path)
    tokenizer.chat_template = "{{ messages[0].content }}"
    engine = FakeEngine(ASKED, form=choose_format(tokenizer, "", "\n\nTherefore, the final answer is").form)
    rows = rows_of(engine, ASKED, SHADOW)
    write_log(tmp_path / "log", rows)
    _, rollouts = learned(engine, logged_in(tmp_path / "log", ASKED), tmp_path / "records")
    assert len(rollouts) == len(ASKED)
    for rollout in rollouts:
        assert [step.split()[0] for step in rollout.steps] == ["so:", "It", "The"]
        assert rollout.later == is_correct(rollout.answer, rollout.gold)


def test_responses_that_a_judge_might_have_ended_are_left_out_unless_they_are_thought_on(tmp_path: Path) -> None:
    engine = FakeEngine(ASKED)
    stopped = rows_of(engine, ASKED[:4], scores=(0.95,))
    unstopped = rows_of(engine, ASKED[4:8], scores=(0.1,))
    refused = rows_of(engine, ASKED[8:10], {"nudge": 1}, scores=(0.1,))
    again = rows_of(engine, ASKED[10:], {"mode": "rethink", "max_rethinks": 1, "accept": 0.5}, scores=(0.2,))
    assert [row["stop_cause"] for row in (*stopped, *unstopped)] == ["sure"] * 4 + ["natural"] * 4
    assert all(row["nudges"] for row in refused)
    assert all(len(row["attempts"]) == 2 for row in again)
    log = write_log(tmp_path / "log", [*stopped, *unstopped, *refused, *again])
    with pytest.raises(InputError, match=r"no response to learn from: 12 of a mode that may end thinking"):
        logged_in(log, ASKED)
    logged = logged_in(log, ASKED, continue_cut=True)
    assert logged.about["ends"] == {"answer": 4, "close": 4, "cut": 4}
    _, rollouts = learned(engine, logged, tmp_path / "records")
    by_question = {rollout.question: rollout for rollout in rollouts}
    assert len(by_question) == len(ASKED)
    for row in stopped:
        rollout, (output,) = by_question[row["text"]["question"]], row["text"]["attempts"]
        logged_ids = output["ids"][output["thinking_from"] : output["thinking_to"]]
        assert (rollout.thought_ids or [])[: len(logged_ids)] == logged_ids
        assert len(rollout.thought_ids or []) > len(logged_ids), "it has been thought on"
        assert rollout.answer
    for row in (*refused, *again):
        rollout, output = by_question[row["text"]["question"]], row["text"]["attempts"][0]
        own = next((place for place in output["injected"]), output["thinking_to"])
        assert rollout.thought_ids == output["ids"][output["thinking_from"] : min(own, output["thinking_to"])], (
            "closed where the Reasoner had closed it, whatever was made of that"
        )


def test_what_is_unfit_is_left_out_and_counted(tmp_path: Path) -> None:
    engine = FakeEngine(ASKED)
    rows = rows_of(engine, ASKED, SHADOW)
    rows[0]["text"] = None
    rows[1]["reasoner"] = "another"
    rows[2]["adapter"] = "tuned"
    rows[3]["shaped_by"] = ["grammar", "stop"]
    rows[4]["finish_reason"] = "length"
    rows += rows_of(engine, ASKED[5:6], SHADOW, cut_after=3)
    rows += rows_of(engine, ASKED[6:7], {"mode": "off", "max_thinking_tokens": 8})
    again = dict(rows[7], id="chatcmpl-again")
    log = write_log(tmp_path / "log", [*rows, again])
    logged = logged_in(log, ASKED[:-1])
    assert logged.about["left_out"] == {
        "logged without text": 1,
        "of another Reasoner": 1,
        "of a LoRA adapter": 1,
        "shaped by grammar": 1,
        "without full thinking and its answer": 2,
        "of a mode that may end thinking": 1,
        "the same as another": 1,
        "no answer is known to its question": 1,
    }
    assert logged.about["used"] == len(logged.questions) == 6
    assert logged.about["responses"] == 15


def test_a_question_asked_often_counts_no_more_than_others(tmp_path: Path) -> None:
    engine = FakeEngine(ASKED)
    often = [ASKED[0]] * 40
    spelled = [replace(ASKED[0], text=ASKED[0].text.upper())]
    rows = [*rows_of(engine, often, SHADOW), *rows_of(FakeEngine(spelled), spelled, SHADOW)]
    log = write_log(tmp_path / "log", [*rows, *rows_of(engine, ASKED[1:], SHADOW)])
    logged = logged_in(log, ASKED, per_question=2)
    assert {key: len(attempts) for key, attempts in logged.attempts.items()} == {
        key: 2 if key == ASKED[0].text.casefold() else 1 for key in (question.text.casefold() for question in ASKED)
    }
    rng = random.Random(1)
    rng.shuffle(rows)
    other = logged_in(write_log(tmp_path / "other", rows), ASKED, per_question=2)
    first = ASKED[0].text.casefold()
    chosen = [[attempt.ids for attempt in found.attempts[first]] for found in (logged, other)]
    assert chosen[0] == chosen[1], "whatever came first"


def test_a_system_prompt_does_not_hide_the_question(tmp_path: Path) -> None:
    rows = rows_of(FakeEngine(ASKED), ASKED[:3], SHADOW)
    said = [row["text"]["question"] for row in rows]
    rows[0]["text"]["question"] = f"system: Be brief.\nuser: {said[0]}"
    rows[1]["text"]["question"] = f"system: Be brief.\nuser: Hello\nassistant: Yes?\nuser: {said[1]}"
    logged = logged_in(write_log(tmp_path, rows), ASKED)
    assert [question.text for question in logged.questions] == [rows[0]["text"]["question"], said[2]]
    assert [question.answer for question in logged.questions] == [ASKED[0].answer, ASKED[2].answer]


def test_without_answers_new_attempts_are_made_to_agree_with(tmp_path: Path) -> None:
    engine = FakeEngine(ASKED, 0.7)
    log = write_log(tmp_path / "log", rows_of(engine, ASKED, SHADOW))
    config = replace(CONFIG, labels="consistency", rollouts=6)
    _, rollouts = learned(engine, logged_in(log), tmp_path / "records", config)
    answers = {question.text: question.answer for question in ASKED}
    agreed = {rollout.question: rollout.gold for rollout in rollouts}
    assert len(rollouts) == 6 * len(agreed)
    assert sum(answers[text] == gold for text, gold in agreed.items()) >= 0.8 * len(agreed) >= 8
    first = [rollout for rollout in rollouts if rollout.sample == 0]
    assert len(first) == len(agreed)


def test_log_probabilities_that_nobody_asked_for_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(ASKED)
    rows = rows_of(engine, ASKED[:3], {"mode": "off"})
    assert {value for row in rows for value in row["text"]["attempts"][0]["logprobs"]} == {None}
    log = write_log(tmp_path / "log", rows)
    _, without = learned(engine, logged_in(log, ASKED), tmp_path / "without")
    assert all(step is None for rollout in without for step in rollout.logprobs), "the fake engine does not say"

    async def logprobs(self: OpenReasoner, ids: list[int], request_id: str) -> list[float]:
        return [float(-place) for place in range(len(ids))]

    monkeypatch.setattr(OpenReasoner, "logprobs", logprobs)
    _, found = learned(engine, logged_in(log, ASKED), tmp_path / "found")
    for rollout in found:
        told = [value for step in rollout.logprobs for value in step or ()]
        start = len(rollout.prompt_ids or ())
        assert told == [float(-place) for place in range(start, start + len(told))]
        assert [len(step or ()) for step in rollout.logprobs] == rollout.step_tokens


@given(st.lists(st.integers(10, 300), min_size=1, max_size=90), st.data())
def test_what_is_played_is_what_was_logged_however_it_is_asked_for(ids: list[int], data: st.DataObject) -> None:
    end = data.draw(st.sampled_from(End))
    attempt = LoggedAttempt((5, 6), tuple(ids), tuple(-0.5 for _ in ids), len(ids), end, Drawn(0.5))
    behind = FakeReasoner(["more"], answer=["more"])
    own = LoggedReasoner(behind, attempt, FORM, TOKENIZER)
    expected = [*ids, *(FORM.close_ids if end is End.CLOSE else ())]
    assert [token.id for token in own.tokens] == expected

    async def play() -> tuple[list[int], str | None]:
        got: list[int] = []
        reason: str | None = "length"
        while reason == "length" and len(got) < len(expected):
            most = data.draw(st.integers(1, 100))
            segment = Segment(Phase.THINK, 0, [5, 6, *got], list(got), min(most, len(expected) - len(got)))
            reason = None
            async for delta in own.stream(segment):
                got += [token.id for token in delta.tokens]
                reason = delta.finish_reason or reason
        return got, reason

    got, reason = asyncio.run(play())
    assert got == expected
    assert reason == ("stop" if end is End.ANSWER else "length")
    assert not behind.segments, "nobody else was asked"


def test_what_is_missing_is_asked_of_the_reasoner_where_the_log_ends() -> None:
    attempt = LoggedAttempt((5, 6), (10, 11), (-0.5, -0.5), 2, End.CUT, Drawn(0.5))
    behind = FakeReasoner(["more", " and more"])
    own = LoggedReasoner(behind, attempt, FORM, TOKENIZER)

    async def play() -> list[int]:
        stream = own.stream(Segment(Phase.THINK, 0, [5, 6], [], 4))
        return [token.id async for delta in stream for token in delta.tokens]

    assert len(asyncio.run(play())) == 4
    (segment,) = behind.segments
    assert (list(segment.ids), list(segment.carried), segment.max_tokens) == ([5, 6, 10, 11], [10, 11], 2)


# The command -----------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`drr distill` from a log of twelve responses, with a fake engine, answers and all."""
    engine = FakeEngine(ASKED)

    @contextlib.asynccontextmanager
    async def opened(*_: object, **__: object) -> AsyncIterator[OpenReasoner]:
        yield engine.reasoner()

    reasoner = TOKENIZER.name_or_path
    monkeypatch.setattr("drr.engine.open_reasoner.open_engine", opened)
    monkeypatch.setattr("drr.engine.open_reasoner.reasoner_identity", lambda _: ("fake", FINGERPRINT))
    write_log(tmp_path / "log", rows_of(engine, ASKED, SHADOW))
    rows = [json.dumps({"question": question.text, "answer": question.answer}) for question in ASKED]
    (tmp_path / "q.jsonl").write_text("\n".join(rows))
    options = ["--from-log", str(tmp_path / "log"), "--reasoner", reasoner, "--out", str(tmp_path / "out")]
    return ["distill", str(tmp_path / "q.jsonl"), *options]


def test_records_are_finished_from_the_files_that_they_were_begun_with(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "12 questions" in said
    assert "12 of 12 logged responses: 12 ending with their answers" in said
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.settings["rollouts"] == 1
    assert manifest.settings["temperature"] == 0.5, "new attempts would be drawn as the logged ones were"
    next((tmp_path / "out").glob("*.parquet")).unlink()
    manifest.complete = False
    manifest.save(tmp_path / "out")
    write_log(tmp_path / "log", rows_of(FakeEngine(ASKED), ASKED, SHADOW), "decisions-2.parquet")
    assert main(command) == 0
    assert Manifest.load(tmp_path / "out").settings == manifest.settings
    assert len(read_rollouts(tmp_path / "out")) == 12
    assert main([*command, "--per-question", "1"]) == 2
    assert "from_log: was begun with" in capsys.readouterr().err
    (tmp_path / "log" / "decisions-1.parquet").unlink()
    assert main(command) == 2
    assert "no longer holds decisions-1.parquet, which the records were begun with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "without", "said"),
    [
        ([], "q.jsonl", "questions: are needed: the answers to the log's questions (or --labels consistency)"),
        ([], "--from-log", "--extra"),
        (["--labels", "consistency"], "", "questions: is not for --labels consistency with --from-log"),
        (["--per-question", "0"], "", "--per-question: must be at least 1"),
        (["--per-question", "2"], "--from-log", "--per-question: belongs to --from-log"),
        (["--continue-cut"], "--from-log", "--continue-cut: belongs to --from-log"),
        (["--recorded"], "", "--from-log: is not for --recorded"),
        (["--from-log", "nowhere"], "", "nowhere: holds no file of a decision log"),
    ],
)
def test_options_beside_a_log(
    command: list[str],
    more: list[str],
    without: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if without == "--from-log":
        place = command.index("--from-log")
        command = [*command[:place], *command[place + 2 :]]
        if not more:
            command, said = [*command[:1], *command[2:]], "questions: are needed, or --from-log"
    elif without:
        command = [part for part in command if not part.endswith(without)]
    assert main([*command, *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()

"""The decision log of a server: what a row says, what it does not say, and that no response waits for it or fails."""

import asyncio
import json
import stat
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

from drr import reference
from drr.decisions.files import log_files, read_file
from drr.decisions.schema import Row, one_row
from drr.errors import InputError
from drr.judge.dm_folder import DmCard, fingerprint
from drr.learn.from_log import Choosing, read_logged
from drr.learn.records import Manifest, read_rollouts
from drr.tasks import Split
from drr.tasks.arithmetic import questions
from server.arguments import own_parser, parse_args
from server.canaries import Canaries
from server.decisions.log import DecisionLog
from server.decisions.setting_up import KEY_NAME, logging_decisions
from server.early import check_early
from server.engine import ThinkingEngine
from server.metrics import LOG_ROWS
from server.plan import PLAN_KEY, ResponsePlan
from server.resolve import resolve
from server.schema import DrrRequest
from server.vllm_api import SamplingParams
from tests.fake_engine import FORM, TOKENIZER, FakeEngine
from tests.learn.logs import Rows, log_of, served
from tests.server.playing import Script, thinking_engine
from tests.server.running import start, stop

ROOT = Path(__file__).parents[2]
ASKED = questions(8, Split.TRAIN, 40)
QUESTION = "What is the secret of Mrs. Ondraschek?"
THOUGHT = "Mrs. Ondraschek has one.\n\nIt is kept in a jar.\n\nShe said so.\n\n"


def _encoded(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, add_special_tokens=False)
    return ids


def told_by(value: Any) -> str:
    """All that a row holds, as text, without what everybody may know."""
    return json.dumps(value, default=str)


class Engine:
    """A thinking engine whose Reasoner plays THOUGHT, and its log."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, scores: tuple[float, ...] = (0.1,), **options: Any) -> None:
        self.prompt = _encoded("Question?")
        script = Script(
            TOKENIZER,
            self.prompt,
            [*_encoded(f"<think>\n{THOUGHT}</think>\n\nIn a jar."), TOKENIZER.eos_token_id],
            [*_encoded("\n\nIn a jar."), TOKENIZER.eos_token_id],
            lambda: 3,
        )
        self.rows = Rows()
        self.engine: ThinkingEngine = thinking_engine(TOKENIZER, FORM, scores, script, monkeypatch)
        assert self.engine.drr is not None
        self.engine.drr.log = log_of(self.rows, **options)

    async def ask(
        self, drr: dict[str, Any] | None = None, *, outputs: int = 10**6, canary: str | None = None, **sampling: Any
    ) -> list[Row]:
        """What the log holds after a request whose client takes so many outputs."""
        assert self.engine.drr is not None
        settings = replace(resolve(DrrRequest.parse(drr or {}), self.engine.drr.defaults), canary=canary)
        plan = ResponsePlan(settings, QUESTION, "dm-1")
        params = SamplingParams(**{"max_tokens": 500, **sampling}, extra_args={PLAN_KEY: plan})
        stream = self.engine.generate({"prompt_token_ids": self.prompt}, params, "chatcmpl-1")
        async for _ in stream:
            outputs -= 1
            if not outputs:
                break
        await stream.aclose()
        return self.rows.rows


async def test_a_row_says_what_was_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = await Engine(monkeypatch, scores=(0.2, 0.95)).ask({"threshold": 0.9}, temperature=0.5, seed=3)
    one_row(row)
    (output,) = row["text"]["attempts"]
    assert (row["id"], row["choice"], row["finish"], row["finish_reason"]) == ("chatcmpl-1", 0, "complete", "stop")
    assert (row["mode"], row["acts"], row["stop_cause"], row["judge"]) == ("auto", True, "sure", "dm-1")
    assert [(step["p_now"], step["verdict"]) for step in row["boundaries"]] == [(0.2, "continue"), (0.95, "stop")]
    ends = [step["offset"] for step in row["boundaries"]]
    thought = output["ids"][output["thinking_from"] : output["thinking_to"]]
    texts = [TOKENIZER.decode(thought[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
    assert [text.strip() for text in texts] == ["Mrs. Ondraschek has one.", "It is kept in a jar."]
    assert all(len(step["features"]) == 14 for step in row["boundaries"])
    assert row["tokens"]["thinking"] == len(thought) == ends[-1]
    (attempt,) = row["attempts"]
    assert (attempt["fate"], attempt["p_now"], attempt["thinking_tokens"]) == ("accepted", 0.95, len(thought))
    assert row["sampling"]["temperature"] == 0.5
    assert row["sampling"]["seed"] == 3
    assert row["text"]["answer"].strip() == "In a jar."
    assert row["text"]["question"] == QUESTION


async def test_a_canary_is_told_by_its_rule_and_did_not_act(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(monkeypatch, scores=(0.2, 0.95))
    assert engine.engine.drr is not None
    engine.engine.drr.canaries = Canaries(1.0)
    (row,) = await engine.ask({"threshold": 0.9}, canary="default")
    one_row(row)
    assert (row["canary"], row["acts"], row["stop_cause"]) == ('{"rule": "default"}', False, "natural")
    await engine.engine.drr.canaries.close()


async def test_without_being_asked_it_says_no_word_of_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(monkeypatch, text=False)
    rows = await engine.ask({"on_exhausted": "abstain", "accept": 0.5, "refusal": "Ondraschek"}, stop=["jar"])
    rows = await engine.ask({"max_rethinks": 1, "separator": "Ondraschek"})
    assert [row["text"] for row in rows] == [None, None]
    for row in rows:
        one_row(row)
        told = told_by(row)
        for word in ("Ondraschek", "secret", "jar", "Question"):
            assert word not in told
        ids = engine.prompt + TOKENIZER.encode(THOUGHT, add_special_tokens=False)
        assert ", ".join(map(str, ids[:3])) not in told
        assert row["shaped_by"] in (["stop"], [])
        assert row["boundaries"], "what was decided is there all the same"


async def test_hashes_tell_equal_questions_and_nothing_without_the_key() -> None:
    rows = Rows()
    log, other = log_of(rows).identity, log_of(rows, key=b"x" * 32).identity
    assert log.hashed("What  is 1 + 1?\n") == log.hashed("what is 1 + 1?")
    assert log.hashed("What is 1 + 2?") != log.hashed("What is 1 + 1?")
    assert other.hashed("what is 1 + 1?") != log.hashed("what is 1 + 1?")


@pytest.mark.parametrize(
    ("drr", "cause", "acts", "closed"),
    [
        ({"mode": "off"}, "off", False, True),
        ({"mode": "shadow"}, "natural", False, True),
        ({"mode": "off", "report": "steps"}, "off", False, True),
        ({"mode": "auto"}, "natural", True, True),
        ({"mode": "off", "max_thinking_tokens": 8}, "max_thinking_tokens", True, False),
        ({"mode": "off", "max_thinking_tokens": 200}, "natural", True, True),
        ({"threshold": 0.05}, "sure", True, False),
    ],
)
async def test_it_says_whether_the_thinking_was_ended_by_the_reasoner(
    drr: dict[str, Any], cause: str, acts: bool, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = await Engine(monkeypatch).ask(drr)
    assert (row["stop_cause"], row["acts"]) == (cause, acts)
    (output,) = row["text"]["attempts"]
    assert output["closed"] is closed
    assert bool(row["boundaries"]) is (cause != "max_thinking_tokens"), "judged or not"
    chosen = [[one_row(row).to_pylist()[0]]]
    monkeypatch.setattr("drr.learn.from_log.read_file", lambda path: chosen.pop())
    monkeypatch.setattr("drr.learn.from_log.log_files", lambda folder: [folder])
    logged = read_logged(Path("log"), Choosing(row["reasoner"], continue_cut=True), None)
    assert logged.about["ends"] == ({"answer": 1} if closed else {"cut": 1})


async def test_odd_requests_are_rows_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "QUESTION", "half a \ud800 character")
    (row,) = await Engine(monkeypatch).ask(top_k=2**40, seed=2**62)
    assert one_row(row).to_pylist()[0]["text"]["question"] == "half a ? character"


async def test_a_client_that_leaves_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = await Engine(monkeypatch).ask(outputs=2)
    one_row(row)
    assert (row["finish"], row["finish_reason"], row["stop_cause"]) == ("aborted", None, None)
    assert row["text"]["attempts"][0]["ids"], "what there was by then"
    assert not row["text"]["attempts"][0]["closed"]
    assert [attempt["fate"] for attempt in row["attempts"]] == ["abandoned"]


async def test_every_choice_is_a_row_and_all_or_none_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = await Engine(monkeypatch).ask(n=3)
    assert [row["choice"] for row in sorted(rows, key=lambda row: row["choice"])] == [0, 1, 2]
    engine = Engine(monkeypatch, share=0.3)
    for _ in range(200):
        await engine.ask({"mode": "off"}, n=2)
    logged = len(engine.rows.rows)
    assert logged % 2 == 0
    assert 60 < logged < 180, "of 400; a share of 0.3 misses this range once in a million"


async def test_attempts_are_told_with_their_fates() -> None:
    engine = FakeEngine(ASKED)
    drr = {"mode": "rethink", "max_rethinks": 2, "accept": 0.5}
    row = await served(engine, ASKED[0].text, drr, scores=(0.2,))
    one_row(row)
    fates = [attempt["fate"] for attempt in row["attempts"]]
    assert sorted(fates) == ["answered", "rejected", "rejected"]
    assert {step["attempt"] for step in row["boundaries"]} == {0, 1, 2}
    assert [output["closed"] for output in row["text"]["attempts"]] == [True] * 3
    assert sum(attempt["generated_tokens"] for attempt in row["attempts"]) == sum(
        row["tokens"][fate] for fate in ("thinking", "answer", "discarded")
    )
    parallel = await served(engine, ASKED[0].text, {**drr, "parallel": 2}, scores=(0.9,))
    one_row(parallel)
    assert len(parallel["text"]["attempts"]) == 2


def test_nothing_of_it_is_loaded_unless_it_is_asked_for() -> None:
    code = (
        "import sys, server.serving; print([own for own in ('drr.decisions.writer', 'drr.decisions.files', "
        "'drr.decisions.schema') if own in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--drr-decision-log-share", "0.5"], "--drr-decision-log-share: needs --drr-decision-log"),
        (["--drr-decision-log-text"], "--drr-decision-log-text: needs --drr-decision-log"),
        (["--drr-decision-log-mb", "9"], "--drr-decision-log-mb: needs --drr-decision-log"),
        (["--drr-decision-log-total-mb", "9"], "--drr-decision-log-total-mb: needs --drr-decision-log"),
        (["--drr-decision-log-seconds", "9"], "--drr-decision-log-seconds: needs --drr-decision-log"),
        (["--drr-decision-log", "d", "--drr-decision-log-share", "0"], "must be above 0 and at most 1, not 0"),
        (["--drr-decision-log", "d", "--drr-decision-log-share", "nan"], "must be above 0 and at most 1, not nan"),
        (["--drr-decision-log", "d", "--drr-decision-log-mb", "0"], "--drr-decision-log-mb: must be above 0"),
        (
            ["--drr-decision-log", "d", "--drr-decision-log-seconds", "-1"],
            "--drr-decision-log-seconds: must be above 0",
        ),
        (["--drr-decision-log", "d", "--drr-decision-log-mb", "9", "--drr-decision-log-total-mb", "8"], "is less than"),
    ],
)
def test_flags_that_make_no_sense_are_refused(given: list[str], complaint: str) -> None:
    for check in (lambda: check_early(["--port", "0", *given]), lambda: parse_args(["--model", "some/model", *given])):
        with pytest.raises(InputError, match=complaint.replace("(", r"\(")):
            check()


def test_a_folder_that_cannot_be_one_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--drr-decision-log: .*file is a file, not a folder"):
        check_early(["--port", "0", "--drr-decision-log", str(tmp_path / "file" / "log")])


def _options(folder: Path, *more: str) -> Namespace:
    args = own_parser().parse_args(["--drr-decision-log", str(folder), *more])
    args.model, args.served_model_name = str(reference.reasoner_folder()), None
    return args


async def test_the_log_is_finished_when_the_server_ends(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    engine: Any = SimpleNamespace(drr=SimpleNamespace(log=None))
    async with logging_decisions(_options(folder, "--drr-decision-log-text"), engine):
        log = engine.drr.log
        assert isinstance(log, DecisionLog)
        assert (log.identity.model, log.text) == (str(reference.reasoner_folder()), True)
        assert log.identity.reasoner == fingerprint(reference.reasoner_folder())
        row = await served(FakeEngine(ASKED), ASKED[0].text)
        log.writer.submit(lambda: row)
    assert engine.drr.log is None
    (path,) = log_files(folder)
    assert [one["id"] for one in read_file(path)] == ["chatcmpl-0"]
    assert stat.S_IMODE((folder / KEY_NAME).stat().st_mode) == 0o600
    async with logging_decisions(_options(folder), engine):
        assert engine.drr.log.identity == log.identity, "the folder's key, from server to server"
    async with logging_decisions(Namespace(drr_decision_log=None), engine):
        assert engine.drr.log is None


async def test_responses_go_on_where_the_log_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(monkeypatch)
    blocked = tmp_path / "file"
    blocked.write_text("")
    dropped = LOG_ROWS.labels("dropped")._value.get()
    async with logging_decisions(_options(blocked / "log"), engine.engine):
        assert engine.engine.drr is not None
        assert engine.engine.drr.log is not None
        assert await engine.ask() == [], "the rows go elsewhere"
    assert LOG_ROWS.labels("dropped")._value.get() == dropped + 1
    assert "question.key cannot be used" in caplog.text
    assert "cannot be written" in caplog.text


# A real server --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_asking_to_a_retrained_head(tmp_path: Path) -> None:
    """A server logs, its log becomes records, they train a head."""
    reasoner, log, records, dm = (
        str(reference.reasoner_folder()),
        tmp_path / "log",
        tmp_path / "records",
        tmp_path / "dm",
    )
    options = ["--drr-decision-log", str(log), "--drr-decision-log-text", "--drr-mode", "shadow"]
    server = start(tmp_path / "server.log", *options)
    try:
        asyncio.run(_ask_all(f"{server.url}/v1"))
        assert "drr_decision_log_rows_total" in httpx.get(f"{server.url}/metrics").text
    finally:
        assert stop(server) == 0
    rows = [row for path in log_files(log) for row in read_file(path)]
    assert len(rows) == len(ASKED), "what was not written yet is written at the end"
    assert {row["finish"] for row in rows} == {"complete"}
    for row in rows:
        assert {step["p_now"] is not None for step in row["boundaries"]} == {row["mode"] == "shadow"}
    said = server.log.read_text()
    assert ASKED[0].text not in said
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"question": q.text, "answer": q.answer}) + "\n" for q in ASKED))
    _drr("distill", str(answers), "--from-log", str(log), "--reasoner", reasoner, "--out", str(records))
    taken = Manifest.load(records).settings["from_log"]
    rollouts = read_rollouts(records)
    assert len(rollouts) == taken["used"] >= 0.8 * len(ASKED), "some may have used all of their tokens"
    by_question = {row["text"]["question"]: row for row in rows}
    for rollout in rollouts:
        boundaries = by_question[rollout.question]["boundaries"]
        assert rollout.step_tokens == [step["tokens"] for step in boundaries], "cut as it was served"
        assert None not in rollout.logprobs, "asked for by the judge, or found afterwards"
    _drr("train", "--data", str(records), "--reasoner", reasoner, "--out", str(dm), "--train-share", "0.8")
    card = DmCard.load(dm)
    assert (card.kind, card.reasoner) == ("head", fingerprint(reference.reasoner_folder()))


def _drr(*arguments: str) -> None:
    command = [sys.executable, "-m", "drr.cli", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]


async def _ask_all(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def ask(number: int, text: str) -> None:
            await client.chat.completions.create(
                model=reference.MODEL_NAME,
                messages=[{"role": "user", "content": text}],
                temperature=0.8,
                seed=number,
                max_tokens=700,
                extra_body={"drr": {"mode": "off"}} if number % 4 == 0 else {},
            )

        await asyncio.gather(*(ask(number, question.text) for number, question in enumerate(ASKED)))

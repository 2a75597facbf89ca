"""A log of 5,000 responses, from the server's loop and writer to a retrained head. Only the engine is a fake one: what
it says is short, and in the tokens of the reference Reasoner, which gives the states."""

import asyncio
import time
from pathlib import Path

import pytest

from drr import reference
from drr.cli.main import main
from drr.decisions.files import log_files
from drr.decisions.writer import Limits, LogWriter
from drr.judge.dm_folder import DmCard, fingerprint
from drr.learn.distill import distill
from drr.learn.distill_config import DistillConfig
from drr.learn.from_log import Choosing, read_logged
from drr.learn.records import read_rollouts
from drr.tasks import Split
from drr.tasks.arithmetic import questions
from tests.decisions.test_writer import Counts, until
from tests.fake_engine import FakeEngine
from tests.learn import logs
from tests.learn.logs import served

RESPONSES = 5000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_thousand_responses_make_records_and_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reasoner = fingerprint(reference.reasoner_folder())
    monkeypatch.setattr(logs, "FINGERPRINT", reasoner)
    asked = questions(11, Split.TRAIN, RESPONSES)
    engine, counts, log = FakeEngine(asked), Counts(), tmp_path / "log"
    begun = time.monotonic()
    writer = LogWriter(log, Limits(file_bytes=1 << 20), counts)

    async def serve() -> None:
        for number, question in enumerate(asked):
            row = await served(engine, question.text, {"mode": "shadow"}, number=number)
            assert writer.submit(lambda row=row: row)
            until(lambda: writer._queue.qsize() < 1000)

    asyncio.run(serve())
    writer.close()
    told = [f"{RESPONSES} served and logged in {time.monotonic() - begun:.0f} s"]
    files = log_files(log)
    assert (counts.rows, counts.lost) == (RESPONSES, 0)
    assert len(files) > 5
    told.append(f"{len(files)} files, {counts.bytes / RESPONSES:.0f} bytes a response")
    begun = time.monotonic()
    logged = read_logged(log, Choosing(reasoner), asked)
    assert logged.about["used"] == len(logged.questions) == RESPONSES
    told.append(f"read in {time.monotonic() - begun:.0f} s")
    begun, records = time.monotonic(), tmp_path / "records"
    config = DistillConfig(rollouts=1, extra_rollouts=0)
    opened = engine.reasoner()
    asyncio.run(
        distill(
            type(opened)(opened.generate, opened.tokenizer, opened.form, 2048, "reasoner", reasoner),
            logged.questions,
            records,
            config,
            logged=logged,
        )
    )
    rollouts = read_rollouts(records)
    assert len({rollout.question for rollout in rollouts}) == RESPONSES
    told.append(
        f"{sum(len(rollout.steps) for rollout in rollouts)} boundaries graded in {time.monotonic() - begun:.0f} s"
    )
    begun, dm = time.monotonic(), tmp_path / "dm"
    own = str(reference.reasoner_folder())
    assert main(["train", "--data", str(records), "--reasoner", own, "--out", str(dm), "--kind", "head"]) == 0
    assert DmCard.load(dm).reasoner == reasoner
    told.append(f"a head in {time.monotonic() - begun:.0f} s")
    with capsys.disabled():
        print(*told, sep="\n")  # noqa: T201

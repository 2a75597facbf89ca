"""What a DM said when it was made, and what it says now."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drr import reference
from drr.engine.dm_files import check_dm
from drr.engine.state_ids import StateIds
from drr.errors import InputError
from drr.judge.dm_sums import SUMS_NAME, write_sums
from drr.judge.self_test import SELF_TEST_NAME, SelfTest, StateCheck, TextCheck, disagreement
from drr.loop.scoring import Boundary
from server.errors import StartupError
from server.self_test import check_heads, check_text


@pytest.mark.parametrize("kind", ["text", "head"])
def test_the_shipped_dms_say_what_they_said(kind: Any) -> None:
    folder = reference.dm_folder(kind)
    recorded = SelfTest.load(folder)
    assert recorded is not None
    assert (bool(recorded.text), bool(recorded.states)) == (kind == "text", kind == "head")
    assert SELF_TEST_NAME in (folder / SUMS_NAME).read_text()


def test_records_are_whole_or_told(tmp_path: Path) -> None:
    shutil.copytree(reference.dm_folder("head"), tmp_path / "dm")
    assert check_dm(tmp_path / "dm", "--dm").kind == "head"
    (tmp_path / "dm" / SELF_TEST_NAME).unlink()
    with pytest.raises(InputError, match=f"{SELF_TEST_NAME}.* is missing"):
        check_dm(tmp_path / "dm", "--dm")
    write_sums(tmp_path / "dm")
    assert check_dm(tmp_path / "dm", "--dm").kind == "head", "a DM from before there were records"
    (tmp_path / "dm" / SELF_TEST_NAME).write_text('{"states": [{"ids": ["a"], "logits": []}]}')
    with pytest.raises(InputError, match=f"{SELF_TEST_NAME}.*states"):
        SelfTest.load(tmp_path / "dm")


@pytest.mark.parametrize(
    ("said", "agrees"),
    [
        ((1.0, -6.0), True),
        ((1.25, -6.6), True),
        ((1.5, -6.0), False),
        ((1.0, 6.0), False),
        ((math.nan, -6.0), False),
        ((1.0, math.inf), False),
        ((1.0,), False),
    ],
)
def test_precision_is_forgiven_and_nothing_else(said: tuple[float, ...], agrees: bool) -> None:
    assert (disagreement(said, (1.0, -6.0)) is None) is agrees


class Classifier:
    """Gives the same logits at every boundary."""

    def __init__(self, *logits: float) -> None:
        self._logits = logits

    def session(self, question: str) -> "Classifier":
        return self

    async def logits(self, boundary: Boundary) -> tuple[float, ...]:
        return self._logits


async def test_a_classifier_that_judges_otherwise_keeps_the_server_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text: Any = Classifier(0.5, 1.0)
    await check_text(tmp_path, text)
    assert "cannot be tested" in caplog.text
    SelfTest([TextCheck("1 + 1?", ["1 + 1 is 2.", "So 2."], [[0.5, 1.0], [0.4, 1.1]])]).save(tmp_path)
    await check_text(tmp_path, text)
    for logits in ((3.0, 1.0), (math.nan, 1.0)):
        with pytest.raises(StartupError, match="judges otherwise than when it was made: of its text classifier"):
            await check_text(tmp_path, Classifier(*logits))  # type: ignore[arg-type]


class Engine:
    """Two heads whose outputs are -1, 1, -2 and 2, or nothing."""

    def __init__(self, *said: float) -> None:
        self.said, self.asked = said, list[list[int]]()

    async def generate(self, prompt: Any, params: Any, request_id: str) -> Any:
        self.asked.append(prompt["prompt_token_ids"])
        outputs = dict(enumerate((-200.0, *(-200.0 + one for one in self.said)), 900))
        told = {token: SimpleNamespace(logprob=value) for token, value in outputs.items()}
        yield SimpleNamespace(outputs=[SimpleNamespace(logprobs=[told] if self.said else None)])


async def test_every_head_is_asked_at_its_place(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, logits in ((first, [-1.0, 1.0]), (second, [-2.0, 2.0])):
        folder.mkdir()
        SelfTest(states=[StateCheck([5, 6, 7], logits)]).save(folder)
    ids, engine = StateIds(900, (901, 902, 903, 904)), Engine(-1.0, 1.0, -2.0, 2.0)
    asked: Any = engine
    await check_heads(asked, ids, [first, second])
    assert engine.asked == [[0], [5, 6, 7], [5, 6, 7]]
    with pytest.raises(StartupError, match=r"second judges .* of its head, it says -1 and 1 where it said -2"):
        await check_heads(asked, ids, [second, first])
    silent: Any = Engine()
    with pytest.raises(StartupError, match="has not loaded DRR's plugin"):
        await check_heads(silent, ids, [])

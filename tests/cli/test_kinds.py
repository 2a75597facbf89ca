"""The commands for DMs with a state head: what they need, what they leave, and what has no effect for a kind."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification
from vllm.model_executor.model_loader.weight_utils import filter_duplicate_safetensors_files

from drr.cli.main import main
from drr.engine.dm_files import check_dm
from drr.engine.state_head import StateHead
from drr.errors import InputError
from drr.evaluate.run import read_outcomes
from drr.judge.calibration import Calibration
from drr.judge.dm_folder import STATE_HEAD_NAME, DmCard, load_dm_head, read_trained_on
from drr.judge.self_test import SELF_TEST_NAME, SelfTest
from drr.learn.distill_config import DistillConfig
from drr.learn.dm_card import PLOT_NAMES
from drr.learn.states import STATES_NAME
from drr.reference import SERVED_DM, dm_folder, reasoner_folder
from drr.tasks import Split
from drr.tasks.arithmetic import questions
from tests.state_records import claim, records_of_tiny_reasoner, without_ids
from tests.tiny_models import tiny

ASKED = questions(9, Split.TRAIN, 200)

pytestmark = pytest.mark.timeout(1200)  # trains three DMs; minutes where others use the cores


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny Reasoner and its records."""
    folder = tmp_path_factory.mktemp("kinds")
    return records_of_tiny_reasoner(folder, ASKED, DistillConfig(rollouts=2, extra_rollouts=2))


@pytest.fixture(scope="module")
def head(made: tuple[Path, Path]) -> Path:
    reasoner, records = made
    out = records.parent / "dm-head"
    assert main(["train", "--data", str(records), "--reasoner", str(reasoner), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def text(made: tuple[Path, Path]) -> Path:
    backbone, out = tiny(made[1].parent / "backbone", "causal"), made[1].parent / "dm-text"
    arguments = ["--kind", "text", "--backbone", str(backbone), "--out", str(out), "--epochs", "0.5"]
    assert main(["train", "--data", str(made[1]), *arguments]) == 0
    return out


@pytest.fixture(scope="module")
def fused(made: tuple[Path, Path], head: Path, text: Path) -> Path:
    out = head.parent / "dm-fused"  # the states are kept since the head was trained
    assert main(["train", "--data", str(made[1]), "--kind", "fused", "--text-dm", str(text), "--out", str(out)]) == 0
    return out


def test_a_head_needs_no_second_model(head: Path) -> None:
    names = {path.name for path in head.iterdir()}
    assert names == {
        "drr.json",
        "head.json",
        STATE_HEAD_NAME,
        "trained_on.txt",
        "README.md",
        "SHA256SUMS",
        "plots",
        SELF_TEST_NAME,
    }
    card = DmCard.load(head)
    assert card.kind == load_dm_head(head).kind == "head"
    assert set(card.metrics) == {"state", "behaviour", "head", "baselines"}
    assert StateHead.load(head / STATE_HEAD_NAME).size == 32
    assert all((head / "plots" / name).stat().st_size > 5000 for name in PLOT_NAMES)
    said = (head / "README.md").read_text()
    assert "A state head (" in said
    assert "| state | behaviour | head |" in said
    assert "text classifier" not in said


def test_a_fused_dm_takes_over_a_text_classifier(fused: Path, text: Path) -> None:
    card = DmCard.load(fused)
    assert card.kind == load_dm_head(fused).kind == "fused"
    assert set(card.metrics) == {"text", "state", "behaviour", "head", "fused", "baselines"}
    assert card.trained_on["classifier"] == DmCard.load(text).trained_on["classifier"]
    assert (fused / "model.safetensors").read_bytes() == (text / "model.safetensors").read_bytes()
    assert read_trained_on(fused) == read_trained_on(text)
    assert DmCard.load(fused).metrics["text"] == DmCard.load(text).metrics["text"]
    said = (fused / "README.md").read_text()
    assert "A text classifier (" in said
    assert "A state head (" in said


def test_engines_load_only_the_classifier_of_a_fused_dm(fused: Path) -> None:
    found = [str(path) for path in fused.glob("*.safetensors")]
    assert len(found) == 2
    loaded = filter_duplicate_safetensors_files(found, str(fused), "model.safetensors.index.json")
    assert loaded == [str(fused / "model.safetensors")]
    model = AutoModelForSequenceClassification.from_pretrained(fused)
    other = AutoModelForSequenceClassification.from_pretrained(fused.parent / "dm-text")
    assert torch.equal(model.score.weight, other.score.weight)


@pytest.mark.parametrize("kind", ["head", "fused"])
def test_dms_with_a_state_head_are_calibrated(
    kind: str, made: tuple[Path, Path], request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    dm = request.getfixturevalue(kind)
    arguments = ["calibrate", "--dm", str(dm), "--data", str(made[1]), "--risk", "0.1", "--check", "2"]
    assert main(arguments) == 0
    assert "of 2 splits" in capsys.readouterr().out
    card = DmCard.load(dm)
    assert card.kind == kind
    assert card.calibration is not None
    calibration = Calibration.from_json(card.calibration)
    assert sum(calibration.questions.values()) == 200 - len(read_trained_on(dm))
    assert "## Calibration" in (dm / "README.md").read_text()
    assert main(["inspect", str(dm)]) == 0
    assert "state" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["head", "text", "fused"])
def test_a_dm_of_any_kind_has_all_its_files(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    dm = request.getfixturevalue(kind)
    assert check_dm(dm, "--dm").kind == kind
    for name in {"head.json", STATE_HEAD_NAME, "config.json"} & {path.name for path in dm.iterdir()}:
        damaged = tmp_path / name
        shutil.copytree(dm, damaged, ignore=shutil.ignore_patterns(name))
        with pytest.raises(InputError, match=name):
            check_dm(damaged, "--dm")


def test_strategies_are_compared_with_a_head(tmp_path: Path) -> None:
    models = ["--reasoner", str(reasoner_folder()), "--dm", str(dm_folder(SERVED_DM))]
    chosen = ["--strategy", "dm, default", "--scorer", "logprob", "--max-tokens", "200"]
    command = ["eval", "arithmetic:6:5:test", *models, *chosen, "--out", str(tmp_path / "out")]
    # In a process of its own: vLLM leaves sockets behind that only its end closes.
    done = subprocess.run([sys.executable, "-m", "drr.cli", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcomes = {found.name: found.rows for found in read_outcomes(tmp_path / "out")}
    assert not any(math.isnan(row.p_now) for row in outcomes["dm, default"]), "the head said something of every answer"
    assert not any(row.unscored for row in outcomes["dm, default"])


def test_a_backbone_makes_a_fused_dm_of_its_own(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, records = tiny(tmp_path / "backbone", "causal"), tmp_path / "records"
    shutil.copytree(made[1], records)
    shutil.rmtree(records / STATES_NAME, ignore_errors=True)
    arguments = ["train", "--data", str(records), "--kind", "fused", "--backbone", str(backbone), "--epochs", "0.3"]
    assert main([*arguments, "--out", str(tmp_path / "dm")]) == 2
    assert "--reasoner: is needed: the states of fake" in capsys.readouterr().err
    assert main([*arguments, "--reasoner", str(made[0]), "--out", str(tmp_path / "dm")]) == 0
    assert "text" in DmCard.load(tmp_path / "dm").metrics
    assert not (tmp_path / "dm" / "training.json").exists()


def test_what_does_not_fit_is_refused(
    made: tuple[Path, Path], head: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, out = tmp_path / "records", ["--out", str(tmp_path / "dm")]
    shutil.copytree(made[1], records)
    shutil.rmtree(records / STATES_NAME, ignore_errors=True)
    train, kept = ["train", "--data", str(records), *out], ["train", "--data", str(made[1]), *out]
    calibrate = ["calibrate", "--data", str(records), "--risk", "0.1", "--dm"]
    fuse = ["--kind", "fused", "--text-dm"]
    for arguments, said in (
        (train, "--reasoner: is needed"),
        ([*calibrate, str(head)], "--reasoner: is needed"),
        ([*calibrate, str(text), "--reasoner", str(made[0])], "--reasoner: has no effect: dm-text has no state head"),
        ([*train, "--reasoner", str(text)], "is not the Reasoner of"),
        ([*train, "--backbone", "b"], "--backbone: is for --kind text and fused"),
        ([*train, "--epochs", "3"], "--epochs: is for --kind text and fused"),
        ([*train, "--kind", "text"], "--backbone: is needed"),
        ([*train, "--kind", "fused"], "--backbone: is needed (or --text-dm"),
        ([*train, "--kind", "text", "--backbone", "b", "--reasoner", "r"], "--reasoner: is for --kind head and fused"),
        ([*train, *fuse, str(text), "--backbone", "b"], "--backbone: is not for --text-dm"),
        ([*kept, *fuse, str(head)], "has no text classifier: it is of kind head"),
        ([*kept, *fuse, str(text), "--train-share", "0.2"], "give its --train-share"),
        ([*kept, *fuse, str(records)], "is no DM"),
    ):
        assert main(arguments) == 2, arguments
        assert said in capsys.readouterr().err
        assert not (tmp_path / "dm").exists()
    claim(records, "another")
    assert main([*train, *fuse, str(text), "--reasoner", str(made[0])]) == 2
    without_ids(records)
    claim(records, DmCard.load(text).reasoner)
    assert main([*train, "--reasoner", str(made[0])]) == 2
    assert "records of an earlier version hold no token ids" in capsys.readouterr().err


def test_a_text_dm_of_another_reasoner_is_not_taken_over(
    made: tuple[Path, Path], head: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(text, tmp_path / "other")
    card = json.loads((tmp_path / "other" / "drr.json").read_text())
    (tmp_path / "other" / "drr.json").write_text(json.dumps({**card, "reasoner": "another"}))
    arguments = ["train", "--data", str(made[1]), "--kind", "fused", "--text-dm", str(tmp_path / "other")]
    assert main([*arguments, "--out", str(tmp_path / "dm")]) == 2
    assert "does not fit the records" in capsys.readouterr().err


def test_a_state_head_that_is_lost_is_missed(
    made: tuple[Path, Path], head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(head, tmp_path / "dm")
    (tmp_path / "dm" / STATE_HEAD_NAME).unlink()
    assert main(["calibrate", "--dm", str(tmp_path / "dm"), "--data", str(made[1]), "--risk", "0.1"]) == 2
    assert f"has no {STATE_HEAD_NAME}" in capsys.readouterr().err
    with pytest.raises(InputError):
        StateHead.load(tmp_path / "dm" / STATE_HEAD_NAME)


@pytest.mark.parametrize(("kind", "parts"), [("head", (0, 4)), ("text", (1, 0)), ("fused", (1, 4))])
def test_what_the_parts_of_a_dm_say_is_recorded(
    kind: str, parts: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    recorded = SelfTest.load(request.getfixturevalue(kind))
    assert recorded is not None
    assert (len(recorded.text), len(recorded.states)) == parts
    assert all(len(logits) == 2 for check in recorded.text for logits in check.logits)
    assert all(check.ids and len(check.logits) == 2 for check in recorded.states)

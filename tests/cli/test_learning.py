"""The commands one after the other, on toy models: records, a DM, its certificates, and what is printed about them."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from drr.certify.promise import PROMISE_NAME, PROMISE_PLOT
from drr.cli.inspect_command import FIRST_SCORES_METRIC
from drr.cli.main import main
from drr.engine.dm_files import check_dm
from drr.judge.calibration import Calibration
from drr.judge.dm_folder import DmCard, load_dm_head, read_trained_on
from drr.learn.distill_config import DistillConfig
from drr.learn.dm_card import PLOT_NAMES
from drr.learn.records import MANIFEST_NAME, question_key, read_rollouts
from drr.tasks import Split
from drr.tasks.arithmetic import questions
from server import metrics
from tests.fake_engine import FakeEngine, distil
from tests.local_files import lines
from tests.tiny_models import tiny

ASKED = questions(9, Split.TRAIN, 240)


pytestmark = pytest.mark.timeout(1200)  # trains a DM; minutes where others use the cores


def training(records: Path, backbone: Path | str, out: Path, *more: str) -> list[str]:
    return ["train", "--data", str(records), "--kind", "text", "--backbone", str(backbone), "--out", str(out), *more]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learning") / "records"
    distil(ASKED, folder, DistillConfig(rollouts=2, extra_rollouts=2), FakeEngine(ASKED, skill=0.7))
    return folder


@pytest.fixture(scope="module")
def trained(records: Path) -> Path:
    backbone, out = tiny(records.parent / "backbone", "causal"), records.parent / "dm"
    assert main(training(records, backbone, out, "--epochs", "1")) == 0
    return out


def test_training_leaves_a_dm_with_its_figures(trained: Path, records: Path) -> None:
    card = DmCard.load(trained)
    assert (card.reasoner, card.reasoner_name, card.step_rule) == ("0123456789abcdef", "fake", "blank_line")
    assert set(card.metrics) == {"text", "behaviour", "fused", "baselines"}
    assert set(card.metrics["baselines"]) == {"step_index", "length", "reasoner_confidence"}
    assert load_dm_head(trained).reads_behaviour
    keys = {question_key(rollout.question) for rollout in read_rollouts(records)}
    assert read_trained_on(trained) < keys
    assert len(read_trained_on(trained)) / len(keys) == pytest.approx(0.55, abs=0.1)
    assert all((trained / "plots" / name).stat().st_size > 5000 for name in PLOT_NAMES)
    text = (trained / "README.md").read_text()
    assert "| at the first stated answer |" in text
    assert "drr calibrate" in text


def test_a_finished_dm_is_not_trained_over(trained: Path, records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not (trained / "checkpoints").exists()
    assert main(training(records, "b", trained)) == 2
    assert "holds a finished DM" in capsys.readouterr().err
    assert DmCard.load(trained).metrics


@pytest.mark.parametrize(
    ("option", "value"), [("--cut", "1.5"), ("--merge", "-0.1"), ("--extra-layers", "-1"), ("--ranking", "-1")]
)
def test_training_options_out_of_range_are_named(
    records: Path, tmp_path: Path, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(training(records, "b", tmp_path / "dm", option, value)) == 2
    assert option in capsys.readouterr().err


def test_calibration_certifies_what_the_questions_allow(
    trained: Path, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_trained_on(trained)
    assert main(["calibrate", "--dm", str(trained), "--data", str(records), "--risk", "0.1", "--risk", "0.01"]) == 0
    printed = capsys.readouterr().out
    card = DmCard.load(trained)
    assert card.calibration is not None
    calibration = Calibration.from_json(card.calibration)
    assert calibration.questions.keys() == {"temperature", "order", "test"}
    assert sum(calibration.questions.values()) == 240 - len(before)
    assert calibration.sampling == {"temperature": 0.8, "top_p": 1.0, "top_k": 0, "max_tokens": 1024}
    assert "needs at least 299" in calibration.refused["0.01"]
    assert "needs at least 299" in printed
    assert calibration.risks in ([], [0.1])
    threshold = calibration.default["rule"]["threshold"]
    assert card.threshold == (1.0 if threshold is None else threshold)
    assert "## Calibration" in (trained / "README.md").read_text()
    assert main(["inspect", str(trained)]) == 0
    assert "fake" in capsys.readouterr().out


class KilledError(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def test_a_calibration_that_is_killed_between_two_files_is_made_again(
    trained: Path, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def calibrate(folder: Path) -> DmCard:
        assert main(["calibrate", "--dm", str(folder), "--data", str(records), "--risk", "0.1"]) == 0
        return DmCard.load(folder)

    shutil.copytree(trained, tmp_path / "whole")
    whole, write = calibrate(tmp_path / "whole"), Path.replace
    for files in range(4):
        dm, left = tmp_path / f"killed-{files}", [files]
        shutil.copytree(trained, dm)

        def replace(self: Path, target: Path, left: list[int] = left) -> Path:
            if not left[0]:
                raise KilledError
            left[0] -= 1
            return write(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            with pytest.raises(KilledError):
                calibrate(dm)
        check_dm(dm, "--dm")
        assert calibrate(dm) == whole
        assert load_dm_head(dm).to_json() == load_dm_head(tmp_path / "whole").to_json()


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_behind_its_last_checkpoint(
    trained: Path, records: Path, tmp_path: Path
) -> None:
    train = training(records, trained.parent / "backbone", tmp_path / "dm", "--epochs", "1")
    process = subprocess.Popen([sys.executable, "-m", "drr.cli", *train])
    deadline = time.monotonic() + 300
    while not list((tmp_path / "dm").glob("checkpoints/checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert main(train) == 0
    assert DmCard.load(tmp_path / "dm").trained_on["classifier"]["resumed_from"] > 0


def test_the_promise_can_be_checked(trained: Path, records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["calibrate", "--dm", str(trained), "--data", str(records), "--risk", "0.1", "--check", "5"]
    assert main(arguments) == 0
    assert "of 5 splits" in capsys.readouterr().out
    (result,) = json.loads((trained / PROMISE_NAME).read_text())
    assert (result["splits"], len(result["lost_rates"])) == (5, 5)
    assert (trained / PROMISE_PLOT).stat().st_size > 5000


def test_too_few_questions_say_how_many_are_needed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [question for question in ASKED if question_key(question.text) not in read_trained_on(trained)][:20]
    distil(few, tmp_path / "few", DistillConfig(rollouts=2, extra_rollouts=0), FakeEngine(few))
    assert main(["calibrate", "--dm", str(trained), "--data", str(tmp_path / "few"), "--risk", "0.02"]) == 2
    error = capsys.readouterr().err
    assert "149 for 2 %" in error
    assert "Traceback" not in error


def test_records_of_another_reasoner_are_refused(
    trained: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in records.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((other / MANIFEST_NAME).read_text())
    manifest["settings"]["reasoner"] = {"name": "another", "fingerprint": "f"}
    (other / MANIFEST_NAME).write_text(json.dumps(manifest))
    assert main(["calibrate", "--dm", str(trained), "--data", str(other)]) == 2
    assert "is the behaviour of another, the DM judges fake" in capsys.readouterr().err
    manifest["complete"] = False
    (other / MANIFEST_NAME).write_text(json.dumps(manifest))
    assert (
        main(["train", "--data", str(other), "--kind", "text", "--backbone", "b", "--out", str(tmp_path / "dm")]) == 2
    )
    assert "is not complete yet" in capsys.readouterr().err


def test_recorded_solutions_train_a_dm_but_cannot_be_calibrated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "question": f"What is {n // 4} + 1?",
            "gold": str(n // 4 + 1),
            "solution": f"so\nThe answer is {n // 4 + n % 2}.",
        }
        for n in range(400)
    ]
    source = lines(tmp_path / "solutions.jsonl", *rows, "broken")
    (tmp_path / "other").mkdir()
    out, dm = tmp_path / "records", tmp_path / "dm"
    for option, value in (("--limit", "5"), ("--labels", "consistency")):
        assert main(["distill", source, "--recorded", option, value, "--out", str(out)]) == 2
        assert option in capsys.readouterr().err
    assert main(["distill", source, "--recorded", "--step-rule", "line", "--out", str(out)]) == 0
    assert "set aside: 1 (row is not JSON)" in capsys.readouterr().out
    other = lines(tmp_path / "other" / "solutions.jsonl", *rows[::-1])
    assert main(["distill", other, "--recorded", "--step-rule", "line", "--out", str(out)]) == 2
    assert "field rollouts_key" in capsys.readouterr().err
    backbone = str(tiny(tmp_path / "backbone", "encoder"))
    arguments = ["--kind", "text", "--backbone", backbone, "--epochs", "1", "--boundaries-per-rollout", "1"]
    assert main(["train", "--data", str(out), "--out", str(dm), *arguments]) == 0
    metrics = DmCard.load(dm).metrics
    assert set(metrics) == {"text", "baselines"}
    assert metrics["text"]["best_of"]["random"] == 0.5
    assert main(["calibrate", "--dm", str(dm), "--data", str(out), "--risk", "0.1"]) == 2
    assert "holds recorded solutions" in capsys.readouterr().err


@pytest.mark.parametrize(("share", "said"), [(10, "Drift: none"), (3, "WARNING: live scores have drifted")])
def test_inspect_compares_live_scores(
    trained: Path,
    records: Path,
    share: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["calibrate", "--dm", str(trained), "--data", str(records), "--risk", "0.1"]) == 0
    shares = DmCard.load(trained).calibration["drift"]["shares"]  # type: ignore[index]
    counts = [int(1000 * bin_share) if index < share else 0 for index, bin_share in enumerate(shares)]
    text = "".join(f'{FIRST_SCORES_METRIC}_total{{bin="{index}"}} {count}\n' for index, count in enumerate(counts))
    body = f"# TYPE {FIRST_SCORES_METRIC} counter\n{text}"

    def get(url: str, **_: object) -> httpx.Response:
        assert url == "http://server:8000/metrics"
        return httpx.Response(200, text=body, request=httpx.Request("GET", url))

    monkeypatch.setattr(httpx, "get", get)
    assert main(["inspect", str(trained), "--server", "http://server:8000/v1"]) == 0
    assert said in " ".join(capsys.readouterr().out.split())


def test_the_served_counter_is_the_one_that_inspect_reads() -> None:
    assert next(iter(metrics.FIRST_SCORES.describe())).name == FIRST_SCORES_METRIC


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_train_one_dm(records: Path, tmp_path: Path) -> None:
    backbone = tiny(tmp_path / "backbone", "causal")
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += [
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "-m",
        "drr.cli",
        "train",
        "--data",
        str(records),
    ]
    command = [
        sys.executable,
        *launch,
        "--kind",
        "text",
        "--backbone",
        str(backbone),
        "--out",
        str(tmp_path / "dm"),
        "--epochs",
        "1",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert DmCard.load(tmp_path / "dm").metrics
    assert not (tmp_path / "dm" / "checkpoints").exists()


def test_distill_says_how_a_file_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"{n}?", "solution": "The answer is 1.", "answer": 1} for n in range(3)]
    source = tmp_path / "solutions.json"
    source.write_text(json.dumps({"version": 1, "runs": [*rows, {"question": "x?", "answer": 1}]}))
    assert main(["distill", str(source), "--recorded", "--out", str(tmp_path / "records")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the rows are those of the list 'runs'" in said
    assert "set aside: 1 (solution is missing)" in said

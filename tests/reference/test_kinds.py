"""The stages of the build that make the DMs with a state head, on toy records."""

import json
import shutil
from pathlib import Path

import pytest

from drr.judge.dm_folder import DmCard, load_dm_head, read_trained_on
from drr.learn.distill_config import DistillConfig
from drr.learn.train_config import TrainConfig
from drr.reference import build
from drr.tasks import Split
from drr.tasks.arithmetic import questions
from tests.state_records import records_of_tiny_reasoner
from tests.tiny_models import tiny

COUNTS = {Split.TRAIN: 60, Split.CALIBRATION: 60, Split.TEST: 10}


@pytest.mark.timeout(900)
def test_a_build_makes_a_head_and_a_fused_dm_after_the_text_dm(tmp_path: Path) -> None:
    for split, count in COUNTS.items():
        asked, config = questions(9, split, count), DistillConfig(rollouts=2, extra_rollouts=0)
        reasoner, records = records_of_tiny_reasoner(tmp_path / "made" / split, asked, config)
        shutil.copytree(records, tmp_path / "rollouts" / split)
    shutil.copytree(reasoner, tmp_path / "reasoner")
    tiny(tmp_path / "backbone", "causal")
    (tmp_path / "figures").mkdir()
    figures = build._classifier(tmp_path, TrainConfig(epochs=0.3))
    (tmp_path / "figures" / "classifier.json").write_text(json.dumps(figures))
    build._finish_dm(tmp_path, 0)
    assert build._head_dm(tmp_path, 0)["boundaries"] > 0
    build._fused_dm(tmp_path, 0)
    assert not (tmp_path / "dm-fused" / "model.safetensors").exists(), "the classifier is that of the other DM"
    parts = {
        "dm": {"text", "behaviour", "fused", "baselines"},
        "dm-head": {"state", "behaviour", "head", "baselines"},
        "dm-fused": {"text", "state", "behaviour", "head", "fused", "baselines"},
    }
    for name, expected in parts.items():
        measured = build._calibrate(tmp_path, name, (0.5,), 0)
        assert set(measured["metrics"]) == expected
        card = DmCard.load(tmp_path / name)
        assert (card.id, card.reasoner_name, card.nudge_cue) == (
            f"drr-reference-{name}",
            "drr-reference",
            build.NUDGE_CUE,
        )
        assert card.kind == load_dm_head(tmp_path / name).kind
        assert card.calibration == measured["calibration"]
        assert read_trained_on(tmp_path / name) == read_trained_on(tmp_path / "dm")
    same = [DmCard.load(tmp_path / name).metrics for name in ("dm", "dm-fused")]
    assert same[0]["text"]["all"]["auroc"] == same[1]["text"]["all"]["auroc"], "measured on the same boundaries"

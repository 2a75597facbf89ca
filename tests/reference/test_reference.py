"""The shipped models are small, loadable, made for each other and as good as their cards say; their recipe works."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from drr import reference
from drr.engine.state_head import StateHead
from drr.errors import InputError
from drr.judge.dm_folder import STATE_HEAD_NAME, DmCard, fingerprint, load_dm_head
from drr.judge.dm_input import DmInput
from drr.judge.head import Kind
from drr.loop.features import FEATURE_NAMES
from drr.loop.steps import StepRule
from drr.reference.build import build
from drr.tasks import Split
from drr.tasks.grading import is_correct
from drr.tasks.reference_suite import reference_questions


def test_the_models_are_small_plain_bf16_folders() -> None:
    size = 0
    for folder in (reference.reasoner_folder(), reference.dm_folder()):
        weights = list(folder.glob("*.safetensors"))
        size += sum(path.stat().st_size for path in weights)
        assert not list(folder.glob("*.bin"))
        with safe_open(weights[0], framework="pt") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
        assert (folder / "README.md").is_file()
    assert size < 20 << 20


@pytest.mark.parametrize("kind", ["text", "head"])
def test_the_dms_were_made_for_this_reasoner(kind: Kind) -> None:
    folder = reference.dm_folder(kind)
    card = DmCard.load(folder)
    card.check(fingerprint(reference.reasoner_folder()), StepRule())
    assert card.kind == load_dm_head(folder).kind == kind
    assert 0 < card.threshold <= 1
    assert card.calibration is not None


def test_the_head_is_small_and_fits_the_reasoner() -> None:
    folder = reference.dm_folder("head")
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 1 << 20
    config = AutoConfig.from_pretrained(reference.reasoner_folder())
    assert StateHead.load(folder / STATE_HEAD_NAME).size == config.hidden_size


def test_the_head_beats_both_of_its_parts() -> None:
    metrics = DmCard.load(reference.dm_folder("head")).metrics
    for where in ("all", "within_question_first"):
        auroc = {part: metrics[part][where]["auroc"] for part in ("state", "behaviour", "head")}
        assert auroc["head"] > max(auroc["state"], auroc["behaviour"])
    assert metrics["head"]["all"]["auroc"] > 0.9


def test_the_fused_dm_beats_both_of_its_parts() -> None:
    metrics = DmCard.load(reference.dm_folder()).metrics
    for where in ("all", "within_question_first"):
        auroc = {part: metrics[part][where]["auroc"] for part in ("text", "behaviour", "fused")}
        assert auroc["fused"] > max(auroc["text"], auroc["behaviour"])
    assert metrics["fused"]["all"]["auroc"] > 0.9
    # A third of these questions are longer than anything that Reasoner or DM were trained on.
    assert metrics["text"]["within_question_first"]["auroc"] > 0.65


def test_the_reasoner_answers_in_transformers() -> None:
    folder = reference.reasoner_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    right = 0
    easy = reference_questions(Split.VALIDATION, 12, tasks=["arithmetic"], levels=["easy"])
    for question in easy:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question.text}], add_generation_prompt=True, tokenize=False
        )
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=400, do_sample=False)
        text = tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        thinking, _, answer = text.partition("</think>")
        assert "\n\n" in thinking
        right += is_correct(answer, question.answer)
    assert right >= 9


def test_the_dm_believes_right_answers_more() -> None:
    folder = reference.dm_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    head = load_dm_head(folder)
    context = DmInput(tokenizer, "Tom has 12 apples. He finds 30 more. How many apples does Tom have now?", 1024)
    context.append("gain: 12+30=42.\n\n")
    ids = context.append("So the answer is 42.\n\n")
    with torch.inference_mode():
        logits = tuple(model(torch.tensor([ids])).logits[0].tolist())
    sure = dict.fromkeys(FEATURE_NAMES, 0.0) | {
        "log_thinking_tokens": math.log1p(22),
        "log_step_tokens": math.log1p(9),
        "log_step_index": math.log1p(2),
        "answer_stated": 1.0,
        "log_answers_stated": math.log1p(1),
    }
    unsure = sure | {
        "attempt_mean_logprob": -0.3,
        "attempt_min_logprob": -2.0,
        "since_answer_mean_logprob": -0.3,
        "since_answer_min_logprob": -2.0,
        "low_logprob_tokens": math.log1p(3),
    }
    believed = head.score(logits, [sure[name] for name in FEATURE_NAMES]).p_now
    doubted = head.score(logits, [unsure[name] for name in FEATURE_NAMES]).p_now
    assert believed > 0.9
    assert doubted < believed - 0.2


def _build(out: Path) -> None:
    command = [sys.executable, "-m", "drr.cli", "reference", "build", "--quick", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize(("quick", "seed", "named"), [(True, 1, "seed"), (False, 0, "quick")])
def test_another_build_in_the_same_folder_is_refused(tmp_path: Path, quick: bool, seed: int, named: str) -> None:
    (tmp_path / "build.json").write_text('{"quick": true, "seed": 0}')
    with pytest.raises(InputError, match=f"field {named}"):
        build(tmp_path, quick=quick, seed=seed)


@pytest.mark.timeout(600)
@pytest.mark.timeout(1200)
def test_the_recipe_runs_from_nothing_and_continues_where_it_stopped(tmp_path: Path) -> None:
    out = tmp_path / "build"
    _build(out)
    figures = json.loads((out / "figures" / "calibration.json").read_text())
    assert set(figures["metrics"]) >= {"text", "baselines"}
    assert DmCard.load(out / "dm").calibration is not None
    DmCard.load(out / "dm").check(fingerprint(out / "reasoner"), StepRule())
    before = fingerprint(out / "reasoner")
    (out / "figures" / "calibration.json").unlink()
    shard = next((out / "rollouts" / "train").glob("*.parquet"))
    written = shard.stat().st_mtime_ns
    _build(out)
    assert fingerprint(out / "reasoner") == before
    assert shard.stat().st_mtime_ns == written
    assert "drr-reference" in (out / "reasoner" / "README.md").read_text()

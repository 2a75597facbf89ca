"""A process reward model in the shape of Qwen2.5-Math-PRM, tiny and random, on the real engine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2Config, Qwen2Model

from drr import reference
from drr.engine.open_prm import start_prm
from drr.errors import InputError
from drr.judge.scorers.process_reward import SEPARATOR
from tests.prm_scores import QUESTION, STEPS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as the published models have them: a Qwen2 body, and a score of two layers with two outcomes."""
    folder = tmp_path_factory.mktemp("prm")
    tokenizer = AutoTokenizer.from_pretrained(reference.reasoner_folder())
    tokenizer.add_special_tokens({"additional_special_tokens": [SEPARATOR]})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        architectures=["Qwen2ForProcessRewardModel"],
    )
    config.save_pretrained(folder)
    body = {f"model.{name}": tensor for name, tensor in Qwen2Model(config).state_dict().items()}
    first, last = torch.nn.Linear(64, 64), torch.nn.Linear(64, 2)
    with torch.no_grad():
        last.weight.mul_(20)
    score = {"score.0": first, "score.2": last}
    head = {f"{name}.{key}": value for name, own in score.items() for key, value in own.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in {**body, **head}.items()}, folder / "model.safetensors")
    return folder


def expected(folder: Path, ids: list[int]) -> list[float]:
    """The step rewards by transformers."""
    weights = load_file(folder / "model.safetensors")
    body = Qwen2Model(Qwen2Config.from_pretrained(folder)).eval()
    body.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
    with torch.inference_mode():
        state = body(torch.tensor([ids])).last_hidden_state[0]
        state = torch.relu(state @ weights["score.0.weight"].T + weights["score.0.bias"])
        logits = state @ weights["score.2.weight"].T + weights["score.2.bias"]
    separator = AutoTokenizer.from_pretrained(folder).get_vocab()[SEPARATOR]
    return [float(own) for own in logits[torch.tensor(ids) == separator].softmax(-1)[:, 1]]


def test_steps_are_scored_as_the_published_models_score_them(model: Path) -> None:
    command = [sys.executable, "-m", "tests.prm_scores", str(model)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    rewards = expected(model, found["ids"])
    assert len(set(rewards)) == len(STEPS)
    assert found["scores"] == pytest.approx([min(rewards[: count + 1]) for count in range(len(STEPS))], abs=1e-4)
    assert found["again"] == found["scores"][-1], "an attempt that outgrew the model keeps its last score"
    assert found["other"] != found["scores"][0]
    text = AutoTokenizer.from_pretrained(model).decode(found["ids"])
    assert QUESTION in text
    assert f"so: 1+2=3.{SEPARATOR}Let me check.{SEPARATOR}So the answer is 3.{SEPARATOR}" in text


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no token <extra_0>"):
        start_prm(str(reference.reasoner_folder()))
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match=r"--prm: .* holds no model"):
        start_prm(str(tmp_path))

"""A process reward model in the shape of Qwen2.5-Math-PRM, tiny and random, on the real engine."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2Config, Qwen2Model

from drr import reference
from drr.errors import InputError
from drr.open_prm import start_prm
from drr.scorers import Boundary
from drr.scorers.process_reward import SEPARATOR, ProcessRewardScorer

from .prm_scores import QUESTION, STEPS


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
    with pytest.raises(InputError, match=r"--prm: .* cannot be loaded"):
        start_prm(str(tmp_path))


class FakeScorer(ProcessRewardScorer):
    """Rewards by the number of steps, the last scored first; reads at most three steps."""

    def __init__(self) -> None:
        self.max_tokens = 3
        self.cancelled = 0

    def render(self, question: str, steps: list[str]) -> list[int]:
        return [len(question)] * len(steps)

    async def rewards(self, ids: list[int]) -> list[float]:
        try:
            await asyncio.sleep(0.05 / len(ids))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [1.0, 0.9, 0.7][: len(ids)]


async def test_boundaries_scored_at_once_keep_the_last_score_that_fitted() -> None:
    session = FakeScorer().session("q")
    found = await asyncio.gather(*(session.score(Boundary(index, "a", None)) for index in range(5)))
    assert [score.p_now for score in found] == [1.0, 0.9, 0.7, 0.7, 0.7]


async def test_an_attempt_that_never_fits_has_no_score_and_a_given_up_one_is_freed() -> None:
    scorer = FakeScorer()
    session = scorer.session("q")
    first = asyncio.ensure_future(session.score(Boundary(0, "a", None)))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert scorer.cancelled == 1
    scorer.max_tokens = 0
    with pytest.raises(ValueError, match="too few for this attempt"):
        await session.score(Boundary(1, "a", None))

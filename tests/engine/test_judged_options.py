"""State heads under the options that an engine can be started with. Each test starts an engine, or several."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.judged_requests import compare, random_head, run
from tests.engine.test_judged_model import CLOSE, MODEL, SIZE, farthest, play_judged, quiet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.usefixtures("quiet")]

__all__ = ["quiet"]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("heads")
    return [random_head(folder / f"head{seed}.safetensors", SIZE, seed) for seed in (0, 1)]


@pytest.fixture
def own_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers in processes of their own, on whatever cores are free."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")


@pytest.mark.parametrize(
    "options",
    [
        {"tensor_parallel_size": 2},
        {"data_parallel_size": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_ways_to_run_in_parallel(options: dict[str, Any], heads: list[Path], own_workers: None) -> None:
    played = run(play_judged(heads, distributed_executor_backend="mp", **options))
    assert farthest(played, heads) < CLOSE


@pytest.mark.parametrize("options", [{"model_impl": "transformers"}, {"logprobs_mode": "raw_logits"}])
def test_other_ways_to_the_same_states(options: dict[str, Any], heads: list[Path]) -> None:
    assert farthest(run(play_judged(heads, **options)), heads) < CLOSE


def test_a_16_bit_engine_says_what_the_heads_make_of_its_own_states(heads: list[Path]) -> None:
    """bfloat16 rounds states differently with every order of summation: only roughly what transformers computes."""
    played = run(play_judged(heads, dtype="bfloat16"))
    assert farthest(played, heads, dtype=torch.bfloat16) < 0.5


def test_random_weights_leave_the_heads_as_they_are(heads: list[Path]) -> None:
    """The Reasoner's are as good as zero: its states are all alike, and the heads say the same everywhere. Heads whose
    weights were noise of vLLM's would say nothing at all."""
    played = run(play_judged(heads, load_format="dummy"))
    assert played.probed is not None
    assert max(map(abs, played.probed)) > 0.1


def quantised(folder: Path) -> Path:
    """The reference Reasoner with 8-bit weights and activations, as the library compressed-tensors writes them."""
    shutil.copytree(MODEL, folder)
    weights = {}
    for name, weight in load_file(MODEL / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            scale = weight.float().abs().amax(dim=1, keepdim=True) / 127
            weights[name] = (weight.float() / scale).round().to(torch.int8)
            weights[f"{name}_scale"] = scale
        else:
            weights[name] = weight
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    bits = {"num_bits": 8, "type": "int", "symmetric": True}
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**bits, "strategy": "channel", "dynamic": False},
                "input_activations": {**bits, "strategy": "token", "dynamic": True},
            }
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_quantised_reasoner_says_nearly_the_same(heads: list[Path], tmp_path: Path) -> None:
    played = run(play_judged(heads, model=quantised(tmp_path / "quantised"), dtype="bfloat16"))
    assert farthest(played, heads) < 3.0


def test_a_thousand_requests_are_answered_as_without_heads(tmp_path: Path) -> None:
    """The reference Reasoner gives its spare ids a little probability, which heads take away: that much, and no more,
    the log-probabilities of other tokens rise and their ranks fall."""
    found = run(compare(MODEL, 1000, 100, SIZE, tmp_path))
    assert found["together"].choices > 1000
    for name in ("together", "one by one"):
        assert not found[name].choices_with_other_tokens, found[name].examples[:3]
        assert not found[name].other_alternatives
        assert found[name].largest_rise_of_a_rank == 0
        assert found[name].largest_fall_of_a_rank <= 3
        assert found[name].largest_difference < 2e-3

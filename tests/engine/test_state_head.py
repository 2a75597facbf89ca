"""State heads on disk: what is saved is loaded, and what is no head is refused in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from drr.engine.state_head import OUTPUTS, StateHead
from drr.errors import InputError

SIZE, HIDDEN = 8, 5
METADATA = {"format": "pt", "outputs": "now,later"}


def head() -> StateHead:
    torch.manual_seed(0)
    made = StateHead(SIZE, HIDDEN)
    for weight in made.parameters():
        nn.init.normal_(weight)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "head.safetensors"
    head().save(path)
    return path


def test_a_head_says_the_same_after_a_round_trip(file: Path) -> None:
    states = torch.randn(3, 7, SIZE)
    loaded = StateHead.load(file)
    assert torch.equal(loaded(states), head()(states))
    assert loaded(states).shape == (3, 7, len(OUTPUTS))
    assert loaded.size == SIZE
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_what_it_says_is_a_norm_a_layer_and_two_logits() -> None:
    made, state = head(), torch.randn(SIZE)
    normed = (state - state.mean()) / (state.var(unbiased=False) + 1e-5).sqrt()
    inner = functional.gelu(made.hidden.weight @ (normed * made.norm.weight + made.norm.bias) + made.hidden.bias)
    torch.testing.assert_close(made(state), made.out.weight @ inner + made.out.bias)


def test_loading_depends_on_nothing_that_vllm_sets(file: Path) -> None:
    states = torch.randn(3, SIZE)
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.bfloat16)
    try:
        loaded = StateHead.load(file)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before), "requests without a seed would be answered differently"
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded(states), head()(states))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_it_computes_in_float32_whatever_the_states_are(dtype: torch.dtype) -> None:
    states = torch.randn(2, SIZE).to(dtype)
    assert head()(states).dtype == torch.float32
    assert torch.equal(head()(states), head()(states.float()))


def test_16_bit_weights_are_saved_as_float32(tmp_path: Path) -> None:
    head().bfloat16().save(tmp_path / "head")
    assert {weight.dtype for weight in load_file(tmp_path / "head").values()} == {torch.float32}


def test_a_head_is_replaced_as_a_whole(file: Path) -> None:
    other = StateHead(SIZE, 3)
    other.save(file)
    assert StateHead.load(file).hidden.out_features == 3
    assert [path.name for path in file.parent.iterdir()] == ["head.safetensors"]


def changed(**tensors: torch.Tensor | None) -> Callable[[Path], None]:
    """The file with other tensors; None takes one away."""

    def change(path: Path) -> None:
        kept = {**load_file(path), **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}
        save_file({name: tensor for name, tensor in kept.items() if tensor is not None}, path, metadata=METADATA)

    return change


def told(metadata: dict[str, str] | None) -> Callable[[Path], None]:
    return lambda path: save_file(load_file(path), path, metadata=metadata)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "cannot be read"),
    "a folder": (into_a_folder, "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "text": (lambda path: path.write_text("{}" * 50), "cannot be read"),
    "cut short": (cut, "cannot be read"),
    "too long": (longer, "cannot be read"),
    "not a head": (told(None), "its outputs are not now, later"),
    "other outputs": (told({"outputs": "now"}), "its outputs are not now, later"),
    "outputs in another order": (told({"outputs": "later,now"}), "its outputs are not now, later"),
    "no hidden layer": (changed(hidden__weight=None), "no state head of this version"),
    "no norm": (changed(norm__weight=None), "no state head of this version"),
    "something more": (changed(more__weight=torch.ones(2)), "no state head of this version"),
    "a flat layer": (changed(hidden__weight=torch.ones(40)), "no state head of this version"),
    "another size": (changed(norm__weight=torch.ones(SIZE + 1)), "no state head of this version"),
    "three outputs": (changed(out__weight=torch.ones(3, HIDDEN)), "no state head of this version"),
    "no states": (changed(hidden__weight=torch.ones(HIDDEN, 0)), "no state head of this version"),
    "no hidden units": (changed(hidden__weight=torch.ones(0, SIZE)), "no state head of this version"),
    "whole numbers": (changed(out__bias=torch.ones(2, dtype=torch.int32)), "no state head of this version"),
    "not a number": (changed(out__bias=torch.tensor([0.0, torch.nan])), "not finite"),
    "infinite": (changed(hidden__bias=torch.full((HIDDEN,), torch.inf)), "not finite"),
    "too large for float32": (changed(norm__bias=torch.full((SIZE,), 1e300, dtype=torch.float64)), "not finite"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_in_one_sentence(damage: str, file: Path) -> None:
    do, reason = DAMAGES[damage]
    do(file)
    with pytest.raises(InputError, match=reason) as refused:
        StateHead.load(file)
    assert refused.value.where == str(file)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300 + len(str(file))


def test_a_head_that_cannot_be_saved_is_no_half_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        head().save(tmp_path / "missing" / "head.safetensors")
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        head().save(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]

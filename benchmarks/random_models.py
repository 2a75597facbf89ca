"""A Reasoner and a DM with random weights, for measuring speed: their output is meaningless, their cost is real.

The Reasoner never closes its thinking and never ends its turn, so every answer has exactly the requested length.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
)

from drr import reference
from drr.engine.devices import on_cpu
from drr.engine.state_head import StateHead
from drr.judge.dm_folder import HEAD_NAME, STATE_HEAD_NAME, DmCard, fingerprint
from drr.judge.head import load_head, save_head

_MARK, _LOUD = 0, 8.0
"""The index of a hidden dimension that has the same value for every token, and that value. The output layer uses it to
make some tokens impossible."""

_CONTEXT = 8192

HEAD_HIDDEN = 512
"""Hidden units of a state head: as many as `drr train` makes at most."""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a model: hidden units, layers, attention heads, key-value heads, feed-forward units."""

    hidden: int
    layers: int
    heads: int
    key_heads: int
    feed_forward: int


@dataclass(frozen=True, slots=True)
class Pair:
    """The sizes of a Reasoner and its DM, and the Reasoner's data type."""

    reasoner: Size
    dm: Size
    dtype: torch.dtype = torch.float32


PAIRS = {
    "small": Pair(Size(640, 12, 10, 2, 1920), Size(192, 4, 6, 1, 576)),
    "7b": Pair(Size(3584, 28, 28, 4, 18944), Size(1280, 32, 20, 4, 3840), torch.bfloat16),
}
"""`small` is for two cores; its DM has a thirtieth of the Reasoner's size, like 0.3-0.5 billion beside 7-14 billion.
`7b` is for a GPU, with 0.6 billion beside 6.5. Both use the vocabulary of the reference models."""


def make_reasoner(folder: Path, size: Size, dtype: torch.dtype = torch.float32) -> int:
    """Save a Reasoner in `folder`; returns its number of parameters."""
    tokenizer = AutoTokenizer.from_pretrained(reference.reasoner_folder())
    torch.manual_seed(0)
    with _made_as(dtype):
        model = Qwen2ForCausalLM(_config(size, tokenizer, tie_word_embeddings=False))
    with torch.no_grad():
        _refuse(model, _unwanted(tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def make_dm(folder: Path, reasoner: Path, step_rule: str, size: Size) -> int:
    """Save a DM for `reasoner` in `folder`; returns its number of parameters. Its head is the reference DM's."""
    tokenizer = AutoTokenizer.from_pretrained(reference.dm_folder())
    torch.manual_seed(1)
    with _made_as(torch.float32):
        model = Qwen2ForSequenceClassification(_config(size, tokenizer, num_labels=2))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / HEAD_NAME).write_bytes((reference.dm_folder() / HEAD_NAME).read_bytes())
    _card("random", reasoner, step_rule, "text").save(folder)
    return int(model.num_parameters())


def make_head(folder: Path, reasoner: Path, step_rule: str, size: Size) -> int:
    """Save a DM of kind head for `reasoner`, whose size this is, in `folder`; returns its number of parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(2)
    state_head = StateHead(size.hidden, HEAD_HIDDEN)
    state_head.save(folder / STATE_HEAD_NAME)
    fusion = load_head(reference.dm_folder() / HEAD_NAME)
    if fusion.kind == "text":  # two logits, as a head has: it costs the same whatever they are called
        fusion = replace(fusion, kind="head")
    save_head(fusion, folder / HEAD_NAME)
    _card("random-head", reasoner, step_rule, "head").save(folder)
    return sum(weight.numel() for weight in state_head.parameters())


def _card(name: str, reasoner: Path, step_rule: str, kind: str) -> DmCard:
    return DmCard(
        id=name,
        reasoner=fingerprint(reasoner),
        reasoner_name=reasoner.name,
        step_rule=step_rule,
        threshold=1.0,
        kind=kind,
        max_tokens=_CONTEXT,
    )


@contextlib.contextmanager
def _made_as(dtype: torch.dtype) -> Iterator[None]:
    """Models made in this context have this data type, and are made on the GPU if there is one, which is faster."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cpu" if on_cpu() else "cuda"):
            yield
    finally:
        torch.set_default_dtype(before)


def _config(size: Size, tokenizer: PreTrainedTokenizerFast, **more: object) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=_vocabulary(tokenizer),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads,
        intermediate_size=size.feed_forward,
        max_position_embeddings=_CONTEXT,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> int:
    """The next multiple of 64, as real models have it: heads are read through ids that no token has."""
    return -(-(len(tokenizer) + 1) // 64) * 64


def _unwanted(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Special tokens and thinking markers, ids that no token has, and tokens that are parts of a character: decoded and
    encoded again, one of these can become three tokens."""
    return [
        *tokenizer.added_tokens_decoder,
        *(token for token in range(len(tokenizer)) if not tokenizer.decode([token]).isascii()),
        *range(len(tokenizer), _vocabulary(tokenizer)),
    ]


def _refuse(model: Qwen2ForCausalLM, never: list[int]) -> None:
    """Make the tokens `never` so unlikely that they are never sampled."""
    model.model.embed_tokens.weight[:, _MARK] = _LOUD
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[_MARK] = 0
        layer.mlp.down_proj.weight[_MARK] = 0
    model.lm_head.weight[:, _MARK] = 0
    model.lm_head.weight[never] = 0
    model.lm_head.weight[never, _MARK] = -_LOUD

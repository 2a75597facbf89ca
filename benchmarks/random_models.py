"""A Reasoner and a DM with random weights, to measure speed with: what they say means nothing, what they cost is real.

The Reasoner never closes its thinking and never ends its turn, so every answer has the length that is asked for.
"""

from dataclasses import dataclass
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
from drr.dm import HEAD_NAME, DmCard, fingerprint

_MARK, _LOUD = 0, 8.0
"""One hidden dimension is the same for every token, so that the output layer can refuse some tokens by it."""

_CONTEXT = 8192


@dataclass(frozen=True, slots=True)
class Size:
    """Of a model: hidden units, layers, heads of 64 or 32 units, units of the feed-forward part."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int


REASONER = Size(hidden=640, layers=12, heads=10, feed_forward=1920)
DM = Size(hidden=192, layers=4, heads=6, feed_forward=576)
"""A thirtieth of the Reasoner: the proportion of 0.3-0.5 billion parameters to 7-14 billion."""


def make_reasoner(folder: Path, size: Size = REASONER) -> int:
    """Save a Reasoner in `folder`; returns its number of parameters."""
    tokenizer = AutoTokenizer.from_pretrained(reference.reasoner_folder())
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(_config(size, tokenizer, tie_word_embeddings=False))
    with torch.no_grad():
        _refuse(model, _unwanted(tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def make_dm(folder: Path, reasoner: Path, step_rule: str, size: Size = DM) -> int:
    """Save a DM for `reasoner` in `folder`; returns its number of parameters. Its head is the reference DM's."""
    tokenizer = AutoTokenizer.from_pretrained(reference.dm_folder())
    torch.manual_seed(1)
    model = Qwen2ForSequenceClassification(_config(size, tokenizer, num_labels=2))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / HEAD_NAME).write_bytes((reference.dm_folder() / HEAD_NAME).read_bytes())
    card = DmCard(
        id="random",
        reasoner=fingerprint(reasoner),
        reasoner_name=reasoner.name,
        step_rule=step_rule,
        threshold=1.0,
        max_tokens=_CONTEXT,
    )
    card.save(folder)
    return int(model.num_parameters())


def _config(size: Size, tokenizer: PreTrainedTokenizerFast, **more: object) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=max(1, size.heads // 5),
        intermediate_size=size.feed_forward,
        max_position_embeddings=_CONTEXT,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def _unwanted(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Special tokens and thinking markers, and parts of characters, which another tokenizer would make three of."""
    return [
        *tokenizer.added_tokens_decoder,
        *(token for token in range(len(tokenizer)) if not tokenizer.decode([token]).isascii()),
    ]


def _refuse(model: Qwen2ForCausalLM, never: list[int]) -> None:
    """Make `never` so unlikely that no sampling draws them."""
    model.model.embed_tokens.weight[:, _MARK] = _LOUD
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[_MARK] = 0
        layer.mlp.down_proj.weight[_MARK] = 0
    model.lm_head.weight[:, _MARK] = 0
    model.lm_head.weight[never] = 0
    model.lm_head.weight[never, _MARK] = -_LOUD

"""Models with random weights, small enough to train in a test."""

from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaModel,
)

from drr import reference


def tiny(folder: Path, kind: str) -> Path:
    """A random backbone with the reference tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(reference.reasoner_folder())
    size = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    if kind == "causal":
        Qwen2ForCausalLM(Qwen2Config(**size, num_key_value_heads=2, intermediate_size=64)).save_pretrained(folder)
    elif kind == "roberta":
        RobertaModel(
            RobertaConfig(**size, intermediate_size=64, max_position_embeddings=256, pad_token_id=1)
        ).save_pretrained(folder)
    else:
        BertModel(BertConfig(**size, intermediate_size=64, max_position_embeddings=256)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

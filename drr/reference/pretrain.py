"""Train the reference Reasoner from nothing on documents written by `traces`.

A Qwen2 model of 3.3M parameters: Muon for the matrices, AdamW for the rest, cosine schedule, bf16 autocast.
Every batch is a function of (seed, step), so a run killed at any moment continues from its last checkpoint.
"""

import math
import os
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from drr.progress import Progress
from drr.reference import tokenizer as vocabulary
from drr.reference.traces import EARLY_MIXTURE, LATE_MIXTURE, Document, Mixture, document
from drr.tasks.arithmetic import make_problem
from drr.tasks.questions import Split

_IGNORE = -100
_SAMPLING_TEMPERATURE = 0.8


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """One pretraining run. Lengths are in tokens; `late_from` is the share of steps after which the mixture turns."""

    hidden: int = 256
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    feed_forward: int = 768
    row_length: int = 768
    rows_per_step: int = 24
    tokens: int = 18_000_000
    late_from: float = 0.4
    matrix_learning_rate: float = 0.02
    other_learning_rate: float = 3e-3
    warmup_steps: int = 20
    seed: int = 0

    @property
    def steps(self) -> int:
        return max(1, self.tokens // (self.row_length * self.rows_per_step))


def mixture_at(progress: float, config: PretrainConfig) -> Mixture:
    """The document mixture at `progress` (0 to 1): mostly first attempts, then a ramp to full traces."""
    ramp = min(1.0, max(0.0, (progress - config.late_from) / 0.15))
    early, late = asdict(EARLY_MIXTURE), asdict(LATE_MIXTURE)
    return Mixture(**{kind: early[kind] + ramp * (late[kind] - early[kind]) for kind in early})


def training_documents(rng: random.Random, mixture: Mixture) -> Iterator[Document]:
    """Documents about questions of the training split, without end."""
    while True:
        problem = make_problem(rng)
        if problem.question.split is Split.TRAIN:
            yield document(rng, problem, mixture)


def encode(item: Document, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Token ids and labels (next-token targets aligned with the ids; -100 where no loss is wanted).

    Pieces are tokenised as one text, because a boundary between pieces is no boundary between tokens.
    """
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": item.question}], add_generation_prompt=True, tokenize=False
    )
    text, learned_until = str(prompt), []
    learned_until.append((len(text), False))
    for piece in item.pieces:
        text += piece.text
        learned_until.append((len(text), piece.learn))
    text += vocabulary.END
    learned_until.append((len(text), item.pieces[-1].learn))
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    labels, at = [], 0
    for token, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        while end > learned_until[at][0]:
            at += 1
        labels.append(token if learned_until[at][1] else _IGNORE)
    return encoded["input_ids"], labels


def packed_batch(
    documents: Iterator[Document], tokenizer: PreTrainedTokenizerFast, config: PretrainConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, labels), both int64 [rows_per_step, row_length]; whole documents only, padded at the end of a row."""
    pad = tokenizer.pad_token_id
    ids = torch.full((config.rows_per_step, config.row_length), pad, dtype=torch.long)
    labels = torch.full_like(ids, _IGNORE)
    filled = [0] * config.rows_per_step
    misses = 0
    while misses < 8:  # a row is full enough once several documents in a row fit nowhere
        tokens, targets = encode(next(documents), tokenizer)
        row = next((r for r in range(config.rows_per_step) if filled[r] + len(tokens) <= config.row_length), None)
        if row is None:
            misses += 1
            continue
        span = slice(filled[row], filled[row] + len(tokens))
        ids[row, span] = torch.tensor(tokens)
        labels[row, span] = torch.tensor(targets)
        filled[row] += len(tokens)
    return ids, labels


def new_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A randomly initialised Reasoner."""
    torch.manual_seed(config.seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary.VOCABULARY_SIZE,
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads,
            intermediate_size=config.feed_forward,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _optimizers(model: torch.nn.Module, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=config.matrix_learning_rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=config.other_learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _learning_rate_factor(step: int, config: PretrainConfig) -> float:
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def pretrain(out: Path, config: PretrainConfig, *, checkpoint_every: int = 50) -> dict[str, Any]:
    """Train and save the Reasoner as a plain Hugging Face folder `out`; returns the figures of the run.

    Continues from `out`/checkpoint.pt when one of the same configuration is there.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = _reference_tokenizer(config.seed)
    model = new_model(config, tokenizer).to(device)
    optimizers = _optimizers(model, config)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    first_step, loss_value = 0, float("nan")
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state["config"] == asdict(config):
            model.load_state_dict(state["model"])
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            first_step = state["step"]
    compiled = torch.compile(model) if config.steps > 200 else model
    seen = 0
    with Progress("Reasoner", config.steps, first_step) as progress:
        for step in range(first_step, config.steps):
            rng = random.Random(f"pretrain-{config.seed}-{step}")
            mixture = mixture_at(step / config.steps, config)
            ids, labels = packed_batch(training_documents(rng, mixture), tokenizer, config)
            factor = _learning_rate_factor(step, config)
            for optimizer, rate in zip(
                optimizers, (config.matrix_learning_rate, config.other_learning_rate), strict=True
            ):
                for group in optimizer.param_groups:
                    group["lr"] = rate * factor
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = compiled(input_ids=ids.to(device), labels=labels.to(device)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            seen += ids.numel()
            loss_value = float(loss.detach())
            progress.advance(f"loss {loss_value:.3f}")
            if (step + 1) % checkpoint_every == 0 and step + 1 < config.steps:
                state = {
                    "config": asdict(config),
                    "step": step + 1,
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                }
                torch.save(state, checkpoint.with_suffix(".partial"))
                os.replace(checkpoint.with_suffix(".partial"), checkpoint)
        seconds = progress.seconds
    export(model, tokenizer, out)
    checkpoint.unlink(missing_ok=True)
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "tokens": seen, "seconds": round(seconds), "final_loss": round(loss_value, 4)}


def export(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Save as bf16 safetensors with tokenizer, chat template and sampling defaults."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=_SAMPLING_TEMPERATURE,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _reference_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    rng = random.Random(f"tokenizer-{seed}")
    documents = training_documents(rng, LATE_MIXTURE)
    sample = (next(documents) for _ in range(6000))
    return vocabulary.train_tokenizer(
        "user\nassistant\n" + item.question + "\n" + "".join(piece.text for piece in item.pieces) for item in sample
    )

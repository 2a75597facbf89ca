"""Train the reference language models on generated documents: the Reasoner, and the backbone of its DM.

The Reasoner is a Qwen2 model of 3.3M parameters, trained from nothing: Muon for the matrices, AdamW for the rest,
cosine schedule, bf16 autocast. The backbone starts from the Reasoner with some layers added, and is trained on first
attempts without mistakes: a judge must calculate better than the model that it judges, as a user's pretrained backbone
would. Every batch depends on (seed, step) only, so a run killed at any moment continues from its last checkpoint.
"""

import math
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from drr.learn.train import grow
from drr.progress import Progress
from drr.reference import tokenizer as vocabulary
from drr.reference.critique_traces import critique_document, proposed_result
from drr.reference.logic_traces import logic_document, lookup_document, proposed_letter
from drr.reference.search_traces import proposed_line, search_document
from drr.reference.traces import EARLY_MIXTURE, LATE_MIXTURE, Document, Mixture, document
from drr.tasks import countdown, logic
from drr.tasks.arithmetic import make_problem
from drr.tasks.questions import Split

_IGNORE = -100
_SAMPLING_TEMPERATURE = 0.8


@dataclass(frozen=True, slots=True)
class TaskShares:
    """Shares of the tasks among the documents; the three sum to one."""

    arithmetic: float = 0.35
    countdown: float = 0.45
    logic: float = 0.2
    critique: float = 0.08
    """Share of every task's documents in which a proposed answer is judged."""
    lookup: float = 0.0
    """Share of the logic documents that only find letters."""


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """One pretraining run. Lengths are in tokens. `late_from` is the share of steps after which the mixture changes
    from `early` to `late`. `extra_layers` are added if the run starts from another model.

    `surprise` is the weight of a second loss: predicting, from the state at a token, how unlikely the model itself
    found that token. If nearly every token is right, that loss has little to learn from. So a share `noise` of the
    documents gets wrong digits, and these documents are used for the second loss only.
    """

    hidden: int = 256
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    feed_forward: int = 768
    row_length: int = 1024
    rows_per_step: int = 18
    tokens: int = 48_000_000
    tasks: TaskShares = TaskShares()
    early: Mixture = EARLY_MIXTURE
    late: Mixture = LATE_MIXTURE
    late_from: float = 0.4
    extra_layers: int = 0
    surprise: float = 0.0
    noise: float = 0.0
    matrix_learning_rate: float = 0.02
    other_learning_rate: float = 3e-3
    warmup_steps: int = 20
    seed: int = 0

    @property
    def steps(self) -> int:
        return max(1, self.tokens // (self.row_length * self.rows_per_step))


_DM_MIXTURE = Mixture(full=0.15, first=0.85, cut=0.0)

_LATER_RUN = PretrainConfig(
    tokens=16_000_000,
    tasks=TaskShares(arithmetic=0.2, countdown=0.25, logic=0.55),
    early=LATE_MIXTURE,
    late=LATE_MIXTURE,
    matrix_learning_rate=0.012,
    other_learning_rate=1.5e-3,
)

REASONER_RUNS = (
    PretrainConfig(),
    _LATER_RUN,
    replace(_LATER_RUN, tokens=22_000_000, tasks=TaskShares(arithmetic=0.3, countdown=0.3, logic=0.4), seed=1),
    replace(_LATER_RUN, tokens=12_000_000, tasks=TaskShares(arithmetic=0.3, countdown=0.3, logic=0.4), seed=2),
    replace(_LATER_RUN, tokens=2_500_000, tasks=TaskShares(0.05, 0.05, 0.9, critique=0.0, lookup=0.95), seed=3),
    replace(_LATER_RUN, tokens=5_000_000, tasks=TaskShares(0.25, 0.25, 0.5, lookup=0.5), seed=4),
)
"""The reference Reasoner's training: each run starts from the model of the one before. The ability to look facts up,
which the logic world requires, appears late and suddenly, and needs many logic documents. Finding the letter of an
option needs a run with almost nothing else. The shipped weights saw other wordings of the logic world in their first
four runs."""

_DM_RUN = PretrainConfig(
    tokens=8_000_000,
    early=_DM_MIXTURE,
    late=_DM_MIXTURE,
    extra_layers=3,
    surprise=0.3,
    noise=0.35,
    matrix_learning_rate=0.01,
    other_learning_rate=1e-3,
)

DM_BACKBONE_RUNS = (
    _DM_RUN,
    replace(
        _DM_RUN,
        tokens=12_000_000,
        tasks=TaskShares(arithmetic=0.55, countdown=0.3, logic=0.15, critique=0.0, lookup=0.1),
        extra_layers=0,
        seed=1,
    ),
)
"""The training of the reference DM's backbone, which starts from the Reasoner. The ability to notice unlikely results
of calculations also appears suddenly, after some four million tokens of them."""

_WRONG_DIGITS = 0.12
"""Share of the digits replaced in a noisy document."""

_OWN_TOKEN = 0.3
"""Weight, within the second loss, of predicting from a state which token it belongs to. A narrow model's last state
keeps the prediction of the next token and loses its own token, which then cannot be compared with the expectation."""


@dataclass(frozen=True, slots=True)
class Batch:
    """`ids` int64 [rows, length], padded at the end of each row; `labels` of the same shape, -100 where there is no
    loss; `assistant` bool [rows, length], whether a token belongs to the assistant's turn."""

    ids: torch.Tensor
    labels: torch.Tensor
    assistant: torch.Tensor


def mixture_at(progress: float, config: PretrainConfig) -> Mixture:
    """The document mixture at `progress` (0 to 1): `config.early` at first, then a linear change to `config.late`."""
    ramp = min(1.0, max(0.0, (progress - config.late_from) / 0.15))
    early, late = asdict(config.early), asdict(config.late)
    return Mixture(**{kind: early[kind] + ramp * (late[kind] - early[kind]) for kind in early})


def training_documents(rng: random.Random, mixture: Mixture, tasks: TaskShares | None = None) -> Iterator[Document]:
    """An endless stream of documents about questions of the training split."""
    shares = tasks or TaskShares()
    kinds = ("arithmetic", "countdown", "logic")
    weights = [getattr(shares, kind) for kind in kinds]
    while True:
        kind, judged = rng.choices(kinds, weights=weights)[0], rng.random() < shares.critique
        if kind == "arithmetic":
            problem = make_problem(rng)
            question, item = problem.question, document(rng, problem, mixture)
            proposal = proposed_result(rng, problem)
        elif kind == "countdown":
            search = countdown.make_puzzle(rng)
            question, item = search.question, search_document(rng, search, mixture)
            proposal = proposed_line(rng, search)
        else:
            puzzle = logic.make_puzzle(rng)
            finds = rng.random() < shares.lookup
            question = puzzle.question
            item = lookup_document(rng, puzzle) if finds else logic_document(rng, puzzle, mixture)
            proposal = proposed_letter(rng, puzzle)
        if question.split is Split.TRAIN:
            yield critique_document(rng, proposal) if judged else item


def encode(item: Document, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Token ids and labels (aligned with the ids; -100 where there is no loss).

    The pieces are tokenised as one text, because the end of a piece need not be the end of a token.
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
    rng: random.Random, documents: Iterator[Document], tokenizer: PreTrainedTokenizerFast, config: PretrainConfig
) -> Batch:
    """A batch of `rows_per_step` rows of `row_length` tokens, filled with whole documents."""
    shape = (config.rows_per_step, config.row_length)
    ids = torch.full(shape, int(tokenizer.pad_token_id))
    batch = Batch(ids, torch.full_like(ids, _IGNORE), torch.zeros(shape, dtype=torch.bool))
    digits = tokenizer.convert_tokens_to_ids(list("0123456789"))
    filled = [0] * config.rows_per_step
    misses = 0
    while misses < 8:  # the batch is full enough once 8 documents fit in no row
        tokens, targets = encode(next(documents), tokenizer)
        row = next((r for r in range(config.rows_per_step) if filled[r] + len(tokens) <= config.row_length), None)
        if row is None:
            misses += 1
            continue
        start = next(place for place, target in enumerate(targets) if target != _IGNORE)
        assistant = [place >= start for place in range(len(tokens))]
        if rng.random() < config.noise:
            tokens, targets = with_wrong_digits(rng, tokens, assistant, digits), [_IGNORE] * len(tokens)
        span = slice(filled[row], filled[row] + len(tokens))
        batch.ids[row, span] = torch.tensor(tokens)
        batch.labels[row, span] = torch.tensor(targets)
        batch.assistant[row, span] = torch.tensor(assistant)
        filled[row] += len(tokens)
    return batch


def with_wrong_digits(
    rng: random.Random, tokens: Sequence[int], where: Sequence[bool], digits: Sequence[int]
) -> list[int]:
    """The tokens, with some of the `digits` at the places in `where` replaced by other digits."""
    digit_ids = set(digits)
    return [
        rng.choice([digit for digit in digits if digit != token])
        if inside and token in digit_ids and rng.random() < _WRONG_DIGITS
        else token
        for token, inside in zip(tokens, where, strict=True)
    ]


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


class _ModelWithLosses(torch.nn.Module):
    """The model with its losses."""

    def __init__(self, model: Qwen2ForCausalLM, surprise: float) -> None:
        super().__init__()
        self.model, self._surprise = model, surprise
        size = model.config.hidden_size
        self.probes = torch.nn.ModuleDict(
            {"own": torch.nn.Linear(size, model.config.vocab_size), "surprise": torch.nn.Linear(size, 1)}
            if surprise
            else {}
        )

    def forward(self, ids: torch.Tensor, labels: torch.Tensor, assistant: torch.Tensor) -> torch.Tensor:
        """The loss: a scalar."""
        out = self.model(input_ids=ids, labels=labels, output_hidden_states=bool(self.probes))
        loss: torch.Tensor = out.loss
        return loss + self._surprise * self._surprise_loss(out, ids, assistant) if self.probes else loss

    def _surprise_loss(self, out: Any, ids: torch.Tensor, assistant: torch.Tensor) -> torch.Tensor:
        states, counted = out.hidden_states[-1][:, 1:], assistant[:, 1:].float()
        expected = out.logits[:, :-1].detach().float().log_softmax(-1)
        unlikely = 1 - expected.gather(2, ids[:, 1:, None])[..., 0].exp()
        predicted = self.probes["surprise"](states).float()[..., 0]
        surprise = functional.binary_cross_entropy_with_logits(predicted, unlikely, reduction="none")
        own_token_logits = self.probes["own"](states).float().transpose(1, 2)
        own_token = functional.cross_entropy(own_token_logits, ids[:, 1:], reduction="none")
        loss: torch.Tensor = ((surprise + _OWN_TOKEN * own_token) * counted).sum() / counted.sum()
        return loss


def _optimizers(model: torch.nn.Module, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "probes" not in n]
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


def pretrain(
    out: Path, config: PretrainConfig, *, start: Path | None = None, name: str = "Reasoner", checkpoint_every: int = 50
) -> dict[str, Any]:
    """Train a language model and save it as a plain Hugging Face folder `out`; returns the figures of the run.

    Starts from the model in `start` with `config.extra_layers` layers added, or from nothing if `start` is None.
    Continues from `out`/checkpoint.pt if that is of the same configuration.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer, model = _tokenizer_and_model(config, start)
    trained = _ModelWithLosses(model, config.surprise).to(device)
    optimizers = _optimizers(trained, config)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    first_step, loss_value, seen, spent = 0, float("nan"), 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state["config"] == asdict(config):
            trained.load_state_dict(state["model"])
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            first_step, seen, spent = state["step"], state["seen"], state["seconds"]
    compiled = torch.compile(trained) if config.steps > 200 else trained
    with Progress(name, config.steps, first_step) as progress:
        for step in range(first_step, config.steps):
            rng = random.Random(f"pretrain-{config.seed}-{step}")
            mixture = mixture_at(step / config.steps, config)
            batch = packed_batch(rng, training_documents(rng, mixture, config.tasks), tokenizer, config)
            factor = _learning_rate_factor(step, config)
            for optimizer, rate in zip(
                optimizers, (config.matrix_learning_rate, config.other_learning_rate), strict=True
            ):
                for group in optimizer.param_groups:
                    group["lr"] = rate * factor
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = compiled(batch.ids.to(device), batch.labels.to(device), batch.assistant.to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            seen += batch.ids.numel()
            loss_value = float(loss.detach())
            progress.advance(f"loss {loss_value:.3f}")
            if (step + 1) % checkpoint_every == 0 and step + 1 < config.steps:
                state = {
                    "config": asdict(config),
                    "step": step + 1,
                    "seen": seen,
                    "seconds": spent + progress.seconds,
                    "model": trained.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                }
                torch.save(state, checkpoint.with_suffix(".partial"))
                os.replace(checkpoint.with_suffix(".partial"), checkpoint)
        seconds = spent + progress.seconds
    export(model, tokenizer, out)
    checkpoint.unlink(missing_ok=True)
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "tokens": seen, "seconds": round(seconds), "final_loss": round(loss_value, 4)}


def _tokenizer_and_model(
    config: PretrainConfig, start: Path | None
) -> tuple[PreTrainedTokenizerFast, Qwen2ForCausalLM]:
    if start is None:
        tokenizer = _reference_tokenizer(config.seed)
        return tokenizer, new_model(config, tokenizer)
    model = Qwen2ForCausalLM.from_pretrained(start, dtype=torch.float32)
    if config.extra_layers:
        grow(model, config.extra_layers)
    return PreTrainedTokenizerFast.from_pretrained(start), model


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

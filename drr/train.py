"""Reinforcement: fit the DM to graded behaviour, in two parts.

First a text classifier over question and steps. It is causal, so one pass over a rollout scores every boundary at
once, at exactly the tokens that serving will pool. Then, on questions the classifier never saw, a small head that
reads its logits together with the Reasoner's behaviour features; and on yet other questions the temperatures that
make the probabilities honest.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from drr.distill import Rollout
from drr.dm import HEAD_NAME
from drr.dm_input import DmInput
from drr.features import FEATURE_NAMES
from drr.head import INPUT_NAMES, FusionHead
from drr.progress import Progress

# What loading and saving print is about files; the progress shown here is about the training.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

_NO_LABEL = -1.0


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training of the text classifier. `merge` is the share of step pairs merged into one as augmentation."""

    epochs: float = 3.0
    rollouts_per_batch: int = 32
    learning_rate: float = 4e-4
    warmup: float = 0.05
    merge: float = 0.15
    max_tokens: int = 1024
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Every boundary of some rollouts, flattened. Shapes: text_logits [N, 2], features [N, F], now, later [N]."""

    text_logits: NDArray[np.float64]
    features: NDArray[np.float64]
    now: NDArray[np.bool_]
    later: NDArray[np.bool_]
    rollout: NDArray[np.int64]
    index: NDArray[np.int64]

    @property
    def inputs(self) -> NDArray[np.float64]:
        """[N, I] in the order of INPUT_NAMES."""
        return np.concatenate([self.text_logits, self.features], axis=1)


def boundary_ids(
    tokenizer: Any, rollout: Rollout, max_tokens: int, merged: Sequence[bool]
) -> tuple[list[int], list[int], list[int]]:
    """(ids, positions, steps): the DM's input for a rollout, where each boundary's last token is, and which steps
    the boundaries close. `merged[i]` joins step i to the next one. Boundaries beyond `max_tokens` are left out."""
    context = DmInput(tokenizer, rollout.question, max_tokens)
    ids, positions, closed = context.ids, [], []
    text = ""
    for index, step in enumerate(rollout.steps):
        text += step
        if index < len(rollout.steps) - 1 and merged[index]:
            continue
        longer = context.append(text)
        text = ""
        if longer[: len(ids)] != ids:
            break  # old steps were dropped: no longer one growing sequence
        ids = longer
        positions.append(len(ids) - 1)
        closed.append(index)
    return ids, positions, closed


class _RolloutDataset(Dataset[dict[str, Any]]):
    def __init__(self, rollouts: Sequence[Rollout], tokenizer: Any, config: TrainConfig) -> None:
        self._rollouts, self._tokenizer, self._config = rollouts, tokenizer, config
        self._random = random.Random(config.seed)

    def __len__(self) -> int:
        return len(self._rollouts)

    def __getitem__(self, item: int) -> dict[str, Any]:
        rollout = self._rollouts[item]
        merged = [self._random.random() < self._config.merge for _ in rollout.steps]
        ids, positions, closed = boundary_ids(self._tokenizer, rollout, self._config.max_tokens, merged)
        labels = [[float(rollout.now[index]), float(rollout.later)] for index in closed]
        return {"input_ids": ids, "positions": positions, "labels": labels}


def _collate(items: list[dict[str, Any]], pad: int) -> dict[str, torch.Tensor]:
    """Pad to [B, T] ids and mask, [B, S] positions and [B, S, 2] labels (-1 where there is no boundary)."""
    length = max(len(item["input_ids"]) for item in items)
    steps = max(len(item["positions"]) for item in items)
    ids = torch.full((len(items), length), pad)
    mask = torch.zeros((len(items), length), dtype=torch.long)
    positions = torch.zeros((len(items), steps), dtype=torch.long)
    labels = torch.full((len(items), steps, 2), _NO_LABEL)
    for row, item in enumerate(items):
        ids[row, : len(item["input_ids"])] = torch.tensor(item["input_ids"])
        mask[row, : len(item["input_ids"])] = 1
        if item["positions"]:
            positions[row, : len(item["positions"])] = torch.tensor(item["positions"])
            labels[row, : len(item["positions"])] = torch.tensor(item["labels"])
    return {"input_ids": ids, "attention_mask": mask, "positions": positions, "labels": labels}


def boundary_logits(model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """[B, S, 2] logits at `positions` [B, S]: what pooling the last token of each prefix would give."""
    hidden = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    picked = torch.gather(hidden, 1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
    logits: torch.Tensor = model.score(picked)
    return logits


class _BoundaryTrainer(Trainer):
    def compute_loss(
        self, model: Any, inputs: Mapping[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        logits = boundary_logits(model, inputs["input_ids"], inputs["attention_mask"], inputs["positions"]).float()
        labels = inputs["labels"]
        known = labels != _NO_LABEL
        loss = functional.binary_cross_entropy_with_logits(logits[known], labels[known])
        return (loss, {"logits": logits}) if return_outputs else loss


class _ProgressCallback(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self._progress, self._loss = progress, ""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self._loss = f"loss {float(logs['loss']):.4f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress.advance(self._loss)


def train_text_classifier(rollouts: Sequence[Rollout], backbone: Path, out: Path, config: TrainConfig) -> None:
    """Fine-tune `backbone` (a causal Hugging Face model) on the rollouts' boundaries; saves a plain folder `out`.

    Two labels, each with its own sigmoid: `now` and `later`.
    """
    torch.manual_seed(config.seed)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model = AutoModelForSequenceClassification.from_pretrained(
        backbone,
        num_labels=2,
        id2label={0: "now", 1: "later"},
        label2id={"now": 0, "later": 1},
        problem_type="multi_label_classification",
        dtype=torch.float32,
    )
    batches = -(-len(rollouts) // config.rollouts_per_batch)
    steps = max(1, int(batches * config.epochs))
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=config.rollouts_per_batch,
        learning_rate=config.learning_rate,
        warmup_steps=int(config.warmup * steps),
        lr_scheduler_type="cosine",
        weight_decay=0.01,
        use_cpu=not torch.cuda.is_available(),
        bf16=True,
        train_sampling_strategy="group_by_length",
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=config.seed,
        log_level="error",
    )
    with Progress("DM text classifier", steps) as progress:
        trainer = _BoundaryTrainer(
            model=model,
            args=arguments,
            train_dataset=_RolloutDataset(rollouts, tokenizer, config),
            data_collator=lambda items: _collate(items, tokenizer.pad_token_id),
            callbacks=[_ProgressCallback(progress)],
        )
        trainer.pop_callback(_printer())
        trainer.train()
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


def score_boundaries(rollouts: Sequence[Rollout], folder: Path, max_tokens: int, batch: int = 64) -> Boundaries:
    """The text classifier's logits at every boundary of `rollouts`, in float32 as served."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    logits: dict[int, NDArray[np.float64]] = {}
    closed: dict[int, list[int]] = {}
    by_length = sorted(range(len(rollouts)), key=lambda i: sum(rollouts[i].step_tokens))  # little padding per batch
    with Progress("Scoring", len(rollouts)) as progress, torch.inference_mode():
        for start in range(0, len(rollouts), batch):
            group = by_length[start : start + batch]
            items = []
            for number in group:
                steps = rollouts[number].steps
                ids, positions, closed[number] = boundary_ids(
                    tokenizer, rollouts[number], max_tokens, [False] * len(steps)
                )
                items.append({"input_ids": ids, "positions": positions, "labels": [[0.0, 0.0]] * len(positions)})
            padded = _collate(items, tokenizer.pad_token_id)
            out = boundary_logits(model, padded["input_ids"], padded["attention_mask"], padded["positions"])
            for row, number in enumerate(group):
                logits[number] = out[row, : len(closed[number])].numpy().astype(np.float64)
            progress.advance(units=len(group))
    indices = [(number, index) for number in range(len(rollouts)) for index in closed[number]]
    features = [rollouts[number].features[index] for number, index in indices]
    return Boundaries(
        np.concatenate([logits[number] for number in range(len(rollouts))]),
        np.asarray(features, dtype=np.float64).reshape(-1, len(FEATURE_NAMES)),
        np.asarray([rollouts[number].now[index] for number, index in indices]),
        np.asarray([rollouts[number].later for number, _ in indices]),
        np.asarray([number for number, _ in indices]),
        np.asarray([index for _, index in indices]),
    )


def fit_head(
    data: Boundaries,
    questions: Sequence[str],
    *,
    use: Sequence[str] = INPUT_NAMES,
    members: int = 6,
    hidden: int = 16,
    steps: int = 700,
    seed: int = 0,
) -> FusionHead:
    """Fit the fusion head on `data`; inputs not named in `use` are held at their mean. Temperatures are left at 1.

    The head is an average of `members` small networks, each fitted on a bootstrap sample of the questions
    (`questions[i]` is rollout i's): the questions are few, and a single network learns them by heart. An average of
    networks of one hidden layer is a network of one hidden layer.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    inputs = data.inputs
    mean, scale = inputs.mean(0), inputs.std(0) + 1e-6
    scale[[name not in use for name in INPUT_NAMES]] = 1e12  # standardised away
    standard = torch.tensor(np.clip((inputs - mean) / scale, -8, 8), dtype=torch.float32)
    labels = torch.tensor(np.stack([data.now, data.later], axis=1), dtype=torch.float32)
    names, question_of = np.unique(np.asarray(questions)[data.rollout], return_inverse=True)
    fitted = []
    for _ in range(members):
        drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        weights = torch.tensor(_rollout_weights(data) * drawn[question_of], dtype=torch.float32)[:, None]
        fitted.append(_fit_network(standard, labels, weights, hidden, steps))
    ones = np.ones(2)
    return FusionHead(
        mean,
        scale,
        np.concatenate([_array(first.weight) for first, _ in fitted]),
        np.concatenate([_array(first.bias) for first, _ in fitted]),
        np.concatenate([_array(last.weight) for _, last in fitted], axis=1) / members,
        np.mean([_array(last.bias) for _, last in fitted], axis=0),
        ones,
        ones,
    )


def _rollout_weights(data: Boundaries) -> NDArray[np.float64]:
    """[N] weights: a rollout counts once before it states an answer, once where it first does, and once after."""
    stated = np.rint(np.expm1(data.features[:, FEATURE_NAMES.index("log_answers_stated")])).astype(int)
    fresh = data.features[:, FEATURE_NAMES.index("log_steps_since_answer")] == 0
    phase = np.where(stated == 0, 0, np.where((stated == 1) & fresh, 1, 2))
    group = data.rollout * 3 + phase
    return np.asarray(1.0 / np.bincount(group)[group])


def _fit_network(
    inputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, hidden: int, steps: int
) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    first, last = torch.nn.Linear(inputs.shape[1], hidden), torch.nn.Linear(hidden, 2)
    model = torch.nn.Sequential(first, torch.nn.Tanh(), last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        losses = functional.binary_cross_entropy_with_logits(model(inputs), labels, reduction="none")
        torch.autograd.backward((losses * weights).sum() / weights.sum())
        optimizer.step()
        schedule.step()
    return first, last


def _array(parameter: torch.Tensor) -> NDArray[np.float64]:
    return parameter.detach().numpy().astype(np.float64)


def with_temperatures(head: FusionHead, data: Boundaries) -> FusionHead:
    """The head with the temperatures that minimise the log loss on `data` (questions it was not fitted on)."""
    fused = head.logits(data.inputs)
    labels = np.stack([data.now, data.later], axis=1)
    fields = {name: getattr(head, name) for name in head.__slots__}
    fields["temperature"] = np.asarray([_temperature(fused[:, i], labels[:, i]) for i in range(2)])
    fields["text_temperature"] = np.asarray([_temperature(data.text_logits[:, i], labels[:, i]) for i in range(2)])
    return FusionHead(**fields)


def _temperature(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    candidates = np.exp(np.linspace(np.log(0.25), np.log(8.0), 141))
    signs = np.where(labels, -1.0, 1.0)
    losses = [np.logaddexp(0.0, signs * logits / candidate).mean() for candidate in candidates]
    return float(candidates[int(np.argmin(losses))])


def save_head(head: FusionHead, folder: Path) -> None:
    """Write the head beside the classifier."""
    (folder / HEAD_NAME).write_text(json.dumps(head.to_json()) + "\n")

"""Reinforcement, first part: fit the text classifier to graded behaviour.

Any Hugging Face backbone that has a sequence-classification form. Two labels, each with its own sigmoid: `now` and
`later`. The second part, the head that reads the classifier's logits beside the Reasoner's behaviour, is fitted on
questions that the classifier never saw (`drr.fusion`).
"""

import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, Sampler
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from drr.boundaries import BoundaryModel, Stretch, answers_stated, one_by_one, pad_rows, stretches
from drr.errors import InputError
from drr.progress import Progress
from drr.records import Rollout, read_json_object, write_whole

# What loading and saving print is about files; the progress shown here is about the training.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

_NO_LABEL = -1.0
_PLAIN, _FIRST, _LAST = 0, 1, 2
_LEAST_WEIGHT, _MOST_WEIGHT = 0.2, 5.0
_SETTINGS_NAME = "training.json"
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training of the text classifier.

    `merge` is the share of step pairs merged into one as augmentation. `ranking` weighs the loss that ranks right
    attempts above wrong ones of the same question. `surprise` weighs an auxiliary loss: to tell from the text alone
    which tokens the Reasoner itself found unlikely; it is read before the last layer, which can then gather it.
    `fresh_rate` multiplies the learning rate of what has no pretraining (heads, added layers). `balance` weighs labels
    so that right and wrong count alike.
    `boundaries_per_rollout` bounds what an encoder, which reads every boundary by itself, is shown of a rollout.
    `extra_layers` grows a causal backbone by layers that at first pass everything on unchanged.
    """

    epochs: float = 3.0
    rollouts_per_batch: int = 32
    learning_rate: float = 2e-4
    fresh_rate: float = 10.0
    warmup: float = 0.05
    weight_decay: float = 0.01
    merge: float = 0.15
    ranking: float = 0.5
    surprise: float = 0.0
    balance: bool = True
    max_tokens: int = 1024
    boundaries_per_rollout: int = 4
    lora_rank: int = 0
    extra_layers: int = 0
    evaluations_per_epoch: int = 2
    patience: int = 4
    seed: int = 0


class _RolloutDataset(Dataset[list[dict[str, Any]]]):
    """One item per rollout: its inputs with labels, as many rows as the classifier needs for it."""

    def __init__(
        self, rollouts: Sequence[Rollout], tokenizer: Any, config: TrainConfig, causal: bool, *, augment: bool
    ) -> None:
        self.rollouts, self._tokenizer, self._config = rollouts, tokenizer, config
        self._causal, self._merge = causal, config.merge if augment else 0.0
        self._random = random.Random(config.seed)
        numbers = {question: number for number, question in enumerate(dict.fromkeys(r.question for r in rollouts))}
        self.groups = [numbers[rollout.question] for rollout in rollouts]

    def __len__(self) -> int:
        return len(self.rollouts)

    def __getitem__(self, item: int) -> list[dict[str, Any]]:
        rollout = self.rollouts[item]
        merged = [self._random.random() < self._merge for _ in rollout.steps]
        rows = list(stretches(self._tokenizer, rollout, self._config.max_tokens, merged))
        if not self._causal:
            rows = self._chosen([row for stretch in rows for row in one_by_one(stretch)])
        kinds = _kinds(rollout)
        return [
            {
                "stretch": row,
                "labels": [_labels(rollout, step) for step in row.steps],
                "kinds": [kinds[step] for step in row.steps],
                "group": self.groups[item],
            }
            for row in rows
        ]

    def _chosen(self, rows: list[Stretch]) -> list[Stretch]:
        """The last boundary always, and some of the others."""
        some = self._random.sample(rows[:-1], min(len(rows) - 1, self._config.boundaries_per_rollout - 1))
        return [*some, rows[-1]]


def _labels(rollout: Rollout, step: int) -> list[float]:
    now = rollout.now[step]
    return [_NO_LABEL if now is None else float(now), float(rollout.later)]


def _kinds(rollout: Rollout) -> list[int]:
    """Which boundaries the ranking loss compares: those that first state an answer, and the last ones."""
    counts = answers_stated(rollout)
    kinds = [_PLAIN] * len(counts)
    kinds[-1] = _LAST
    if 1 in counts:
        kinds[counts.index(1)] = _FIRST
    return kinds


def collate(items: Sequence[Sequence[Mapping[str, Any]]], pad: int) -> dict[str, torch.Tensor]:
    """A batch: ids, mask [B, T]; positions, kinds [B, S]; labels [B, S, 2] (-1 where unknown); group [B]."""
    rows = [row for item in items for row in item]
    batch = pad_rows([row["stretch"] for row in rows], pad)
    labels = torch.full((*batch["positions"].shape, 2), _NO_LABEL)
    kinds = torch.zeros(batch["positions"].shape, dtype=torch.long)
    for number, row in enumerate(rows):
        labels[number, : len(row["labels"])] = torch.tensor(row["labels"])
        kinds[number, : len(row["kinds"])] = torch.tensor(row["kinds"])
    return {**batch, "labels": labels, "kinds": kinds, "group": torch.tensor([row["group"] for row in rows])}


class _ByQuestion(Sampler[int]):
    """Shuffled questions, each with its rollouts together, so that a batch holds attempts to compare."""

    def __init__(self, groups: Sequence[int], seed: int) -> None:
        self._groups, self._seed, self._epoch = np.asarray(groups), seed, 0

    def __len__(self) -> int:
        return len(self._groups)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self._seed, self._epoch))
        rank = rng.permutation(int(self._groups.max()) + 1)
        order = np.lexsort((rng.random(len(self._groups)), rank[self._groups]))
        return iter(order.tolist())


class _TrainedModel(nn.Module):
    """A boundary model with its losses; what Hugging Face's Trainer trains."""

    def __init__(self, model: BoundaryModel, config: TrainConfig, weights: torch.Tensor, teacher: Any) -> None:
        super().__init__()
        self.model, self._config = model, config
        self.register_buffer("label_weights", weights, persistent=False)
        self._teacher = [teacher]  # in a list: not a part of what is trained and saved
        self.surprised = nn.Linear(model.plain.config.hidden_size, 1) if teacher is not None else None

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        positions: torch.Tensor,
        labels: torch.Tensor,
        kinds: torch.Tensor,
        group: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        told = self.training and self.surprised is not None
        logits, inner = self.model(input_ids, attention_mask, positions, inner=told)
        logits = logits.float()
        known = labels != _NO_LABEL
        losses = functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0.0), reduction="none")
        weights = torch.where(labels > 0.5, self.label_weights[1], self.label_weights[0]) * known  # type: ignore[index]
        loss = (losses * weights).sum() / weights.sum().clamp(min=1e-6)
        if self.training and self._config.ranking:
            loss = loss + self._config.ranking * ranking_loss(logits[..., 0], labels[..., 0], kinds, group)
        if inner is not None:
            loss = loss + self._config.surprise * self._surprise_loss(inner, input_ids, attention_mask)
        return {"loss": loss, "logits": logits}

    def _surprise_loss(self, inner: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            predicted = self._teacher[0](input_ids=ids, attention_mask=mask).logits[:, :-1].float().log_softmax(-1)
        unlikely = (predicted.gather(2, ids[:, 1:, None])[..., 0] < np.log(_UNLIKELY)).float()
        assert self.surprised is not None
        told = self.surprised(inner[:, 1:]).float()[..., 0]
        real = mask[:, 1:].bool()
        return functional.binary_cross_entropy_with_logits(told[real], unlikely[real])


_UNLIKELY = 0.7
"""A token to which the Reasoner gave less than this probability counts as one it found unlikely."""


def ranking_loss(scores: torch.Tensor, labels: torch.Tensor, kinds: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Mean logistic loss over pairs (right, wrong) of boundaries of the same kind in attempts at the same question.

    `scores`, `labels`, `kinds` [B, S]; `group` [B]. Zero where the batch holds no such pair.
    """
    loss, pairs = scores.sum() * 0.0, 0
    for kind in (_FIRST, _LAST):
        mask = (kinds == kind) & (labels != _NO_LABEL)
        own, right = scores[mask], labels[mask] > 0.5
        question = group[:, None].expand_as(kinds)[mask]
        pair = (question[:, None] == question[None, :]) & right[:, None] & ~right[None, :]
        if pair.any():
            loss = loss + functional.softplus(own[None, :] - own[:, None])[pair].sum()
            pairs += int(pair.sum())
    return loss / max(1, pairs)


class _QuestionTrainer(Trainer):
    fresh_rate = 1.0
    optimizer: Any

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW with a higher rate for what starts from nothing."""
        if self.optimizer is None:
            base, args = self.model, self.args
            fresh = {id(parameter) for parameter in _fresh_parameters(base)}
            parts: list[list[Any]] = [[], []]
            for parameter in base.parameters():  # type: ignore[union-attr]
                if parameter.requires_grad:
                    parts[id(parameter) in fresh].append(parameter)
            rates = (args.learning_rate, args.learning_rate * self.fresh_rate)
            groups = [{"params": own, "lr": rate} for own, rate in zip(parts, rates, strict=True) if own]
            self.optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, weight_decay=args.weight_decay)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return _ByQuestion(self.train_dataset.groups, self.args.seed)  # type: ignore[union-attr]


def _fresh_parameters(trained: Any) -> Iterator[nn.Parameter]:
    """The parameters that no pretraining has seen: the heads and the layers that `grow` added."""
    plain = trained.model.plain
    head = plain.score if trained.model.causal else plain.classifier
    yield from head.parameters()
    if trained.surprised is not None:
        yield from trained.surprised.parameters()
    for layer in getattr(plain, "grown", ()):
        yield from layer.parameters()


class _ProgressCallback(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self._progress, self._note = progress, ""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        for name in ("loss", "eval_loss"):
            if logs and name in logs:
                self._note = f"{name} {float(logs[name]):.4f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress.advance(self._note)


def load_backbone(backbone: str, config: TrainConfig) -> tuple[BoundaryModel, Any]:
    """A backbone as a classifier with two labels, and its tokenizer; InputError where it cannot be one."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(backbone)
        classifier = AutoModelForSequenceClassification.from_pretrained(
            backbone,
            num_labels=2,
            id2label={0: "now", 1: "later"},
            label2id={"now": 0, "later": 1},
            problem_type="multi_label_classification",
            dtype=torch.float32,
        )
    except (OSError, ValueError) as error:
        raise InputError("--backbone", f"{backbone} cannot be loaded: {str(error).splitlines()[0]}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    classifier.config.pad_token_id = tokenizer.pad_token_id
    if config.extra_layers:
        grow(classifier, config.extra_layers)
    if config.lora_rank:
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(
            task_type="SEQ_CLS", r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear"
        )
        classifier = get_peft_model(classifier, adapters)
    return BoundaryModel(classifier), tokenizer


def grow(classifier: Any, layers: int) -> None:
    """Add `layers` layers on top of a causal backbone that at first pass on what they are given.

    What a token gives away about the one before it can only be read once the prediction of that one is complete;
    a classifier as deep as the Reasoner has no layer left for it.
    """
    backbone = classifier.base_model
    if not hasattr(backbone, "layers"):
        raise InputError("--extra-layers", f"{type(backbone).__name__} cannot be grown")
    have = len(backbone.layers)
    config = classifier.config
    config.num_hidden_layers = have + layers
    if getattr(config, "layer_types", None):
        config.layer_types = [*config.layer_types, *[config.layer_types[-1]] * layers]
    for number in range(have, have + layers):
        layer = type(backbone.layers[0])(config, number)
        for name, parameter in layer.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=getattr(config, "initializer_range", 0.02))
        backbone.layers.append(layer)
    classifier.grown = list(backbone.layers)[have:]  # a list: not a second registration of the same layers


def input_limit(model: BoundaryModel, config: TrainConfig) -> int:
    """The longest input, in tokens, that both the configuration and the backbone allow."""
    most = getattr(model.plain.config, "max_position_embeddings", None) or config.max_tokens
    return int(min(config.max_tokens, most))


def label_weights(rollouts: Sequence[Rollout], config: TrainConfig) -> torch.Tensor:
    """[2, 2] weights: of wrong (row 0) and right (row 1) labels, for `now` and `later`."""
    if not config.balance:
        return torch.ones(2, 2)
    now = [float(flag) for rollout in rollouts for flag in rollout.now if flag is not None]
    later = [float(rollout.later) for rollout in rollouts for _ in rollout.steps]
    right = torch.tensor([np.mean(now or [0.5]), np.mean(later or [0.5])])
    weights = 0.5 / torch.stack([1 - right, right])
    return weights.clamp(_LEAST_WEIGHT, _MOST_WEIGHT).float()


def train_text_classifier(
    rollouts: Sequence[Rollout], held_back: Sequence[Rollout], backbone: str, out: Path, config: TrainConfig
) -> dict[str, Any]:
    """Fine-tune `backbone` on the rollouts' boundaries; saves a plain Hugging Face folder `out`.

    Ends early once the loss on `held_back` (of other questions) has not fallen for `config.patience` evaluations,
    and keeps the best state. A training that was stopped goes on from its last checkpoint in `out`. Returns its
    figures. Under `accelerate launch` every process calls this; the first one saves.
    """
    settings = {"backbone": backbone, "rollouts": len(rollouts), **asdict(config)}
    model, tokenizer = load_backbone(backbone, config)
    config_used = _with_limit(config, input_limit(model, config))
    teacher = _teacher(backbone) if config.surprise and model.causal else None
    train = _RolloutDataset(rollouts, tokenizer, config_used, model.causal, augment=True)
    held = _RolloutDataset(held_back, tokenizer, config_used, model.causal, augment=False)
    per_epoch = max(1, -(-len(rollouts) // config.rollouts_per_batch) // _processes())
    steps = max(1, round(per_epoch * config.epochs))
    every = max(1, min(steps, per_epoch // config.evaluations_per_epoch))
    checkpoints = out / _CHECKPOINTS
    resumed_from = _resumable_step(out, settings)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=config.rollouts_per_batch,
        per_device_eval_batch_size=config.rollouts_per_batch,
        learning_rate=config.learning_rate,
        warmup_steps=round(config.warmup * steps),
        lr_scheduler_type="cosine",
        weight_decay=config.weight_decay,
        use_cpu=not torch.cuda.is_available(),
        bf16=not torch.cuda.is_available() or torch.cuda.is_bf16_supported(),
        logging_steps=10,
        eval_strategy="steps" if held_back else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=bool(held_back),
        metric_for_best_model="eval_loss" if held_back else None,
        prediction_loss_only=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=False,
        seed=config.seed,
        log_level="error",
    )
    trained = _TrainedModel(model, config_used, label_weights(rollouts, config), teacher)
    with Progress("Text classifier", steps, resumed_from) as progress:
        trainer = _QuestionTrainer(
            model=trained,
            args=arguments,
            train_dataset=train,
            eval_dataset=held if held_back else None,
            data_collator=lambda items: collate(items, tokenizer.pad_token_id),
            callbacks=[_ProgressCallback(progress)],
        )
        trainer.fresh_rate = config.fresh_rate
        if held_back:
            trainer.add_callback(EarlyStoppingCallback(config.patience))
        trainer.pop_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=True if resumed_from else None)
    if trainer.is_world_process_zero():
        _save(model, tokenizer, out)
        shutil.rmtree(checkpoints, ignore_errors=True)
        (out / _SETTINGS_NAME).unlink(missing_ok=True)
    return {
        "backbone": Path(backbone).name,
        "parameters": sum(parameter.numel() for parameter in model.plain.parameters()),
        "causal": model.causal,
        "rollouts": len(rollouts),
        "boundaries": sum(len(rollout.steps) for rollout in rollouts),
        "steps": trainer.state.global_step,
        "planned_steps": steps,
        "resumed_from": resumed_from,
        "best_loss": None if trainer.state.best_metric is None else round(trainer.state.best_metric, 4),
        "max_tokens": config_used.max_tokens,
        "seconds": round(progress.seconds),
    }


def _with_limit(config: TrainConfig, limit: int) -> TrainConfig:
    return TrainConfig(**{**asdict(config), "max_tokens": limit})


def _teacher(backbone: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32).eval().requires_grad_(False)


def _processes() -> int:
    import os

    return int(os.environ.get("WORLD_SIZE", "1"))


def _resumable_step(out: Path, settings: dict[str, Any]) -> int:
    """The step of the checkpoint in `out` to go on from, 0 where there is none; InputError where it is of another
    training."""
    path = out / _SETTINGS_NAME
    if path.exists():
        before = read_json_object(path)
        for key, value in settings.items():
            if before.get(key) != value:
                raise InputError(
                    str(out), f"holds a training begun with {before.get(key)!r}, not {value!r}; remove it", field=key
                )
        return _steps_done(out / _CHECKPOINTS)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(settings) + "\n")
    return 0


def _steps_done(checkpoints: Path) -> int:
    return max((int(path.name.rpartition("-")[2]) for path in checkpoints.glob("checkpoint-*")), default=0)


def _save(model: BoundaryModel, tokenizer: Any, out: Path) -> None:
    classifier = model.classifier
    if hasattr(classifier, "peft_config"):
        classifier = classifier.merge_and_unload()
    classifier.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)

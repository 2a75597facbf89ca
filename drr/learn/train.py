"""The first part of training a DM: fit the text classifier to graded behaviour.

The backbone is any Hugging Face model that has a sequence-classification form. It gets two labels, `now` and `later`,
each with its own sigmoid. The second part, the head that combines the classifier's logits with the Reasoner's
behaviour, is fitted on questions that the classifier never saw (`drr.learn.fusion`).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from drr.errors import InputError, first_line
from drr.files import check_same_settings, read_json_object, write_whole
from drr.judge.dm_folder import CARD_NAME
from drr.learn.boundaries import BoundaryModel
from drr.learn.records import Rollout
from drr.learn.train_config import TrainConfig
from drr.learn.train_data import ByQuestion, RolloutDataset, collate, feature_moments, label_weights
from drr.learn.train_folder import CHECKPOINTS, STATE_NAME
from drr.learn.train_losses import TrainedModel
from drr.progress import Progress

# Silence messages and bars about loading and saving files: they would disturb the progress of the training.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
"""What configurations call it. With it, attention is computed with all of its weights in memory: training MiniLM on
texts of 512 tokens took three times as long and five times the memory. Dropout elsewhere stays."""


class _QuestionTrainer(Trainer):
    fresh_rate = 1.0
    optimizer: Any

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW with a learning rate `fresh_rate` times as high for parameters without pretraining."""
        if self.optimizer is None:
            base, args = self.model, self.args
            fresh = {id(parameter) for parameter in _fresh_parameters(base)}
            pretrained_and_fresh: list[list[Any]] = [[], []]
            for parameter in base.parameters():  # type: ignore[union-attr]
                if parameter.requires_grad:
                    pretrained_and_fresh[id(parameter) in fresh].append(parameter)
            rates = (args.learning_rate, args.learning_rate * self.fresh_rate)
            groups = [
                {"params": parameters, "lr": rate}
                for parameters, rate in zip(pretrained_and_fresh, rates, strict=True)
                if parameters
            ]
            self.optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, weight_decay=args.weight_decay)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return ByQuestion(self.train_dataset.groups, self.args.seed)  # type: ignore[union-attr]


def _fresh_parameters(trained: Any) -> Iterator[nn.Parameter]:
    """The parameters without pretraining: those of the heads and of the layers that `grow` added."""
    plain = trained.model.plain
    for module in trained.model.fresh:
        yield from plain.get_submodule(module).parameters()
    if trained.behaving is not None:
        yield from trained.behaving.parameters()
    if trained.model.added_layers:
        for layer in plain.base_model.layers[-trained.model.added_layers :]:
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
    """A backbone as a classifier with two labels, and its tokenizer. InputError if it cannot be loaded as one."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(backbone)
        settings = AutoConfig.from_pretrained(
            backbone,
            num_labels=2,
            id2label={0: "now", 1: "later"},
            label2id={"now": 0, "later": 1},
            problem_type="multi_label_classification",
        )
        for name in _ATTENTION_DROPOUT:
            if getattr(settings, name, None):
                setattr(settings, name, 0.0)
        classifier, loading = AutoModelForSequenceClassification.from_pretrained(
            backbone,
            config=settings,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # a head for other labels is initialised anew
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise InputError("--backbone", f"{backbone} cannot be loaded: {first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    classifier.config.pad_token_id = tokenizer.pad_token_id
    if config.freeze:
        classifier.base_model.requires_grad_(False)
    if config.extra_layers:
        grow(classifier, config.extra_layers)
    if config.lora_rank:
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(
            task_type="SEQ_CLS", r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear"
        )
        classifier = get_peft_model(classifier, adapters)
    return BoundaryModel(classifier, fresh=_fresh_modules(loading), added_layers=config.extra_layers), tokenizer


def _fresh_modules(loading: dict[str, Any]) -> tuple[str, ...]:
    """The modules whose weights the backbone's files do not hold, or hold in another size."""
    mismatched = (entry if isinstance(entry, str) else entry[0] for entry in loading["mismatched_keys"])
    return tuple(sorted({name.rpartition(".")[0] for name in (*loading["missing_keys"], *mismatched)}))


def is_causal(backbone: str) -> bool:
    """Whether a backbone is causal, told by its configuration. InputError if that cannot be loaded."""
    try:
        config = AutoConfig.from_pretrained(backbone)
        with torch.device("meta"):
            return BoundaryModel(AutoModelForSequenceClassification.from_config(config)).causal
    except (OSError, ValueError) as error:
        raise InputError("--backbone", f"{backbone} cannot be loaded: {first_line(error)}") from error


def grow(classifier: Any, layers: int) -> None:
    """Add `layers` layers on top of a causal backbone. At first they pass their input on unchanged.

    How surprising a token is can only be judged after the layers that predict it, and a classifier as deep as the
    Reasoner has no layer left after those. The new layers are copies of the first ones, which already look one token
    back, with their output projections set to zero. InputError if the backbone cannot be grown so.
    """
    backbone = classifier.base_model
    have = len(getattr(backbone, "layers", ()))
    if not layers <= have or not hasattr(backbone, "norm"):
        raise InputError("--extra-layers", f"{type(backbone).__name__} cannot be grown by {layers} layers")
    config = classifier.config
    config.num_hidden_layers = have + layers
    if getattr(config, "layer_types", None):
        config.layer_types = [*config.layer_types, *config.layer_types[:layers]]
    for number in range(layers):
        layer = type(backbone.layers[0])(config, have + number)
        layer.load_state_dict(backbone.layers[number].state_dict())
        for name, parameter in layer.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
        backbone.layers.append(layer)
    backbone.norm.requires_grad_(True)


def input_limit(model: BoundaryModel, tokenizer: Any, config: TrainConfig) -> int:
    """The longest input, in tokens, that the configuration, the tokenizer and the backbone allow."""
    most = getattr(model.plain.config, "max_position_embeddings", None) or config.max_tokens
    table = getattr(getattr(model.plain.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)  # RoBERTa's positions start after its padding index
    reserved = 0 if padding is None else padding + 1
    return int(min(config.max_tokens, most - reserved, tokenizer.model_max_length))


def train_text_classifier(
    rollouts: Sequence[Rollout], held_back: Sequence[Rollout], backbone: str, out: Path, config: TrainConfig
) -> dict[str, Any]:
    """Fine-tune `backbone` on the rollouts' boundaries, save it as a plain Hugging Face folder `out`, and return the
    figures of the training.

    Training ends early once the loss on `held_back` (rollouts of other questions) has not fallen for `config.patience`
    evaluations, and the best state is kept. A training that was stopped continues from its last checkpoint in `out`;
    InputError if that is of another training. Under `accelerate launch` every process calls this; the first one saves.
    """
    settings = {"backbone": backbone, "data": _data_key([*rollouts, *held_back]), **asdict(config)}
    model, tokenizer = load_backbone(backbone, config)
    config_used = _with_limit(config, input_limit(model, tokenizer, config))
    train = RolloutDataset(rollouts, tokenizer, config_used, model.causal, augment=True)
    held = RolloutDataset(held_back, tokenizer, config_used, model.causal, augment=False)
    per_epoch = max(1, -(-len(rollouts) // config.rollouts_per_batch) // _processes())
    steps = max(1, round(per_epoch * config.epochs))
    evaluation_interval = max(1, min(steps, per_epoch // config.evaluations_per_epoch))
    checkpoints = out / CHECKPOINTS
    state = _training_state(out, settings)
    if state["figures"]:
        return dict(state["figures"])
    resumed_from = _steps_done(checkpoints)
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
        eval_steps=evaluation_interval,
        save_strategy="steps",
        save_steps=evaluation_interval,
        save_total_limit=2,
        restore_callback_states_from_checkpoint=True,
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
    trained = TrainedModel(model, config_used, label_weights(rollouts, config), feature_moments(rollouts))
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
        trainer.train(resume_from_checkpoint=str(checkpoints / f"checkpoint-{resumed_from}") if resumed_from else None)
    figures = {
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
    if trainer.is_world_process_zero():
        (out / CARD_NAME).unlink(missing_ok=True)  # its promises were about another classifier
        _save(model, tokenizer, out)
        write_whole(out / STATE_NAME, json.dumps({"settings": settings, "figures": figures}) + "\n")
    return figures


def _with_limit(config: TrainConfig, limit: int) -> TrainConfig:
    return TrainConfig(**{**asdict(config), "max_tokens": limit})


def _processes() -> int:
    import os

    return int(os.environ.get("WORLD_SIZE", "1"))


def _training_state(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The state of the training in `out`, which is begun now if there is none. InputError if that is another training
    than the one with these `settings`."""
    path = out / STATE_NAME
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        state = {"settings": settings, "figures": None}
        write_whole(path, json.dumps(state) + "\n")
        return state
    state = read_json_object(path)
    before = state.get("settings")
    check_same_settings(out, before if isinstance(before, dict) else {}, settings)
    return {"figures": None, **state}


def _data_key(rollouts: Sequence[Rollout]) -> str:
    """12 hex digits that identify the training data: the attempts and their labels."""
    digest = hashlib.sha256()
    for rollout in rollouts:
        digest.update(repr((rollout.question, rollout.sample, rollout.steps, rollout.now, rollout.later)).encode())
    return digest.hexdigest()[:12]


def _steps_done(checkpoints: Path) -> int:
    """The step of the last complete checkpoint, 0 if there is none. The Trainer writes a checkpoint's state last."""
    whole = [path.parent for path in checkpoints.glob("checkpoint-*/trainer_state.json")]
    return max((int(path.name.rpartition("-")[2]) for path in whole), default=0)


def _save(model: BoundaryModel, tokenizer: Any, out: Path) -> None:
    classifier = model.classifier
    if hasattr(classifier, "peft_config"):
        classifier = classifier.merge_and_unload()
    classifier.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)

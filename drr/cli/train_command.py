"""`drr train`: from behaviour records to a DM."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from drr.errors import InputError
from drr.judge.dm_folder import CARD_NAME, DmCard
from drr.learn.records import Manifest, Rollout, read_rollouts
from drr.learn.train import forget_training, is_under_way, train_text_classifier
from drr.learn.train_config import TrainConfig
from drr.learn.train_dm import TrainingData, finish_dm, split_for_training

_LEAST_QUESTIONS = 20


def run(options: argparse.Namespace) -> None:
    """Run the command; InputError says what is wrong with its options or data."""
    manifest = Manifest.load(options.data)
    if not manifest.complete:
        raise InputError(str(options.data), "is not complete yet: run drr distill again to finish it")
    config = _config(options)
    data = split_for_training(_usable(read_rollouts(options.data)), options.train_share)
    _check(data, options)
    if (options.out / CARD_NAME).exists() and not is_under_way(options.out):
        raise InputError(str(options.out), "holds a finished DM; choose another folder or remove it", field="--out")
    figures = train_text_classifier(data.text, data.dev, options.backbone, options.out, config)
    if _is_first_process():
        card = finish_dm(data, manifest, figures, options.out, seed=config.seed)
        forget_training(options.out)
        show(card, options.out)


def _usable(rollouts: Sequence[Rollout]) -> list[Rollout]:
    return [rollout for rollout in rollouts if rollout.steps]


def _is_first_process() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"


def _check(data: TrainingData, options: argparse.Namespace) -> None:
    questions = len({rollout.identity for rollout in data.trained_on})
    if questions < _LEAST_QUESTIONS:
        raise InputError(str(options.data), f"leaves {questions} questions to train on; {_LEAST_QUESTIONS} are needed")
    for name, outcome in (("right", True), ("wrong", False)):
        if not any(rollout.later is outcome for rollout in data.text):
            raise InputError(str(options.data), f"holds no {name} attempt to learn from", field="later")
    for name in ("dev", "head"):
        if not getattr(data, name):
            raise InputError(str(options.data), f"leaves no question for {name}; more questions are needed")


def _config(options: argparse.Namespace) -> TrainConfig:
    for name in ("epochs", "batch", "learning_rate", "fresh_rate", "max_tokens", "boundaries_per_rollout", "patience"):
        if getattr(options, name) <= 0:
            raise InputError(f"--{name.replace('_', '-')}", f"must be above 0, not {getattr(options, name)}")
    for name in ("extra_layers", "lora_rank", "ranking", "behaviour"):
        if getattr(options, name) < 0:
            raise InputError(f"--{name.replace('_', '-')}", f"must be at least 0, not {getattr(options, name)}")
    for name in ("cut", "merge"):
        if not 0 <= getattr(options, name) <= 1:
            raise InputError(f"--{name}", f"must lie between 0 and 1, not {getattr(options, name)}")
    if not 0 < options.train_share <= 1:
        raise InputError("--train-share", f"must be above 0 and at most 1, not {options.train_share}")
    return TrainConfig(
        epochs=options.epochs,
        rollouts_per_batch=options.batch,
        learning_rate=options.learning_rate,
        fresh_rate=options.fresh_rate,
        merge=options.merge,
        cut=options.cut,
        ranking=options.ranking,
        behaviour=options.behaviour,
        balance=not options.no_balance,
        max_tokens=options.max_tokens,
        lora_rank=options.lora_rank,
        extra_layers=options.extra_layers,
        freeze=options.freeze,
        boundaries_per_rollout=options.boundaries_per_rollout,
        patience=options.patience,
        seed=options.seed,
    )


def show(card: DmCard, folder: Path) -> None:
    """Print the figures that matter."""
    console = Console()
    if not card.metrics:
        console.print(f"DM in {folder}; no question was held out to measure it on", highlight=False)
        return
    parts = [part for part in ("text", "behaviour", "fused") if part in card.metrics]
    table = Table(title="p_now on held-out questions: AUROC (ECE)")
    table.add_column("boundaries")
    for part in parts:
        table.add_column(part, justify="right")
    for phase in ("all", "before", "first", "after", "last"):
        if phase in card.metrics[parts[0]]:
            cells = [card.metrics[part][phase] for part in parts]
            table.add_row(
                f"{phase} ({cells[0]['boundaries']:,})",
                *(f"{_figure(cell['auroc'])} ({cell['ece']})" for cell in cells),
            )
    for phase in ("first", "last"):
        cells = [card.metrics[part][f"within_question_{phase}"] for part in parts]
        table.add_row(
            f"{phase}, within a question ({cells[0]['mixed_questions']} mixed)",
            *(_figure(cell["auroc"]) for cell in cells),
        )
    console.print(table)
    for name, figures in card.metrics["baselines"].items():
        console.print(
            f"{name.replace('_', ' ')} alone: {_figure(figures['auroc'])} ({figures['ece']})", highlight=False
        )
    console.print(f"DM in {folder}. Next: drr calibrate --dm {folder} --data ...", highlight=False)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

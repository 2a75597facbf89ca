"""`drr train`: from behaviour records to a DM."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from drr.checks import check_out_folder, check_range
from drr.cli.common import complete_records
from drr.cli.parser import config_from, given, needed
from drr.cli.useless import refuse_useless
from drr.engine.model_source import check_model
from drr.errors import InputError
from drr.judge.dm_folder import CARD_NAME, DmCard
from drr.judge.head import Kind
from drr.learn.records import Manifest, Rollout, read_rollouts
from drr.learn.state_config import StateConfig
from drr.learn.train_config import DEFAULT_KIND, TRAIN_SHARE, TrainConfig
from drr.learn.train_folder import forget_training, is_under_way
from drr.learn.train_split import TrainingData, split_for_training

if TYPE_CHECKING:
    from drr.learn.states import BoundaryStates

_LEAST_QUESTIONS = 20


def run(options: argparse.Namespace) -> None:
    """Run the command; InputError says what is wrong with its options or data."""
    config = check(options)
    kind: Kind = options.kind or DEFAULT_KIND
    manifest = complete_records(options.data)
    data = split_for_training(_usable(read_rollouts(options.data)), options.train_share or TRAIN_SHARE)
    _check_data(data, options)
    if (options.out / CARD_NAME).exists() and not is_under_way(options.out):
        raise InputError(str(options.out), "holds a finished DM; choose another folder or remove it", field="--out")
    if options.backbone is not None:
        check_model(options.backbone, "--backbone")
        _refuse_for_backbone(options, manifest)
    from drr.learn.train_dm import Trained, add_state_head, copy_classifier, finish_dm

    states = None if kind == "text" else _states(options, manifest)
    trained = Trained()
    if options.text_dm is not None:
        trained = copy_classifier(options.text_dm, data, manifest, options.out)
    elif options.backbone is not None:
        from drr.learn.train import train_text_classifier

        trained = Trained(train_text_classifier(data.text, data.dev, options.backbone, options.out, config))
    if not _is_first_process():
        return
    if states is not None:
        head = add_state_head(data, states, options.out, StateConfig(seed=config.seed))
        trained = replace(trained, state_head=head)
    card = finish_dm(data, manifest, trained, options.out, states=states, seed=config.seed)
    forget_training(options.out)
    show(card, options.out)


def check(options: argparse.Namespace) -> TrainConfig:
    """The settings that are asked for; InputError names an option out of range, missing or of no use."""
    refuse_useless("train", options)
    if options.kind == "text":
        needed(options, "backbone", "is needed: the model that is to become the text classifier")
    elif options.kind == "fused" and options.text_dm is None:
        needed(options, "backbone", "is needed (or --text-dm, a DM whose text classifier is taken over)")
    config = config_from(TrainConfig, options)
    if options.train_share is not None:
        check_range("--train-share", options.train_share, above=0, most=1)
    check_out_folder("--out", options.out)
    return config


def _states(options: argparse.Namespace, manifest: Manifest) -> "BoundaryStates | None":
    """The Reasoner's states at the boundaries of the records, computed by the first process."""
    from drr.learn.states import read_states

    return read_states(options.data, manifest, options.reasoner) if _is_first_process() else None


def _refuse_for_backbone(options: argparse.Namespace, manifest: Manifest) -> None:
    """InputError for an option that this kind of backbone, or of records, makes useless."""
    if options.behaviour and manifest.settings.get("labels") == "recorded":
        raise InputError("--behaviour", "has no effect: recorded solutions come without behaviour features")
    if not given(options, "boundaries_per_rollout") and not options.behaviour:
        return
    from drr.learn.train import is_causal

    causal = is_causal(options.backbone)
    if causal and given(options, "boundaries_per_rollout"):
        raise InputError("--boundaries-per-rollout", "is for encoders: a causal backbone sees every boundary")
    if not causal and options.behaviour:
        raise InputError("--behaviour", "is for causal backbones")


def _usable(rollouts: Sequence[Rollout]) -> list[Rollout]:
    return [rollout for rollout in rollouts if rollout.steps]


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _check_data(data: TrainingData, options: argparse.Namespace) -> None:
    questions = len({rollout.identity for rollout in data.trained_on})
    if questions < _LEAST_QUESTIONS:
        raise InputError(str(options.data), f"leaves {questions} questions to train on; {_LEAST_QUESTIONS} are needed")
    for name, outcome in (("right", True), ("wrong", False)):
        if not any(rollout.later is outcome for rollout in data.text):
            raise InputError(str(options.data), f"holds no {name} attempt to learn from", field="later")
    for name in ("dev", "head"):
        if not getattr(data, name):
            raise InputError(str(options.data), f"leaves no question for {name}; more questions are needed")


def show(card: DmCard, folder: Path) -> None:
    """Print the figures that matter."""
    from rich.console import Console
    from rich.table import Table

    from drr.learn.dm_card import PARTS

    console = Console()
    if not card.metrics:
        console.print(f"DM in {folder}; no question was held out to measure it on", highlight=False)
        return
    parts = [part for part in PARTS if part in card.metrics]
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

"""`drr train`: from behaviour records to a DM."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from drr.boundaries import Boundaries, score_boundaries
from drr.dm import CARD_NAME, HEAD_NAME, TRAINED_ON_NAME, DmCard
from drr.dm_card import write_dm_card
from drr.dm_metrics import baselines, score_report
from drr.errors import InputError
from drr.features import FEATURE_NAMES
from drr.fusion import fit_head, probabilities, text_probabilities, with_temperatures
from drr.head import FusionHead, save_head
from drr.plots import draw_dm
from drr.records import Manifest, Rollout, question_key, read_rollouts, share_of, write_whole
from drr.train import forget_training, is_under_way, train_text_classifier
from drr.train_config import TrainConfig

_DEFAULT_THRESHOLD = 0.9
"""Of a DM that has not been calibrated yet."""

_PART_SALT, _TRAIN_SALT = "part", "train"
_TEXT_SHARE, _DEV_SHARE = 0.73, 0.09
_LEAST_QUESTIONS = 20


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Rollouts by use, no question in two of them: the classifier, its early stopping, the head, held-out figures."""

    text: list[Rollout]
    dev: list[Rollout]
    head: list[Rollout]
    held_out: list[Rollout]

    @property
    def trained_on(self) -> list[Rollout]:
        return [*self.text, *self.dev, *self.head]


def split_data(rollouts: Sequence[Rollout], train_share: float) -> TrainingData:
    """Split by question; the question's own text decides, so a later run or another machine splits the same way."""
    data = TrainingData([], [], [], [])
    for rollout in rollouts:
        if share_of(rollout.question, _TRAIN_SALT) >= train_share:
            data.held_out.append(rollout)
            continue
        at = share_of(rollout.question, _PART_SALT)
        (data.text if at < _TEXT_SHARE else data.dev if at < _TEXT_SHARE + _DEV_SHARE else data.head).append(rollout)
    return data


def run(options: argparse.Namespace) -> None:
    """Run the command; InputError says what is wrong with its options or data."""
    manifest = Manifest.load(options.data)
    if not manifest.complete:
        raise InputError(str(options.data), "is not complete yet: run drr distill again to finish it")
    config = _config(options)
    data = split_data(_usable(read_rollouts(options.data)), options.train_share)
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
    questions = len({rollout.question for rollout in data.trained_on})
    if questions < _LEAST_QUESTIONS:
        raise InputError(str(options.data), f"leaves {questions} questions to train on; {_LEAST_QUESTIONS} are needed")
    for name, own in (("right", True), ("wrong", False)):
        if not any(rollout.later is own for rollout in data.text):
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


def finish_dm(
    data: TrainingData, manifest: Manifest, figures: dict[str, Any], folder: Path, *, seed: int = 0, name: str = ""
) -> DmCard:
    """Fit the head, measure everything on held-out questions, and write `drr.json`, model card and plots."""
    limit = int(figures["max_tokens"])
    fitting = score_boundaries(data.head, folder, limit, "Scoring for the head")
    questions = [rollout.question for rollout in data.head]
    head = with_temperatures(fit_head(fitting, questions, seed=seed), fitting)
    behaviour = with_temperatures(fit_head(fitting, questions, use=FEATURE_NAMES, seed=seed), fitting)
    save_head(head, folder / HEAD_NAME)
    keys = sorted({question_key(rollout.question) for rollout in data.trained_on})
    write_whole(folder / TRAINED_ON_NAME, "\n".join(keys) + "\n")
    metrics: dict[str, Any] = {}
    if data.held_out:
        held_out = score_boundaries(data.held_out, folder, limit, "Scoring held-out questions")
        metrics = measure(head, behaviour, fitting, held_out, data.held_out)
        parts = parts_of(head, behaviour, held_out)
        draw_dm({part: own[:, 0] for part, own in parts.items()}, held_out, folder / "plots")
    settings = manifest.settings
    reasoner = settings["reasoner"]
    card = DmCard(
        id=name or folder.resolve().name,
        reasoner=reasoner["fingerprint"],
        reasoner_name=reasoner["name"],
        step_rule=settings["step_rule"],
        threshold=_DEFAULT_THRESHOLD,
        max_tokens=limit,
        trained_on={
            **{key: settings[key] for key in ("labels", "grader", "temperature", "top_p", "top_k") if key in settings},
            "questions": {
                use: len({rollout.question for rollout in getattr(data, use)}) for use in TrainingData.__slots__
            },
            "classifier": figures,
            "versions": manifest.versions,
        },
        metrics=metrics,
    )
    card.save(folder)
    write_dm_card(card, folder)
    return card


def measure(
    head: FusionHead, behaviour: FusionHead, fitting: Boundaries, held_out: Boundaries, rollouts: Sequence[Rollout]
) -> dict[str, Any]:
    """Figures of `now` on held-out questions: text alone, behaviour alone, fused; and of trivial signals."""
    parts = parts_of(head, behaviour, held_out)
    report = {part: score_report(own[:, 0], held_out, rollouts) for part, own in parts.items()}
    return {**report, "baselines": baselines(fitting, held_out)}


def parts_of(head: FusionHead, behaviour: FusionHead, data: Boundaries) -> dict[str, Any]:
    """Probabilities [N, 2] by the text alone, by behaviour alone, and fused, as far as there are any."""
    parts = {"text": text_probabilities(head, data)}
    if head.reads_behaviour and data.featured.any():
        parts["behaviour"] = probabilities(behaviour, data)
        parts["fused"] = probabilities(head, data)
    return parts


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
                f"{phase} ({cells[0]['boundaries']:,})", *(f"{_figure(own['auroc'])} ({own['ece']})" for own in cells)
            )
    for phase in ("first", "last"):
        cells = [card.metrics[part][f"within_question_{phase}"] for part in parts]
        table.add_row(
            f"{phase}, within a question ({cells[0]['mixed_questions']} mixed)",
            *(_figure(own["auroc"]) for own in cells),
        )
    console.print(table)
    for name, own in card.metrics["baselines"].items():
        console.print(f"{name.replace('_', ' ')} alone: {_figure(own['auroc'])} ({own['ece']})", highlight=False)
    console.print(f"DM in {folder}. Next: drr calibrate --dm {folder} --data ...", highlight=False)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

"""Build the reference models from nothing: Reasoner, its graded behaviour, its DM of every kind, certified thresholds,
model cards.

The DMs are made with the functions behind `drr distill`, `drr train` and `drr calibrate`. Every stage leaves a folder
or file; a build that was stopped continues with the first missing stage.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from typing import Any

from drr.certify.calibrate import calibrate, split_for_calibration
from drr.engine.devices import prepare_environment
from drr.files import check_same_settings, read_json_object, write_whole
from drr.judge.dm_folder import DmCard, load_dm_head, read_trained_on
from drr.learn.distill import distill
from drr.learn.distill_config import DistillConfig
from drr.learn.dm_card import write_dm_card
from drr.learn.judging import Judge, fit_parts
from drr.learn.records import Manifest, read_rollouts
from drr.learn.state_config import StateConfig
from drr.learn.states import BoundaryStates, read_states
from drr.learn.train import train_text_classifier
from drr.learn.train_config import TrainConfig
from drr.learn.train_dm import (
    Trained,
    add_state_head,
    copy_classifier,
    finish_dm,
    fitting_boundaries,
    measure,
    share_classifier,
)
from drr.learn.train_folder import forget_training
from drr.learn.train_split import TrainingData, split_for_training
from drr.learn.train_state import TrainedStateHead, train_state_head
from drr.reference.card import write_reasoner_card
from drr.reference.pretrain import DM_BACKBONE_RUNS, REASONER_RUNS, PretrainConfig, pretrain
from drr.tasks import Split
from drr.tasks.reference_suite import SIZES, reference_questions

_ROLLOUTS = {Split.TRAIN: (8, 8), Split.CALIBRATION: (2, 0), Split.TEST: (4, 0)}
"""By split: attempts at every question, and how many more if its outcomes are mixed. Certificates count every question
once and need many questions; the second attempt at each is for choosing how to think again."""

_TRAIN_SHARE = 0.8
"""Share of the training split's questions for the DM's text classifier; the others are for its head."""

_HEAD_SHARE = 0.25
"""Share of the calibration split's questions that are also for the DM's head: different questions help this small head
more than attempts at the same ones."""

MAX_LOST_POINTS = 0.5
"""Points of accuracy that the default rule may lose."""

NUDGE_CUE = "Let me check"
"""The words with which the Reasoner's own checks begin, in arithmetic and logic. They come without the full stop: its
tokenizer joins the full stop and the break after it into one token, so the Reasoner has never seen it alone."""

_SEEDS_APART = 100
"""Difference between the seeds of the same run in two builds: larger than the number of runs in a build."""

TRAINING = TrainConfig(epochs=2.5, extra_layers=1, freeze=True, cut=0.7, ranking=1.0, behaviour=0.5)
"""The settings of the training of the reference DM's text classifier."""

STATE_TRAINING = StateConfig()
"""The settings of the training of the reference DM's state head."""


def build(out: Path, *, quick: bool = False, seed: int = 0) -> None:
    """Run every stage that has not been run in `out`. `quick` makes toy models in two minutes, for tests. InputError if
    another build was begun in `out`."""
    prepare_environment(quiet=True)
    _begin(out, {"quick": quick, "seed": seed})
    runs = [replace(config, seed=config.seed + _SEEDS_APART * seed) for config in REASONER_RUNS]
    backbone = [replace(config, seed=config.seed + _SEEDS_APART * seed) for config in DM_BACKBONE_RUNS]
    training = replace(TRAINING, seed=seed)
    quick_counts = {Split.TRAIN: 16, Split.CALIBRATION: 10, Split.TEST: 3}
    counts = quick_counts if quick else {split: SIZES[split] for split in _ROLLOUTS}
    if quick:
        runs = [
            replace(
                config, hidden=64, layers=2, heads=2, feed_forward=128, tokens=400_000 if config is runs[0] else 50_000
            )
            for config in runs
        ]
        backbone = [replace(config, tokens=50_000, extra_layers=min(1, config.extra_layers)) for config in backbone]
        training = replace(training, epochs=1.0)
    _stage(out, "reasoner", lambda: _train_in_runs(out, "reasoner", runs))
    _stage(out, "rollouts", lambda: asyncio.run(_roll_out(out, counts, seed, quick=quick)))
    _stage(out, "backbone", lambda: _train_in_runs(out, "backbone", backbone, out / "reasoner"))
    _stage(out, "classifier", lambda: _classifier(out, training))
    _stage(out, "dm", lambda: _finish_dm(out, seed))
    risks = (0.5,) if quick else None
    _stage(out, "calibration", lambda: _calibrate(out, "dm", risks, seed))
    _stage(out, "dm-head", lambda: _head_dm(out, seed))
    _stage(out, "calibration-head", lambda: _calibrate(out, "dm-head", risks, seed))
    _stage(out, "dm-fused", lambda: _fused_dm(out, seed))
    _stage(out, "calibration-fused", lambda: _calibrate(out, "dm-fused", risks, seed))
    write_reasoner_card(out)


def _begin(out: Path, settings: dict[str, Any]) -> None:
    """Record the settings of the build in `out`. InputError if another build was begun there."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "build.json"
    if not path.exists():
        write_whole(path, json.dumps(settings) + "\n")
    check_same_settings(out, read_json_object(path), settings)


def _stage(out: Path, name: str, run: Callable[[], dict[str, Any]]) -> None:
    """Run a stage unless its figures are there; write its figures and seconds to `out`/figures/NAME.json."""
    path = out / "figures" / f"{name}.json"
    if path.exists():
        return
    started = time.monotonic()
    figures = run()
    path.parent.mkdir(exist_ok=True)
    figures = {**figures, "stage_seconds": round(time.monotonic() - started)}
    write_whole(path, json.dumps(figures, indent=2) + "\n")


async def _roll_out(out: Path, counts: dict[Split, int], seed: int, *, quick: bool) -> dict[str, Any]:
    from drr.engine.open_reasoner import open_engine

    figures: dict[str, Any] = {}
    async with open_engine(str(out / "reasoner")) as reasoner:
        for split, count in counts.items():
            rollouts, extra = (1, int(split is Split.TRAIN)) if quick else _ROLLOUTS[split]
            config = DistillConfig(
                rollouts=rollouts,
                extra_rollouts=extra,
                seed=seed,
                max_tokens=192 if quick else 1024,
                concurrency=192,
            )
            folder = out / "rollouts" / split.value
            questions = reference_questions(split, count)
            figures[split.value] = (await distill(reasoner, questions, folder, config, name=f"Rollouts {split}")).counts
        greedy = replace(config, rollouts=1, extra_rollouts=0, temperature=0.0)
        folder = out / "rollouts" / "test-greedy"
        await distill(reasoner, reference_questions(Split.TEST, counts[Split.TEST]), folder, greedy, name="Greedy test")
    return figures


def _training_data(out: Path) -> TrainingData:
    rollouts = [rollout for rollout in read_rollouts(out / "rollouts" / Split.TRAIN) if rollout.steps]
    data = split_for_training(rollouts, _TRAIN_SHARE)
    more = read_rollouts(out / "rollouts" / Split.CALIBRATION)
    questions = list(dict.fromkeys(rollout.question for rollout in more))
    for_head = set(questions[round((1 - _HEAD_SHARE) * len(questions)) :])
    head = [
        *data.head,
        *data.held_out,
        *(rollout for rollout in more if rollout.steps and rollout.question in for_head),
    ]
    return replace(data, head=head, held_out=[])


def _train_in_runs(out: Path, name: str, runs: Sequence[PretrainConfig], start: Path | None = None) -> dict[str, Any]:
    """Train a model in several runs. Each starts from the model of the one before, the first from `start` (None: from
    nothing). Returns the figures of the last run, with the tokens and seconds of all of them."""
    figures: dict[str, Any] = {}
    spent = dict.fromkeys(("tokens", "seconds"), 0)
    for number, config in enumerate(runs, start=1):
        folder = out / (name if number == len(runs) else f"{name}-run-{number}")
        begun = out / "figures" / f"{folder.name}-alone.json"
        _stage(out, begun.stem, partial(pretrain, folder, config, start=start, name=f"The {name}, run {number}"))
        figures, start = read_json_object(begun), folder
        spent = {part: spent[part] + figures[part] for part in spent}
    return {**figures, **spent}


def _classifier(out: Path, config: TrainConfig) -> dict[str, Any]:
    data = _training_data(out)
    return train_text_classifier(data.text, data.dev, str(out / "backbone"), out / "dm", config)


def _finish_dm(out: Path, seed: int) -> dict[str, Any]:
    figures = json.loads((out / "figures" / "classifier.json").read_text())
    _finish(out, "dm", Trained(figures), seed)
    forget_training(out / "dm")
    return {}


def _head_dm(out: Path, seed: int) -> dict[str, Any]:
    """The DM without a second model: a state head."""
    head = _add_state_head(out, "dm-head", seed)
    _finish(out, "dm-head", Trained(state_head=head), seed)
    return head.figures


def _fused_dm(out: Path, seed: int) -> dict[str, Any]:
    """The text classifier of the one DM and such a state head as the other's in a third."""
    data, folder = _training_data(out), out / "dm-fused"
    trained = copy_classifier(out / "dm", data, Manifest.load(out / "rollouts" / Split.TRAIN), folder)
    _finish(out, "dm-fused", replace(trained, state_head=_add_state_head(out, "dm-fused", seed)), seed)
    share_classifier(folder, out / "dm")
    return {}


def _add_state_head(out: Path, name: str, seed: int) -> TrainedStateHead:
    """Train a state head, which is the same for every DM."""
    return add_state_head(_training_data(out), _states(out), out / name, replace(STATE_TRAINING, seed=seed))


def _finish(out: Path, name: str, trained: Trained, seed: int) -> None:
    """Make the DM in `out`/`name`, which holds its trained parts, whole."""
    manifest = Manifest.load(out / "rollouts" / Split.TRAIN)
    states = None if trained.state_head is None else _states(out)
    folder = out / name
    card = finish_dm(
        _training_data(out), manifest, trained, folder, states=states, seed=seed, name=f"drr-reference-{name}"
    )
    replace(card, reasoner_name="drr-reference", nudge_cue=NUDGE_CUE).save(folder)


def _states(out: Path, splits: Sequence[Split] = (Split.TRAIN, Split.CALIBRATION)) -> BoundaryStates:
    """The Reasoner's states at the boundaries of the rollouts of these splits."""
    folders = [out / "rollouts" / split for split in splits]
    found = [read_states(folder, Manifest.load(folder), str(out / "reasoner")) for folder in folders]
    return reduce(BoundaryStates.joined, found)


def _calibrate(out: Path, name: str, risks: tuple[float, ...] | None, seed: int) -> dict[str, Any]:
    """Certify rules on the calibration questions, then measure the finished DM on the test questions."""
    folder = out / name
    source = out / "rollouts" / Split.CALIBRATION
    data = split_for_calibration(read_rollouts(source), read_trained_on(folder))
    options: dict[str, Any] = {} if risks is None else {"risks": risks}
    card = DmCard.load(folder)
    states = None if card.kind == "text" else _states(out, tuple(_ROLLOUTS))
    card, _ = calibrate(
        card, data, Manifest.load(source), folder, states=states, max_lost_points=MAX_LOST_POINTS, **options
    )
    head = load_dm_head(folder)
    judge = Judge(head.kind, folder, card.max_tokens, states)
    training = _training_data(out)
    state_head = None
    if states is not None:
        state_head = train_state_head(training.trained_on, states, replace(STATE_TRAINING, seed=seed))
    fitting, questions = fitting_boundaries(training, judge, state_head)
    tempering = judge.boundaries(data.temperature)
    test_rollouts = [rollout for rollout in read_rollouts(out / "rollouts" / Split.TEST) if rollout.steps]
    parts = fit_parts(head, fitting, questions, tempering)
    metrics = measure(parts, fitting, judge.boundaries(test_rollouts), test_rollouts, folder / "plots")
    card = replace(card, metrics=metrics)
    card.save(folder)
    write_dm_card(card, folder)
    return {"metrics": card.metrics, "calibration": card.calibration}

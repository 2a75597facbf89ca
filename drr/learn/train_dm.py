"""A whole DM from behaviour records: all steps after the text classifier."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from drr.errors import InputError
from drr.files import write_whole
from drr.judge.dm_folder import (
    CARD_NAME,
    DEFAULT_MAX_TOKENS,
    HEAD_NAME,
    STATE_HEAD_NAME,
    TRAINED_ON_NAME,
    DmCard,
    DmMismatchError,
    read_trained_on,
)
from drr.judge.dm_sums import SUMS_NAME, write_sums
from drr.judge.head import FusionHead, Kind, save_head
from drr.judge.self_test import SELF_TEST_NAME
from drr.learn.arrays import Reals
from drr.learn.boundaries import Boundaries
from drr.learn.dm_card import write_dm_card
from drr.learn.dm_metrics import baselines, score_report
from drr.learn.fusion import fit_head, with_temperatures
from drr.learn.judging import Judge, fit_parts, fused, part_probabilities
from drr.learn.plots import draw_dm
from drr.learn.records import Manifest, Rollout, question_key
from drr.learn.self_test import record_self_test
from drr.learn.state_config import StateConfig
from drr.learn.states import BoundaryStates
from drr.learn.train_split import TrainingData
from drr.learn.train_state import TrainedStateHead, train_state_head
from drr.loop.steps import StepRule

_DEFAULT_THRESHOLD = 0.9
"""The threshold on p_now of a DM that has not been calibrated yet."""

_SCORING = "Scoring for the head"
_INDEX_NAME = "model.safetensors.index.json"
_OWN_FILES = (
    *(CARD_NAME, HEAD_NAME, STATE_HEAD_NAME, TRAINED_ON_NAME, SUMS_NAME, SELF_TEST_NAME),
    *("README.md", "promise.json", "promise.png"),
)
"""The files of a DM's folder that are not its text classifier's."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The trained parts of a DM in its folder (None: no such part): the figures of the classifier's training, and the
    state head. `trained_on` are the keys of questions that they were trained on beside those of the records at hand."""

    classifier: dict[str, Any] | None = None
    state_head: TrainedStateHead | None = None
    trained_on: frozenset[str] = field(default_factory=frozenset)

    @property
    def kind(self) -> Kind:
        if self.state_head is None:
            return "text"
        return "head" if self.classifier is None else "fused"

    @property
    def max_tokens(self) -> int:
        """The longest input of the text classifier."""
        return DEFAULT_MAX_TOKENS if self.classifier is None else int(self.classifier["max_tokens"])


def finish_dm(
    data: TrainingData,
    manifest: Manifest,
    trained: Trained,
    folder: Path,
    *,
    states: BoundaryStates | None = None,
    seed: int = 0,
    name: str = "",
) -> DmCard:
    """Fit the fusion head, measure the DM on held-out questions, and write `drr.json`, model card and plots into
    `folder`, which holds the trained parts. `states` are those of all attempts in `data`, where there is a state
    head."""
    judge = Judge(trained.kind, folder, trained.max_tokens, states)
    fitting, questions = fitting_boundaries(data, judge, trained.state_head)
    head = with_temperatures(fit_head(fitting, questions, seed=seed), fitting)
    save_head(head, folder / HEAD_NAME)
    keys = sorted({question_key(rollout.question) for rollout in data.trained_on} | trained.trained_on)
    write_whole(folder / TRAINED_ON_NAME, "\n".join(keys) + "\n")
    metrics: dict[str, Any] = {}
    if data.held_out:
        held_out = judge.boundaries(data.held_out, "Scoring held-out questions")
        parts = fit_parts(head, fitting, questions, fitting, seed)
        metrics = measure(parts, fitting, held_out, data.held_out, folder / "plots")
    settings = manifest.settings
    reasoner = settings["reasoner"]
    figures = {
        "classifier": trained.classifier,
        "state_head": None if trained.state_head is None else trained.state_head.figures,
    }
    card = DmCard(
        id=name or folder.resolve().name,
        reasoner=reasoner["fingerprint"],
        reasoner_name=reasoner["name"],
        step_rule=settings["step_rule"],
        threshold=_DEFAULT_THRESHOLD,
        max_tokens=judge.max_tokens,
        trained_on={
            **{key: settings[key] for key in ("labels", "grader", "temperature", "top_p", "top_k") if key in settings},
            "questions": {
                use: len({rollout.identity for rollout in getattr(data, use)}) for use in TrainingData.__slots__
            },
            **{part: figure for part, figure in figures.items() if figure is not None},
            "versions": manifest.versions,
        },
        metrics=metrics,
        kind=trained.kind,
    )
    card.save(folder)
    write_dm_card(card, folder)
    record_self_test(folder, trained.kind, card.max_tokens, data.trained_on, states)
    write_sums(folder)
    return card


def fitting_boundaries(
    data: TrainingData, judge: Judge, state_head: TrainedStateHead | None
) -> tuple[Boundaries, list[str]]:
    """The boundaries on which the fusion head is fitted, and the questions of the rollouts that their numbers name.

    A text classifier can be judged by on the questions for the head only. A state head comes with the logits of unseen
    questions for everything that trained it, so with nothing else to read, all of it fits the fusion head as well.
    """
    if state_head is None:
        return judge.boundaries(data.head, _SCORING), [rollout.question for rollout in data.head]
    fitting, rollouts = state_head.unseen, data.trained_on
    if judge.kind == "fused":
        rollouts = data.head
        fitting = fused(judge.text_boundaries(rollouts, _SCORING), state_head.unseen_of(rollouts))
    return fitting.where(fitting.judged), [rollout.question for rollout in rollouts]


def measure(
    parts: Mapping[str, FusionHead], fitting: Boundaries, held_out: Boundaries, rollouts: Sequence[Rollout], plots: Path
) -> dict[str, Any]:
    """Figures of `now` on held-out questions for every part of a DM (`fit_parts`) and for trivial signals. Draws the
    pictures into `plots`."""
    now: dict[str, Reals] = {part: scores[:, 0] for part, scores in part_probabilities(parts, held_out).items()}
    draw_dm(now, held_out, plots)
    report = {part: score_report(scores, held_out, rollouts) for part, scores in now.items()}
    return {**report, "baselines": baselines(fitting, held_out)}


def add_state_head(data: TrainingData, states: BoundaryStates, folder: Path, config: StateConfig) -> TrainedStateHead:
    """Train a state head and write it into `folder`."""
    trained = train_state_head(data.trained_on, states, config)
    folder.mkdir(parents=True, exist_ok=True)
    trained.head.save(folder / STATE_HEAD_NAME)
    index_classifier(folder)
    return trained


def index_classifier(folder: Path) -> None:
    """Say in `folder` which file holds the text classifier, if one does: vLLM would take every safetensors file there
    for a part of it."""
    weights = folder / "model.safetensors"
    if weights.is_file():
        with safe_open(weights, "pt") as file:
            names = sorted(file.keys())
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, weights.name)}
        write_whole(folder / _INDEX_NAME, json.dumps(index, indent=2) + "\n")


def copy_classifier(source: Path, data: TrainingData, manifest: Manifest, folder: Path) -> Trained:
    """Copy the text classifier of the DM in `source` into `folder`. InputError if it has none, judges another behaviour
    than that of these records, or was trained on questions that are to measure the new DM."""
    option, card = "--text-dm", DmCard.load(source)
    classifier = card.trained_on.get("classifier")
    if classifier is None:
        raise InputError(option, f"{source} has no text classifier: it is of kind {card.kind}")
    try:
        card.check(manifest.settings["reasoner"]["fingerprint"], StepRule.parse(manifest.settings["step_rule"]))
    except DmMismatchError as error:
        raise InputError(option, f"{source} does not fit the records: {error}") from error
    trained_on = read_trained_on(source)
    seen = {question_key(rollout.question) for rollout in data.held_out} & trained_on
    if seen:
        reason = f"was trained on {len(seen)} of the questions that would measure the new DM: give its --train-share"
        raise InputError(option, f"{source} {reason}")
    folder.mkdir(parents=True, exist_ok=True)
    for path in _classifier_files(source):
        shutil.copyfile(path, folder / path.name)
    return Trained(classifier, None, frozenset(trained_on))


def share_classifier(folder: Path, source: Path) -> None:
    """Let the DM in `folder` use the text classifier in `source`, a folder beside it, instead of its copy of that."""
    for path in _classifier_files(source):
        (folder / path.name).unlink(missing_ok=True)
    (folder / _INDEX_NAME).unlink(missing_ok=True)
    replace(DmCard.load(folder), classifier=os.path.relpath(source, folder)).save(folder)
    write_sums(folder)


def _classifier_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in _OWN_FILES]

"""Where does a DM's skill come from?

`parts`: every part of a DM beside the others on the same boundaries, and beside signals that need no model that judges.
`transfer`: is a head worth anything on a kind of question that it never saw? `learning_curve`: how many questions does
it take? Kinds of question are told by the records' `family`.

All figures are of `now` on test questions, with 95 % intervals over questions (`benchmarks.real.intervals`), as plain
data. Heads are trained, fused and calibrated by the functions behind `drr train`; nothing is written to disk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.real.intervals import Scored, differences, figures
from benchmarks.real.signals import by_confidence, by_embeddings, read_embeddings
from drr.cli.common import complete_records
from drr.errors import InputError
from drr.judge.dm_folder import DmCard, read_trained_on
from drr.judge.head import FusionHead
from drr.learn.arrays import Reals
from drr.learn.boundaries import Boundaries
from drr.learn.fusion import fit_head, probabilities, with_temperatures
from drr.learn.judging import Judge, fit_parts, fused, part_probabilities
from drr.learn.records import Rollout, question_key, read_rollouts, share_of
from drr.learn.state_config import StateConfig
from drr.learn.states import BoundaryStates, read_states
from drr.learn.train_split import split_for_training
from drr.learn.train_state import TrainedStateHead, state_logits, train_state_head

SIZES = (100, 300, 1000)
SEEDS = (0, 1, 2)

_CONFIG = StateConfig()

_LEAST_QUESTIONS = 20

_ALL_TRAIN = 1.0
"""Share of the training records that trains: test questions come from records of their own."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """Behaviour records: the attempts with a step, and the Reasoner's states at their boundaries."""

    rollouts: Sequence[Rollout]
    states: BoundaryStates

    @classmethod
    def load(cls, folder: Path, reasoner: str | None = None) -> Self:
        """The records in `folder`. States that are not kept there yet are computed with `reasoner`. InputError if the
        records are not complete, or states are needed and cannot be had."""
        states = read_states(folder, complete_records(folder), reasoner)
        return cls([rollout for rollout in read_rollouts(folder) if rollout.steps], states)

    @property
    def families(self) -> list[str]:
        return sorted({rollout.family for rollout in self.rollouts})


@dataclass(frozen=True, slots=True)
class MadeHead:
    """A DM of kind head, and the boundaries that its fusion was fitted on."""

    state: TrainedStateHead
    fusion: FusionHead
    fitting: Boundaries

    @property
    def questions(self) -> list[str]:
        """The questions of the rollouts that trained it."""
        return [rollout.question for rollout in self.state.rollouts]

    def scored(self, rollouts: Sequence[Rollout], states: BoundaryStates) -> Scored:
        boundaries = state_logits(self.state.head, rollouts, states)
        return Scored(probabilities(self.fusion, boundaries)[:, 0], boundaries, rollouts)


def parts(
    train: Attempts,
    test: Attempts,
    *,
    text_dm: Path | None = None,
    reasoner: str | None = None,
    config: StateConfig = _CONFIG,
) -> dict[str, Any]:
    """Every part of a DM made from `train`, on the boundaries of `test`, over all questions and by family.

    The parts are state, behaviour and head (both); with `text_dm`, a finished DM with a text classifier that was made
    from the same records, also text and fused (all). With `reasoner`, a folder or id, there is `embeddings`, and
    `log-probability` where the records have it. `against_head` has by how much each part's AUROC exceeds the head's.
    InputError if a test question was trained on.
    """
    _check_apart(train.rollouts, test.rollouts)
    head = learn(train.rollouts, train.states, config)
    tested, seed = head.scored(test.rollouts, test.states).data, config.seed
    fitted = fit_parts(head.fusion, head.fitting, head.questions, head.fitting, seed)
    scores: dict[str, Reals] = {name: found[:, 0] for name, found in part_probabilities(fitted, tested).items()}
    data = split_for_training(train.rollouts, _ALL_TRAIN)
    if text_dm is not None:
        _check_text_dm(text_dm, test)
        fitting = _with_text(head.state.unseen_of(data.head), data.head, text_dm)
        fitting, read = fitting.where(fitting.judged), _with_text(tested, test.rollouts, text_dm)
        questions = [rollout.question for rollout in data.head]
        more = part_probabilities(fit_parts(_fused(fitting, questions, seed), fitting, questions, fitting, seed), read)
        scores |= {name: more[name][:, 0] for name in ("text", "fused")}
    if reasoner is not None:
        scores["embeddings"] = by_embeddings(data, test.rollouts, read_embeddings(reasoner))
    if (confidence := by_confidence(head.fitting, tested)) is not None:
        scores["log-probability"] = confidence
    scored = {name: Scored(found, tested, test.rollouts) for name, found in scores.items()}
    whole = scored.get("head", scored["state"])  # without behaviour features a head is its state head
    return {
        "questions": {"test": _count(test.rollouts), "trained": _count(head.state.rollouts)},
        "parts": {name: {"all": figures(one), "families": _by_family(one)} for name, one in scored.items()},
        "against_head": {name: differences(one, whole) for name, one in scored.items() if one is not whole},
    }


def transfer(train: Attempts, test: Attempts, *, config: StateConfig = _CONFIG) -> dict[str, Any]:
    """For each family in `test`, the figures on its test boundaries of a head made from all other families (`others`),
    from every family (`all`), and from that family (`alone`). `gained` is by how much the first AUROC exceeds that of
    `alone`, and that of `all`. InputError if a test question was trained on, or there is no other family."""
    _check_apart(train.rollouts, test.rollouts)
    if len(train.families) < 2:
        raise InputError("records", "hold one family of questions: there is nothing to transfer from", field="family")

    @cache
    def head(families: frozenset[str]) -> MadeHead:
        return learn([one for one in train.rollouts if one.family in families], train.states, config)

    every, found = frozenset(train.families), {}
    for family in test.families:
        asked = [rollout for rollout in test.rollouts if rollout.family == family]
        sources = {"others": every - {family}, "all": every, "alone": every & {family}}
        made = {name: head(source) for name, source in sources.items() if source}
        scored = {name: one.scored(asked, test.states) for name, one in made.items()}
        found[family] = {
            "questions": {name: _count(one.state.rollouts) for name, one in made.items()},
            **{name: figures(one) for name, one in scored.items()},
            "gained": {name: differences(scored["others"], one) for name, one in scored.items() if name != "others"},
        }
    return found


def learning_curve(
    train: Attempts,
    test: Attempts,
    *,
    sizes: Sequence[int] = SIZES,
    seeds: Sequence[int] = SEEDS,
    config: StateConfig = _CONFIG,
) -> list[dict[str, Any]]:
    """By number of training questions, a head's figures on all test boundaries.

    For every size below the number of questions there is a run for each seed, which chooses the questions (`subset`)
    and starts the training; with all questions there is one. `mean` and `range` (least and most) are over the runs.
    InputError if a test question was trained on.
    """
    _check_apart(train.rollouts, test.rollouts)
    available = _count(train.rollouts)
    chosen = [(size, seeds) for size in sorted(sizes) if size < available]
    curve = []
    for size, tried in [*chosen, (available, seeds[:1])]:
        runs = []
        for seed in tried:
            settings = replace(config, seed=seed)
            head = learn(subset(train.rollouts, size, seed), train.states, settings)
            runs.append({"seed": seed, **figures(head.scored(test.rollouts, test.states))})
        curve.append({"questions": size, "runs": runs, **_over_runs(runs)})
    return curve


def subset(rollouts: Sequence[Rollout], questions: int, seed: int) -> list[Rollout]:
    """The rollouts of so many questions, chosen by a hash of each question and `seed`. With the same seed, a smaller
    number of questions is part of a larger one."""
    identities = {rollout.identity for rollout in rollouts}
    order = sorted(identities, key=lambda question: share_of(question, f"curve {seed}"))
    chosen = {*order[:questions]}
    return [rollout for rollout in rollouts if rollout.identity in chosen]


def learn(rollouts: Sequence[Rollout], states: BoundaryStates, config: StateConfig) -> MadeHead:
    """A head made from all of the rollouts. InputError if they are too few for that."""
    if _count(rollouts) < _LEAST_QUESTIONS:
        raise InputError("records", f"hold {_count(rollouts)} questions to train on; {_LEAST_QUESTIONS} are needed")
    state = train_state_head(rollouts, states, config)
    fitting = state.unseen.where(state.unseen.judged)
    return MadeHead(state, _fused(fitting, [rollout.question for rollout in rollouts], config.seed), fitting)


def _fused(fitting: Boundaries, questions: Sequence[str], seed: int) -> FusionHead:
    return with_temperatures(fit_head(fitting, questions, seed=seed), fitting)


def _with_text(state: Boundaries, rollouts: Sequence[Rollout], dm: Path) -> Boundaries:
    """The boundaries of `rollouts` with the logits of the text classifier of `dm` before those of the state head."""
    card = DmCard.load(dm)
    text = Judge("text", dm, card.max_tokens).boundaries(rollouts)
    return fused(text, state)


def _by_family(scored: Scored) -> dict[str, Any]:
    return {family: figures(part) for family, part in scored.by_family().items()}


def _over_runs(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and range over the runs of the figures that a curve is drawn of."""
    values = {
        **{name: [run[name]["auroc"] for run in runs] for name in ("all", "last", "within_question_last")},
        "ece": [run["all"]["ece"] for run in runs],
    }
    known = {name: of_runs for name, of_runs in values.items() if None not in of_runs}
    return {
        "mean": {name: round(float(np.mean(of_runs)), 4) for name, of_runs in known.items()},
        "range": {name: [min(of_runs), max(of_runs)] for name, of_runs in known.items()},
    }


def _check_apart(train: Sequence[Rollout], test: Sequence[Rollout]) -> None:
    both = {rollout.identity for rollout in train} & {rollout.identity for rollout in test}
    if both:
        raise InputError("records", f"{len(both)} test questions are among those that train")


def _check_text_dm(dm: Path, test: Attempts) -> None:
    """InputError if the DM has no text classifier, or was trained on questions that are to test it."""
    if DmCard.load(dm).kind == "head":
        raise InputError(str(dm), "has no text classifier: it is of kind head")
    seen = {question_key(rollout.question) for rollout in test.rollouts} & read_trained_on(dm)
    if seen:
        raise InputError(str(dm), f"was trained on {len(seen)} test questions")


def _count(rollouts: Sequence[Rollout]) -> int:
    return len({rollout.identity for rollout in rollouts})

"""Figures of scores with 95 % intervals.

The figures are those of `drr.learn.dm_metrics`. Here they get intervals, from a bootstrap that draws whole questions
with all their attempts and boundaries: boundaries of one question are much alike and do not count one by one. The draws
depend on the number of questions and the seed only. So scores at the same boundaries are resampled alike, and the
difference between two of them gets an interval as well, a narrower one than theirs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drr.learn.arrays import Flags, Reals
from drr.learn.boundaries import Boundaries
from drr.learn.dm_metrics import best_of, phase_masks, score_report, within_question_auroc
from drr.learn.records import Rollout

RESAMPLES = 500
_EDGES = (2.5, 97.5)
_CHUNK = 20_000_000
"""Numbers in one array of weights: 160 MB."""

_WITHIN = {"within_question_first": "first", "within_question_last": "last"}


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores [N] of `now` at all boundaries of `rollouts`, each of which has some. `data` holds these boundaries,
    rollout by rollout."""

    scores: Reals
    data: Boundaries
    rollouts: Sequence[Rollout]

    @property
    def question(self) -> NDArray[np.int64]:
        """[R] the number of every rollout's question, in the order in which they come first."""
        identities = [rollout.identity for rollout in self.rollouts]
        numbers = {identity: number for number, identity in enumerate(dict.fromkeys(identities))}
        return np.asarray([numbers[identity] for identity in identities], dtype=np.int64)

    def by_family(self) -> dict[str, "Scored"]:
        """The scores at the boundaries of each family's rollouts, families in alphabetical order."""
        families = np.asarray([rollout.family for rollout in self.rollouts])
        return {str(family): self._of(families == family) for family in np.unique(families)}

    def _of(self, kept: Flags) -> "Scored":
        mask = kept[self.data.rollout]
        data = self.data.where(mask)
        renumbered = np.cumsum(kept) - 1
        rollouts = [self.rollouts[number] for number in np.flatnonzero(kept)]
        return Scored(self.scores[mask], replace(data, rollout=renumbered[data.rollout]), rollouts)


def figures(scored: Scored, seed: int = 0) -> dict[str, Any]:
    """The figures of `score_report` but those by step, with an `interval` beside every AUROC, intervals of `best_of`,
    and the numbers of questions and attempts. None stands for what cannot be told."""
    report = score_report(scored.scores, scored.data, scored.rollouts)
    del report["by_step"]
    for name, values in resamples(scored, seed).items():
        report[name]["interval"] = interval(values[1:])
    if report["best_of"]["questions"]:
        report["best_of"] |= _best_of_intervals(scored, seed)
    counts = {"questions": len(set(scored.question.tolist())), "attempts": len(scored.rollouts)}
    return {**counts, **report}


def differences(one: Scored, other: Scored, seed: int = 0) -> dict[str, Any]:
    """By how much the AUROC of `one` exceeds that of `other` at the same boundaries, with an interval, over all
    boundaries, by phase and within questions. ValueError if the boundaries are others."""
    if len(one.scores) != len(other.scores) or not np.array_equal(one.data.rollout, other.data.rollout):
        raise ValueError("scores at other boundaries cannot be compared")
    mine, theirs = resamples(one, seed), resamples(other, seed)
    apart = {name: values - theirs[name] for name, values in mine.items()}
    return {name: _with_interval(values) for name, values in apart.items() if np.isfinite(values[0])}


def interval(values: Reals) -> list[float] | None:
    """The two edges between which 95 % of the resampled values lie; None if no resample has a value."""
    finite = values[np.isfinite(values)]
    return [round(float(edge), 4) for edge in np.percentile(finite, _EDGES)] if len(finite) else None


def resamples(scored: Scored, seed: int = 0) -> dict[str, Reals]:
    """By the names that `score_report` gives its AUROC figures, [1 + RESAMPLES] the figure itself and that of every
    resample. NaN where there are no two labels to tell apart."""
    data, drawn = scored.data, draws(int(scored.question.max()) + 1, seed)
    question = scored.question[data.rollout]
    masks = {"all": np.ones(len(data.now), dtype=bool), **phase_masks(data)}
    graded = {name: mask & data.known for name, mask in masks.items()}
    found = {
        name: resampled_auroc(scored.scores[mask], data.now[mask], question[mask], drawn)
        for name, mask in graded.items()
        if mask.any()
    }
    for name, phase in _WITHIN.items():
        mask = graded[phase]
        found[name] = resampled_within(scored.scores[mask], data.now[mask], question[mask], drawn)
    return found


def draws(questions: int, seed: int = 0) -> NDArray[np.int64]:
    """[1 + RESAMPLES, questions] how often each resample holds each question; row 0 is the questions as they are."""
    drawn = np.random.default_rng(seed).multinomial(questions, np.full(questions, 1 / questions), RESAMPLES)
    return np.concatenate([np.ones((1, questions), dtype=np.int64), drawn])


def resampled_auroc(scores: Reals, labels: Flags, question: NDArray[np.int64], drawn: NDArray[np.int64]) -> Reals:
    """[R] the AUROC in every resample: `drawn` [R, Q] is how often it holds each question, `question` [N] whose a score
    is. NaN where a resample holds one label only."""
    order = np.argsort(scores, kind="stable")
    right, owner = labels[order], question[order]
    ties = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])  # where another score begins
    found = []
    for part in np.array_split(drawn, -(-len(scores) * len(drawn) // _CHUNK)):
        weights = part[:, owner].astype(np.float64)
        rights = np.add.reduceat(weights * right, ties, axis=1)
        wrongs = np.add.reduceat(weights * ~right, ties, axis=1)
        below = np.cumsum(wrongs, axis=1) - wrongs / 2  # an equal score counts half
        found.append(_shares((rights * below).sum(1), rights.sum(1) * wrongs.sum(1)))
    return np.concatenate(found)


def resampled_within(scores: Reals, labels: Flags, question: NDArray[np.int64], drawn: NDArray[np.int64]) -> Reals:
    """[R] the AUROC within questions in every resample, as `resampled_auroc`. NaN where it has no question with both
    labels."""
    won, pairs = np.zeros(drawn.shape[1]), np.zeros(drawn.shape[1])
    for number in np.unique(question):
        members = question == number
        auroc, mixed = within_question_auroc(scores[members], labels[members], [""] * int(members.sum()))
        if auroc is not None and mixed:
            pairs[number] = labels[members].sum() * (~labels[members]).sum()
            won[number] = auroc * pairs[number]
    return _shares(drawn @ won, drawn @ pairs)


def _best_of_intervals(scored: Scored, seed: int) -> dict[str, Any]:
    """Intervals of the accuracies of `best_of`, and by how much the choice by score beats the majority's."""
    ends, question = scored.scores[phase_masks(scored.data)["last"]], scored.question
    alone: list[Mapping[str, float]] = []
    for number in range(int(question.max()) + 1):
        members = np.flatnonzero(question == number)
        found = best_of(ends[members], [scored.rollouts[member] for member in members])
        if found["questions"]:
            alone.append(found)
    drawn = draws(len(alone), seed)
    means = {
        name: drawn @ np.asarray([one[name] for one in alone]) / len(alone)
        for name in ("by_score", "random", "majority", "oracle")
    }
    return {
        "intervals": {name: interval(values[1:]) for name, values in means.items()},
        "over_majority": _with_interval(means["by_score"] - means["majority"]),
    }


def _with_interval(apart: Reals) -> dict[str, Any]:
    return {"difference": round(float(apart[0]), 4), "interval": interval(apart[1:])}


def _shares(parts: Reals, wholes: Reals) -> Reals:
    return np.asarray(np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0))

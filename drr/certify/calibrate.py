"""Make a calibration: from a judge's scores at recorded boundaries to rules with a stated risk."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drr.certify.calibrate_config import MAX_LOST_POINTS, RISKS
from drr.certify.replay import Replay, RuleTable, candidate_rules
from drr.certify.thresholds import (
    DELTA,
    certify,
    choose_default,
    choose_rethink,
    drift_histogram,
    order_rules,
    questions_needed,
)
from drr.judge.calibration import Calibration, Certificate
from drr.judge.dm_folder import HEAD_NAME, DmCard, load_dm_head
from drr.judge.dm_sums import SUMS_NAME, write_sums
from drr.judge.head import FusionHead, save_head
from drr.learn.arrays import Reals
from drr.learn.boundaries import Boundaries
from drr.learn.dm_card import write_dm_card
from drr.learn.fusion import probabilities, with_temperatures
from drr.learn.judging import Judge
from drr.learn.records import Manifest, Rollout, question_key, share_of
from drr.learn.states import BoundaryStates
from drr.loop.rule import Rule

_SALT = "calibration"
_TEMPERATURE_SHARE, _RULE_SHARE = 0.12, 0.18
CERTIFIED_SHARE = 1 - _TEMPERATURE_SHARE - _RULE_SHARE
"""The share of the questions on which rules are tested."""

ACCEPTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Levels of p_now that are tried as the level of acceptance, for a judge whose scores are probabilities."""

GIVE_UPS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Levels of p_later that are tried for giving an attempt up if another one is left, for such a judge."""

_SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "dtype")


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Rollouts by use: to fit temperatures, to choose the order of the tests, and for the tests themselves. No question
    is in two of them."""

    temperature: list[Rollout]
    order: list[Rollout]
    test: list[Rollout]


def split_for_calibration(rollouts: Sequence[Rollout], trained_on: set[str]) -> CalibrationData:
    """The rollouts of questions that training never saw, split by question. The question's text decides."""
    data = CalibrationData([], [], [])
    for rollout in rollouts:
        if not rollout.steps or question_key(rollout.question) in trained_on:
            continue
        position = share_of(rollout.question, _SALT)
        if position < _TEMPERATURE_SHARE:
            data.temperature.append(rollout)
        elif position < _TEMPERATURE_SHARE + _RULE_SHARE:
            data.order.append(rollout)
        else:
            data.test.append(rollout)
    return data


def calibrate(
    card: DmCard,
    data: CalibrationData,
    manifest: Manifest,
    folder: Path,
    *,
    states: BoundaryStates | None = None,
    risks: Sequence[float] = RISKS,
    max_lost_points: float = MAX_LOST_POINTS,
) -> tuple[DmCard, RuleTable]:
    """Fit temperatures, certify rules and choose the default rule; write head, `drr.json` and model card into `folder`.
    `states` are the Reasoner's at the boundaries of `data`, for a DM that has a state head.

    Returns the new card, and what every rule does to the questions for the order and for the tests, taken together.
    """
    head = load_dm_head(folder)
    judge = Judge(head.kind, folder, card.max_tokens, states)
    scored = {name: judge.boundaries(getattr(data, name)) for name in CalibrationData.__slots__}
    head = with_temperatures(head, scored["temperature"])
    order = replay_of(data.order, scored["order"], head)
    test = replay_of(data.test, scored["test"], head)
    calibration, outcomes = calibration_of(
        order, test, candidate_rules(), ACCEPTS, GIVE_UPS, data, manifest, risks=risks, max_lost_points=max_lost_points
    )
    replace(card, calibration=None).save(folder)  # the old promises do not hold for the new head's scores
    (folder / SUMS_NAME).unlink(missing_ok=True)
    save_head(head, folder / HEAD_NAME)
    default = calibration.rules["default"]
    threshold = 1.0 if default.threshold is None else default.threshold
    card = replace(card, threshold=threshold, patience=default.patience, calibration=calibration.to_json())
    card.save(folder)
    write_dm_card(card, folder)
    write_sums(folder)
    return card, outcomes


def calibration_of(
    order: Replay,
    test: Replay,
    rules: Sequence[Rule],
    accepts: Sequence[float],
    give_ups: Sequence[float],
    data: CalibrationData,
    manifest: Manifest,
    *,
    risks: Sequence[float],
    max_lost_points: float,
) -> tuple[Calibration, RuleTable]:
    """Certify `rules`, and choose among them and among levels of acceptance (`accepts`) and of giving up (`give_ups`).

    `order` and `test` hold the judge's scores. Also returns what every rule does to the questions of both together.
    """
    ordering, table = order.table(rules), test.table(rules)
    certificates, refused = certify_all(table, order_rules(ordering, ordering.lost), risks)
    sequence = order_rules(ordering, -ordering.accuracy_change)
    default, kept = choose_default(table, sequence, max_lost_points)
    calibration = Calibration(
        confidence=1 - DELTA,
        source=str(manifest.settings.get("questions_key", "")),
        labels=str(manifest.settings["labels"]),
        questions={
            name: len({rollout.identity for rollout in getattr(data, name)}) for name in CalibrationData.__slots__
        },
        right=int(table.full_right[table.first_of_each_question()].sum()),
        sampling={name: manifest.settings[name] for name in _SAMPLING if name in manifest.settings},
        certificates=tuple(certificates),
        refused=refused,
        drift=drift_histogram(test.first_p_later()),
        default={
            "rule": rules[default].to_json(),
            "max_lost_points": max_lost_points,
            "kept": kept,
            "saved": round(float(table.saved[default]), 4),
            "accuracy_change_points": round(float(table.accuracy_change[default]), 2),
            "lost_correct_rate": round(float(table.lost_rate[default]), 4),
        },
        rethink=thinking_again(test, [rules[index] for index in sequence], accepts, give_ups),
    )
    return calibration, ordering.joined(table)


def thinking_again(
    replay: Replay, rules: Sequence[Rule], accepts: Sequence[float], give_ups: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """The settings for thinking again, with stopping early (`auto`) and without it (`rethink`); empty if the questions
    have too few attempts."""
    chosen = {
        "auto": choose_rethink(replay, rules, accepts, give_ups),
        "rethink": choose_rethink(replay, [Rule(None)], accepts, give_ups),
    }
    return {mode: choice for mode, choice in chosen.items() if choice is not None}


def certify_all(
    table: RuleTable, sequence: Sequence[int], risks: Sequence[float]
) -> tuple[list[Certificate], dict[str, str]]:
    """The certificates, and for each risk without one the reason."""
    right = int(table.full_right[table.first_of_each_question()].sum())
    certificates, refused = [], {}
    for risk in risks:
        needed = questions_needed(risk)
        if right < needed:
            refused[f"{risk:g}"] = (
                f"needs at least {needed} test questions that full thinking gets right, there are {right}"
            )
            continue
        found = certify(table, sequence, risk)
        if found is None:
            refused[f"{risk:g}"] = "even the safest rule lost too many answers"
        else:
            certificates.append(found)
    return certificates, refused


def replay_of(rollouts: Sequence[Rollout], scored: Boundaries, head: FusionHead) -> Replay:
    """A replay of the rollouts with the DM's calibrated scores."""
    return Replay(rollouts, by_rollout(probabilities(head, scored), scored, len(rollouts)))


def by_rollout(scores: Reals, data: Boundaries, rollouts: int) -> list[Reals]:
    """[N, 2] scores cut into one array [steps, 2] per rollout."""
    ends = [*(data.rollout.searchsorted(number) for number in range(rollouts)), len(scores)]
    return [scores[start:end] for start, end in itertools.pairwise(ends)]

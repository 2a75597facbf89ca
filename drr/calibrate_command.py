"""`drr calibrate`: honest probabilities, and thresholds with a stated risk, on questions that training never saw."""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from drr.boundaries import Boundaries, Reals, score_boundaries
from drr.calibration import (
    DELTA,
    RISKS,
    Calibration,
    Certificate,
    certify,
    choose_default,
    drift_histogram,
    order_rules,
    questions_needed,
)
from drr.dm import HEAD_NAME, DmCard, load_dm_head, read_trained_on
from drr.dm_card import default_in_words, graded_against, write_dm_card
from drr.errors import InputError
from drr.fusion import probabilities, with_temperatures
from drr.head import FusionHead, save_head
from drr.records import Manifest, Rollout, question_key, read_rollouts, share_of
from drr.replay import Replay, RuleTable, candidate_rules

_SALT = "calibration"
_TEMPERATURE_SHARE, _RULE_SHARE = 0.12, 0.18
_SAMPLING = ("temperature", "top_p", "top_k", "max_tokens")


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Rollouts by use, no question in two of them: temperatures, the order of the tests, the tests themselves."""

    temperature: list[Rollout]
    order: list[Rollout]
    test: list[Rollout]


def split_data(rollouts: Sequence[Rollout], trained_on: set[str]) -> CalibrationData:
    """The rollouts of questions that training never saw, split by the question's own text."""
    data = CalibrationData([], [], [])
    for rollout in rollouts:
        if not rollout.steps or question_key(rollout.question) in trained_on:
            continue
        at = share_of(rollout.question, _SALT)
        if at < _TEMPERATURE_SHARE:
            data.temperature.append(rollout)
        elif at < _TEMPERATURE_SHARE + _RULE_SHARE:
            data.order.append(rollout)
        else:
            data.test.append(rollout)
    return data


def run(options: argparse.Namespace) -> None:
    """Run the command; InputError says what is wrong with its options or data."""
    card, manifest = DmCard.load(options.dm), Manifest.load(options.data)
    _check_match(card, manifest, options)
    risks = tuple(sorted(set(options.risk or RISKS)))
    for risk in risks:
        if not 0 < risk < 1:
            raise InputError("--risk", f"must lie between 0 and 1, not {risk}")
    data = split_data(read_rollouts(options.data), read_trained_on(options.dm))
    _check_enough(data, risks, options)
    card, outcomes = calibrate(card, data, manifest, options.dm, risks=risks, max_lost_points=options.max_lost_points)
    show(card, options.dm)
    if options.check:
        check(outcomes, options.dm, risks, options.check)


def check(outcomes: RuleTable, folder: Path, risks: Sequence[float], splits: int) -> None:
    """Repeat the calibration on random splits of its questions and say how often the promise held."""
    from drr.promise import check_promise, summary, write_promise

    results = [summary(check_promise(outcomes, risk, splits), risk) for risk in risks]
    write_promise(results, folder)
    console = Console()
    for own in results:
        kept = "-" if own["share_of_oracle"] is None else f"{100 * own['share_of_oracle']:.0f} %"
        console.print(
            f"{100 * own['max_lost_correct']:g} %: within on {own['within']} of {own['splits']} splits "
            f"({own['certified']} certified, surely above on {own['surely_above']}); saves "
            f"{100 * own['mean_saved']:.1f} %, {kept} of what the best rule in hindsight would",
            highlight=False,
        )


def calibrate(
    card: DmCard,
    data: CalibrationData,
    manifest: Manifest,
    folder: Path,
    *,
    risks: Sequence[float] = RISKS,
    max_lost_points: float = 1.0,
) -> tuple[DmCard, RuleTable]:
    """Fit temperatures, certify rules, choose the default rule; writes head, `drr.json` and model card.

    Also returns what every rule does to the questions for order and tests together.
    """
    scored = {name: _scored(getattr(data, name), folder, card.max_tokens) for name in CalibrationData.__slots__}
    head = with_temperatures(load_dm_head(folder), scored["temperature"])
    order = replay_of(data.order, scored["order"], head)
    test = replay_of(data.test, scored["test"], head)
    rules = candidate_rules()
    ordering, table = order.table(rules), test.table(rules)
    certificates, refused = certify_all(table, order_rules(ordering, ordering.lost), risks)
    default, kept = choose_default(table, order_rules(ordering, -ordering.accuracy_change), max_lost_points)
    calibration = Calibration(
        confidence=1 - DELTA,
        source=str(manifest.settings.get("questions_key", "")),
        labels=str(manifest.settings["labels"]),
        questions={name: len({own.question for own in getattr(data, name)}) for name in CalibrationData.__slots__},
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
    )
    replace(card, calibration=None).save(folder)  # no promise stands while its scores change
    save_head(head, folder / HEAD_NAME)
    card = replace(
        card, threshold=rules[default].threshold, patience=rules[default].patience, calibration=calibration.to_json()
    )
    card.save(folder)
    write_dm_card(card, folder)
    return card, ordering.joined(table)


def certify_all(
    table: RuleTable, sequence: Sequence[int], risks: Sequence[float]
) -> tuple[list[Certificate], dict[str, str]]:
    """A certificate for every risk that has one, and the reason where there is none."""
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
    """The rollouts with the DM's calibrated scores, ready for replaying rules."""
    return Replay(rollouts, by_rollout(probabilities(head, scored), scored, len(rollouts)))


def by_rollout(scores: Reals, data: Boundaries, rollouts: int) -> list[Reals]:
    """[N, 2] scores cut into one array [steps, 2] per rollout."""
    ends = [*(data.rollout.searchsorted(number) for number in range(rollouts)), len(scores)]
    return [scores[start:end] for start, end in itertools.pairwise(ends)]


def _scored(rollouts: Sequence[Rollout], folder: Path, max_tokens: int) -> Boundaries:
    return score_boundaries(rollouts, folder, max_tokens, "Scoring")


def _check_match(card: DmCard, manifest: Manifest, options: argparse.Namespace) -> None:
    if not manifest.complete:
        raise InputError(str(options.data), "is not complete yet: run drr distill again to finish it")
    if manifest.settings.get("labels") == "recorded":
        reason = "holds recorded solutions: without answers forced at every boundary no rule can be certified"
        raise InputError(str(options.data), reason, field="now")
    reasoner = manifest.settings["reasoner"]
    unknown = not card.reasoner  # distilled from a server without its weights at hand: the name must do
    if reasoner["fingerprint"] != card.reasoner or (unknown and reasoner["name"] != card.reasoner_name):
        raise InputError(
            str(options.data), f"is the behaviour of {reasoner['name']}, the DM judges {card.reasoner_name}"
        )
    if manifest.settings["step_rule"] != card.step_rule:
        raise InputError(
            str(options.data), f"was cut by {manifest.settings['step_rule']}, the DM judges steps by {card.step_rule}"
        )


def _check_enough(data: CalibrationData, risks: Sequence[float], options: argparse.Namespace) -> None:
    right = len({own.question for own in data.test if own.later})
    needed = questions_needed(max(risks))
    if not data.temperature or not data.order or right < needed:
        share = 1 - _TEMPERATURE_SHARE - _RULE_SHARE
        wanted = ", ".join(f"{questions_needed(risk):,} for {100 * risk:g} %" for risk in risks)
        raise InputError(
            str(options.data),
            f"leaves {right} questions to certify on that full thinking gets right and training never saw. Needed: "
            f"{wanted}. About {100 * share:.0f} % of the questions outside training are used for this; roll out more "
            "questions, or a folder of new ones (one rollout each is enough)",
        )


def show(card: DmCard, folder: Path) -> None:
    """Print what is certified and what is not."""
    assert card.calibration is not None
    own = Calibration.from_json(card.calibration)
    console = Console()
    table = Table(
        title=f"Certified with {100 * own.confidence:g} % confidence on {own.right:,} questions{graded_against(own)}"
    )
    for column in ("lost at most", "p_now", "in a row", "or p_later", "or gain", "lost", "saved", "accuracy"):
        table.add_column(column, justify="right")
    for one in own.certificates:
        rule = one.rule
        table.add_row(
            f"{100 * one.max_lost_correct:g} %",
            f"{rule.threshold:g}",
            str(rule.patience),
            "-" if rule.hopeless is None else f"<= {rule.hopeless:g}",
            "-" if rule.min_gain is None else f"<= {rule.min_gain:g}",
            f"{one.lost} of {one.right}",
            f"{100 * one.saved:.1f} %",
            f"{one.accuracy_change:+.1f}",
        )
    console.print(table)
    for risk, reason in own.refused.items():
        console.print(f"{100 * float(risk):g} %: no certificate: {reason}", highlight=False)
    console.print(f"{default_in_words(own)} Written into {folder}.", highlight=False)

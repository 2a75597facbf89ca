"""`drr calibrate`: calibrate probabilities and certify thresholds, on questions that training never saw."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drr.certify.calibrate_config import CalibrateConfig
from drr.certify.scorer_names import asking, check_names
from drr.checks import check_out_folder, check_range
from drr.cli.common import check_server, complete_records, served_at
from drr.cli.parser import config_from, given, needed
from drr.cli.useless import refuse_useless
from drr.engine.dm_files import check_dm
from drr.engine.model_source import check_model
from drr.errors import InputError
from drr.judge.calibration import Calibration
from drr.judge.dm_folder import STATE_HEAD_NAME, DmCard, read_trained_on
from drr.learn.records import Manifest, Rollout, read_rollouts


def run(options: argparse.Namespace) -> None:
    """Run the command; InputError says what is wrong with its options or data."""
    config = check(options)
    card = check_dm(options.dm, "--dm") if options.dm is not None else None
    manifest = complete_records(options.data)
    _check_usable(manifest, options)
    if card is None:
        _run_scorers(options, manifest, config)
    else:
        _run_dm(options, card, manifest, config)


def check(options: argparse.Namespace) -> CalibrateConfig:
    """What is asked for; InputError names an option that is wrong, missing or of no use."""
    if (options.dm is None) == (options.scorer is None):
        raise InputError("--scorer", "give either a DM to calibrate (--dm) or scorers that need none (--scorer)")
    refuse_useless("calibrate", options)
    risks = None if options.risks is None else tuple(sorted(set(options.risks)))
    config = config_from(CalibrateConfig, options, risks=risks)
    if options.scorer is None:
        return config
    needed(options, "out", "is needed: the folder for the scorers' calibrations")
    check_out_folder("--out", options.out)
    check_names(options.scorer, options.prm)
    if options.limit is not None:
        check_range("--limit", options.limit, least=1)
    asks = asking(options.scorer)
    if asks and options.server:
        check_server(options)
    elif asks:
        needed(options, "reasoner", f"is needed: {asks[0]} asks the Reasoner (or --server)")
    for name in ("reasoner", "server"):
        if not asks and given(options, name):
            raise InputError(f"--{name}", f"has no effect: {options.scorer[0]} does not ask the Reasoner")
    return config


def _run_dm(options: argparse.Namespace, card: DmCard, manifest: Manifest, config: CalibrateConfig) -> None:
    _check_match(card, manifest, options)
    trained_on = read_trained_on(options.dm)
    if card.kind == "text" and given(options, "reasoner"):
        raise InputError("--reasoner", f"has no effect: {card.id} has no state head")
    if card.kind != "text":
        from drr.engine.state_head import StateHead

        StateHead.load(options.dm / STATE_HEAD_NAME)
    from drr.certify.calibrate import calibrate, split_for_calibration
    from drr.learn.states import read_states

    data = split_for_calibration(read_rollouts(options.data), trained_on)
    _check_enough([len(data.temperature), len(data.order)], data.test, options, config)
    states = None if card.kind == "text" else read_states(options.data, manifest, options.reasoner)
    card, outcomes = calibrate(
        card, data, manifest, options.dm, states=states, risks=config.risks, max_lost_points=config.max_lost_points
    )
    assert card.calibration is not None
    show(Calibration.from_json(card.calibration), options.dm)
    if config.check:
        check_promises(outcomes, options.dm, config.risks, config.check)


def _run_scorers(options: argparse.Namespace, manifest: Manifest, config: CalibrateConfig) -> None:
    for model, option in ((options.prm, "--prm"), (None if options.server else options.reasoner, "--reasoner")):
        if model is not None:
            check_model(model, option)
    from rich.console import Console

    from drr.certify.calibrate import CalibrationData, split_for_calibration

    data = split_for_calibration(_of_questions(read_rollouts(options.data), options.limit), set())
    data = CalibrationData([], [*data.temperature, *data.order], data.test)  # these scorers have no temperatures
    _check_enough([len(data.order)], data.test, options, config)
    from drr.certify.calibrate_scorers import calibrate_scorers

    for card in calibrate_scorers(data, manifest, options, config, served_at(options)):
        Console().print(f"[bold]{card.scorer}[/bold] on {card.reasoner_name}", highlight=False)
        show(Calibration.from_json(card.calibration), options.out)


def _of_questions(rollouts: Sequence[Rollout], limit: int | None) -> list[Rollout]:
    """The rollouts of the first `limit` questions."""
    wanted = set(list(dict.fromkeys(rollout.identity for rollout in rollouts))[:limit])
    return [rollout for rollout in rollouts if rollout.identity in wanted]


def check_promises(outcomes: Any, folder: Path, risks: Sequence[float], splits: int) -> None:
    """Repeat the calibration on random splits of its questions, and print and write how often the promise held.
    `outcomes` is the RuleTable that the calibration returned."""
    from rich.console import Console

    from drr.certify.promise import check_promise, summary, write_promise

    results = [summary(check_promise(outcomes, risk, splits), risk) for risk in risks]
    write_promise(results, folder)
    console = Console()
    for result in results:
        share = "-" if result["share_of_oracle"] is None else f"{100 * result['share_of_oracle']:.0f} %"
        console.print(
            f"{100 * result['max_lost_correct']:g} %: within on {result['within']} of {result['splits']} splits "
            f"({result['certified']} certified, surely above on {result['surely_above']}); saves "
            f"{100 * result['mean_saved']:.1f} %, {share} of what the best rule in hindsight would",
            highlight=False,
        )


def _check_usable(manifest: Manifest, options: argparse.Namespace) -> None:
    if manifest.settings.get("labels") == "recorded":
        reason = "holds recorded solutions: without answers forced at every boundary no rule can be certified"
        raise InputError(str(options.data), reason, field="now")


def _check_match(card: DmCard, manifest: Manifest, options: argparse.Namespace) -> None:
    reasoner = manifest.settings["reasoner"]
    unknown = not card.reasoner  # distilled from a server whose weights were not at hand: only the name is known
    if reasoner["fingerprint"] != card.reasoner or (unknown and reasoner["name"] != card.reasoner_name):
        raise InputError(
            str(options.data), f"is the behaviour of {reasoner['name']}, the DM judges {card.reasoner_name}"
        )
    if manifest.settings["step_rule"] != card.step_rule:
        raise InputError(
            str(options.data), f"was cut by {manifest.settings['step_rule']}, the DM judges steps by {card.step_rule}"
        )


def _check_enough(
    others: Sequence[int], test: Sequence[Rollout], options: argparse.Namespace, config: CalibrateConfig
) -> None:
    """InputError if one of the `others`, counts of rollouts, is 0, or if `test` has too few questions."""
    from drr.certify.calibrate import CERTIFIED_SHARE
    from drr.certify.thresholds import questions_needed

    first = {rollout.identity: rollout for rollout in reversed(test)}
    right = sum(rollout.later for rollout in first.values())
    risks = config.risks
    if not all(others) or right < questions_needed(max(risks)):
        wanted = ", ".join(f"{questions_needed(risk):,} for {100 * risk:g} %" for risk in risks)
        raise InputError(
            str(options.data),
            f"leaves {right} questions to certify on that full thinking gets right and training never saw. Needed: "
            f"{wanted}. About {100 * CERTIFIED_SHARE:.0f} % of the questions outside training are used for this; "
            "roll out more questions, or a folder of new ones (one rollout each is enough)",
        )


def show(calibration: Calibration, folder: Path) -> None:
    """Print what is certified and what is not."""
    from rich.console import Console
    from rich.table import Table

    from drr.learn.dm_card import default_in_words, graded_against, rethink_in_words

    console = Console()
    table = Table(
        title=f"Certified with {100 * calibration.confidence:g} % confidence on {calibration.right:,} "
        f"questions{graded_against(calibration)}"
    )
    for column in ("lost at most", "p_now", "in a row", "or p_later", "or gain", "lost", "saved", "accuracy"):
        table.add_column(column, justify="right")
    for certificate in calibration.certificates:
        rule = certificate.rule
        table.add_row(
            f"{100 * certificate.max_lost_correct:g} %",
            "-" if rule.threshold is None else f"{rule.threshold:.4g}",
            str(rule.patience),
            "-" if rule.hopeless is None else f"<= {rule.hopeless:.3g}",
            "-" if rule.min_gain is None else f"<= {rule.min_gain:.3g}",
            f"{certificate.lost} of {certificate.right}",
            f"{100 * certificate.saved:.1f} %",
            f"{certificate.accuracy_change:+.1f}",
        )
    console.print(table)
    for risk, reason in calibration.refused.items():
        console.print(f"{100 * float(risk):g} %: no certificate: {reason}", highlight=False)
    console.print(
        " ".join([default_in_words(calibration), *rethink_in_words(calibration), f"Written into {folder}."]),
        highlight=False,
    )

"""`drr eval`: compare strategies on a set of questions, with every token counted."""

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, get_args

from rich.console import Console

from drr.checks import check_out_folder, check_range
from drr.cli.common import check_server, step_rule
from drr.cli.over_limits import show_over_limits
from drr.cli.parser import config_from, given, needed
from drr.cli.useless import refuse_useless
from drr.engine.devices import prepare_environment
from drr.engine.dm_files import check_dm
from drr.engine.model_source import check_model
from drr.errors import InputError
from drr.evaluate.eval_config import EvalConfig
from drr.evaluate.strategies import ATTEMPTS, FULL, Strategy, all_strategies
from drr.evaluate.strategy_names import select_strategies
from drr.judge.calibration import Calibration
from drr.judge.dm_folder import DmCard
from drr.judge.scorer_card import ScorerCard, load_cards
from drr.judge.scorers.registry import ScorerName
from drr.learn.distill_folder import questions_key
from drr.learn.records import question_key
from drr.tasks import Question
from drr.tasks.sources import load_questions

if TYPE_CHECKING:  # what grades brings sympy, which no mistake in an option has to wait for
    from drr.loop.chat.said import Tier
    from drr.tasks.grading_pool import Grading

DEFAULT_SCORERS: tuple[ScorerName, ...] = ("confidence", "logprob", "entropy", "answer_probe", "self_critique")
"""Those that are compared unless others are asked for."""

CHAT_SCORERS: tuple[ScorerName, ...] = ("self_critique", "critique")
"""The same through chat completions, where a tier allows them."""


@dataclass(frozen=True, slots=True)
class Judges:
    """The cards of the judges: the DM's, and those that drr calibrate --scorer wrote."""

    dm: DmCard | None
    scorers: list[ScorerCard]

    @classmethod
    def load(cls, dm: Path | None, calibration: Path | None) -> Self:
        """Read the cards from the DM's folder and from the folder of the scorers' cards."""
        return cls(
            None if dm is None else DmCard.load(dm),
            [] if calibration is None else load_cards(calibration),
        )

    def calibrations(self) -> dict[str, Calibration]:
        """The calibrations by scorer, of those that have one."""
        found = {card.scorer: card.calibration for card in self.scorers}
        if self.dm is not None and self.dm.calibration is not None:
            found["dm"] = self.dm.calibration
        return {name: Calibration.from_json(calibration) for name, calibration in found.items()}

    def state(self) -> str | None:
        """12 hex digits that identify the scorers' calibrations; None without any."""
        if not self.scorers:
            return None
        return question_key("\n".join(json.dumps(asdict(card), sort_keys=True) for card in self.scorers))


def run(options: argparse.Namespace) -> None:
    """Run the command; InputError says what is wrong with its options or input."""
    config = check(options)
    from drr.tasks.grading_pool import Grading

    with Grading(options.grader or "auto") as grading:
        if not options.report:
            _run_missing(options, config, grading)
        _report(options, grading)


def _run_missing(options: argparse.Namespace, config: EvalConfig, grading: "Grading") -> None:
    """Run the strategies that the output folder lacks."""
    judges = Judges.load(options.dm, options.calibration)
    beside = options.prm is not None or (judges.dm is not None and judges.dm.kind != "head")
    if options.use_cache is not None and beside:
        reason = "is not for a judge beside the Reasoner's engine: how much is thought while it judges would not show"
        raise InputError("--use-cache", reason)
    if options.server and judges.dm is not None and judges.dm.kind != "text":
        reason = f"{judges.dm.id} reads hidden states, which no server gives; one of kind text can judge"
        raise InputError("--dm", reason)
    config, everything = _with_nudge_cue(config, judges), _everything(options, judges)
    strategies = [] if options.chat else _chosen(options, everything)
    loaded = load_questions(
        options.questions,
        question_column=options.question_column,
        answer_column=options.answer_column,
        limit=options.limit,
    )
    for sentence in loaded.told():
        Console().print(sentence, highlight=False, markup=False)
    questions = _gradable(loaded.questions, grading)
    if options.chat:
        _run_chat(options, config, judges, everything, questions, grading)
    else:
        asyncio.run(_evaluate(options, config, judges, strategies, questions, grading))


def _gradable(questions: list[Question], grading: "Grading") -> list[Question]:
    """The questions whose gold answer can be used. Prints which cannot; InputError if none can."""
    from drr.tasks.grading_pool import gold_faults

    faults = dict(gold_faults(grading, [question.answer for question in questions]))
    for place, reason in faults.items():
        row = questions[place].row or place + 1
        Console().print(f"set aside: row {row}, answer: {reason}", highlight=False, markup=False)
    if len(faults) == len(questions):
        raise InputError("questions", f"no gold answer can be used; the first {next(iter(faults.values()))}")
    return [question for place, question in enumerate(questions) if place not in faults]


def check(options: argparse.Namespace) -> EvalConfig:
    """The settings that are asked for; InputError names an option that is wrong, missing or of no use."""
    refuse_useless("eval", options)
    config = config_from(EvalConfig, options, step_rule=step_rule(options))
    if options.limit is not None:
        check_range("--limit", options.limit, least=1)
    for count in options.attempts or ():
        check_range("--attempts", count, least=2)
    _check_scorers(options)
    check_out_folder("--out", options.out)
    if options.report:
        if not any(options.out.glob("*.parquet")):
            raise InputError(str(options.out), "holds no outcomes: run drr eval")
    elif options.server:
        check_server(options, chat=bool(options.chat))
    else:
        needed(options, "reasoner", "is needed: a Hugging Face folder or id (or --server)")
    return config


def _check_scorers(options: argparse.Namespace) -> None:
    known = [name for name in get_args(ScorerName) if name not in ("dm", "prm", "stated")]
    for name in options.scorer or ():
        if name not in known:
            hint = {"dm": " (--dm brings the DM)", "prm": " (--prm brings one)"}.get(name, "")
            raise InputError("--scorer", f"{name!r} is none of {', '.join(known)}{hint}")


def _report(options: argparse.Namespace, grading: "Grading") -> None:
    from drr.evaluate.report import ALL
    from drr.evaluate.tables import table
    from drr.evaluate.write import PLOT_NAME, REPORT_NAME, write_report

    results = write_report(options.out, grading)
    title = f"{options.questions}: gain and savings against {FULL}, 95 % intervals"
    console = Console(width=130)
    console.print(table(results["groups"][ALL], title))
    where = f"All tables are in {options.out / REPORT_NAME}, the picture is {options.out / PLOT_NAME}"
    console.print(where, highlight=False)
    show_over_limits(console, results["over_limits"])


def _with_nudge_cue(config: EvalConfig, judges: Judges) -> EvalConfig:
    return config if judges.dm is None else replace(config, nudge_cue=judges.dm.nudge_cue)


def _scorers(options: argparse.Namespace) -> list[ScorerName]:
    """The scorers that are compared."""
    brought: list[ScorerName] = ["dm"] if options.dm is not None else []
    brought += ["prm"] if options.prm is not None else []
    return [*brought, *dict.fromkeys(options.scorer or (CHAT_SCORERS if options.chat else DEFAULT_SCORERS))]


def _everything(options: argparse.Namespace, judges: Judges) -> list[Strategy]:
    """Every strategy that there is with these judges."""
    scorers, attempts = _scorers(options), sorted(set(options.attempts or ATTEMPTS))
    calibrations = judges.calibrations()
    if judges.scorers and not any(card.scorer in scorers for card in judges.scorers):
        names = ", ".join(card.scorer for card in judges.scorers)
        raise InputError("--calibration", f"is of {names}: not compared here (--scorer, --prm)")
    return all_strategies(scorers, calibrations, attempts)


def _chosen(options: argparse.Namespace, everything: list[Strategy]) -> list[Strategy]:
    """The strategies that are asked for."""
    if not options.strategy:
        return everything
    try:
        return select_strategies(everything, options.strategy)
    except ValueError as error:
        raise InputError("--strategy", f"{error}{_brought_by(options)}") from error


def _brought_by(options: argparse.Namespace) -> str:
    """Which option would bring the strategies that were asked for; empty where none would."""
    attempts = sorted(set(options.attempts or ATTEMPTS))
    for name in get_args(ScorerName):
        if name == "stated" or name in _scorers(options):
            continue
        everything = all_strategies([*_scorers(options), name], {}, attempts)
        try:
            select_strategies(everything, options.strategy)
        except ValueError:
            continue
        option = {"dm": "--dm", "prm": "--prm"}.get(name, f"--scorer {name}")
        return f"\nIt needs {option}."
    return ""


def _check_uncalibrated(calibrations: Mapping[str, Calibration], questions: Sequence[Question]) -> None:
    """InputError if a judge's rules were chosen on the same questions."""
    key = questions_key(questions)
    for name, calibration in calibrations.items():
        if calibration.source == key:
            raise InputError("questions", f"are those that {name} was calibrated on: choose others")


def _tell_other_sampling(calibrations: Mapping[str, Calibration], temperature: float, dtype: str | None = None) -> None:
    """Say which calibrations were made with other sampling, or with a Reasoner that computed in another data type."""
    for name, calibration in calibrations.items():
        calibrated_at = calibration.sampling.get("temperature", temperature)
        if calibrated_at != temperature:
            note = (
                f"{name} was calibrated at temperature {calibrated_at:g}, not {temperature:g}: "
                "its promises do not hold here"
            )
            Console().print(note, highlight=False)
        computed = calibration.sampling.get("dtype")
        if computed != dtype:
            made, here = (f"--dtype {one}" if one else "the usual --dtype" for one in (computed, dtype))
            note = f"{name} was calibrated with {made}, not with {here}: its promises do not hold here"
            Console().print(note, highlight=False, soft_wrap=True)


def _run_chat(
    options: argparse.Namespace,
    config: EvalConfig,
    judges: Judges,
    everything: list[Strategy],
    questions: list[Question],
    grading: "Grading",
) -> None:
    """Run the strategies that `options.out` lacks through chat completions."""
    _check_uncalibrated(judges.calibrations(), questions)
    if options.dm is not None:
        check_dm(options.dm, "--dm")
    prepare_environment(quiet=True)
    from drr.cli.eval_run import run_chat_strategies
    from drr.engine.upstream.judging import SCORERS
    from drr.evaluate.chat_run import possible

    def choose(tier: "Tier") -> list[Strategy]:
        unfit = [name for name in options.scorer or () if name not in SCORERS[tier]]
        if unfit:
            known = ", ".join(SCORERS[tier])
            raise InputError(
                "--scorer", f"{unfit[0]} needs what this server does not give (tier {tier}); {known} do not"
            )
        return _chosen(options, possible(everything, tier, greedy=given(options, "temperature")))

    asyncio.run(run_chat_strategies(options, config, judges.dm, choose, questions, grading))


async def _evaluate(
    options: argparse.Namespace,
    config: EvalConfig,
    judges: Judges,
    strategies: list[Strategy],
    questions: list[Question],
    grading: "Grading",
) -> None:
    """Run the strategies that `options.out` lacks."""
    _check_uncalibrated(judges.calibrations(), questions)
    _tell_other_sampling(judges.calibrations(), config.temperature, options.dtype)
    if not options.server:
        check_model(options.reasoner, "--reasoner")
    if options.dm is not None:
        check_dm(options.dm, "--dm")
    if options.prm is not None:
        check_model(options.prm, "--prm")
    prepare_environment(quiet=True)
    from drr.cli.eval_run import run_strategies

    await run_strategies(options, config, judges.dm, judges.scorers, judges.state(), strategies, questions, grading)

"""`drr eval`: compare strategies on a set of questions, with every token counted."""

import argparse
import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, get_args

from rich.console import Console

from drr.cli.over_limits import show_over_limits
from drr.engine.devices import beside_judges, prepare_environment
from drr.engine.open_reasoner import OpenReasoner, open_engine
from drr.errors import InputError
from drr.evaluate.report import ALL
from drr.evaluate.run import EvalConfig, Evaluator, evaluate, recorded_settings
from drr.evaluate.strategies import ATTEMPTS, FULL, Strategy, all_strategies, select_strategies
from drr.evaluate.tables import table
from drr.evaluate.write import PLOT_NAME, REPORT_NAME, write_report
from drr.judge.calibration import Calibration
from drr.judge.dm_folder import DEFAULT_NUDGE_CUE, DmCard, DmMismatchError, dm_state, read_trained_on
from drr.judge.scorer_card import ScorerCard, load_cards, model_key
from drr.judge.scorers.registry import ScorerName, training_free
from drr.learn.distill import LEAST_ROOM
from drr.learn.distill_folder import questions_key
from drr.learn.records import question_key
from drr.loop.reasoner import user_prompt
from drr.loop.scoring import Scorer
from drr.loop.steps import StepRule
from drr.tasks import Question
from drr.tasks.grading_pool import Grading, gold_faults
from drr.tasks.sources import load_questions


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
    with Grading(options.grader) as grading:
        results = _results(options, grading)
    console = Console(width=130)
    title = f"{options.questions}: gain and savings against {FULL}, 95 % intervals"
    console.print(table(results["groups"][ALL], title))
    where = f"All tables are in {options.out / REPORT_NAME}, the picture is {options.out / PLOT_NAME}"
    console.print(where, highlight=False)
    show_over_limits(console, results["over_limits"])


def _results(options: argparse.Namespace, grading: Grading) -> dict[str, Any]:
    """Run the strategies that the output folder lacks, unless only a report is wanted, and write the report."""
    if not options.report:
        judges = Judges.load(options.dm, options.calibration)
        config, strategies = _config(options, judges), _strategies(options, judges)
        loaded = load_questions(
            options.questions,
            question_column=options.question_column,
            answer_column=options.answer_column,
            limit=options.limit,
        )
        for sentence in loaded.told():
            Console().print(sentence, highlight=False, markup=False)
        questions = _gradable(loaded.questions, grading)
        prepare_environment(quiet=True)
        asyncio.run(_evaluate(options, config, judges, strategies, questions, grading))
    return write_report(options.out, grading)


def _gradable(questions: list[Question], grading: Grading) -> list[Question]:
    """The questions whose gold answer can be used. Prints which cannot; InputError if none can."""
    faults = dict(gold_faults(grading, [question.answer for question in questions]))
    for place, reason in faults.items():
        row = questions[place].row or place + 1
        Console().print(f"set aside: row {row}, answer: {reason}", highlight=False, markup=False)
    if len(faults) == len(questions):
        raise InputError("questions", f"no gold answer can be used; the first {next(iter(faults.values()))}")
    return [question for place, question in enumerate(questions) if place not in faults]


def _config(options: argparse.Namespace, judges: Judges) -> EvalConfig:
    try:
        rule = StepRule.parse(options.step_rule)
    except ValueError as error:
        raise InputError("--step-rule", str(error)) from error
    if not 0 < options.temperature <= 2:
        raise InputError("--temperature", f"must be above 0 and at most 2, not {options.temperature}")
    if options.max_tokens < 16:
        raise InputError("--max-tokens", f"must be at least 16, not {options.max_tokens}")
    if options.concurrency < 1:
        raise InputError("--concurrency", f"must be at least 1, not {options.concurrency}")
    return EvalConfig(
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        seed=options.seed,
        step_rule=rule,
        nudge_cue=DEFAULT_NUDGE_CUE if judges.dm is None else judges.dm.nudge_cue,
        concurrency=options.concurrency,
    )


def _strategies(options: argparse.Namespace, judges: Judges) -> list[Strategy]:
    scorers: list[ScorerName] = options.scorer or ["confidence", "logprob", "entropy", "answer_probe", "self_critique"]
    for name in scorers:
        if name not in get_args(ScorerName) or name in ("dm", "prm", "stated"):
            raise InputError("--scorer", f"{name!r} is none of {', '.join(training_free())}")
    attempts = sorted(set(options.attempts or ATTEMPTS))
    if attempts[0] < 2:
        raise InputError("--attempts", f"must be at least 2, not {attempts[0]}")
    if options.prm is not None:
        scorers = ["prm", *scorers]
    if options.dm is not None:
        scorers = ["dm", *scorers]
    everything = all_strategies(scorers, judges.calibrations(), attempts)
    try:
        return select_strategies(everything, options.strategy) if options.strategy else everything
    except ValueError as error:
        raise InputError("--strategy", str(error)) from error


def _check_dm(card: DmCard, folder: Path, reasoner: str, config: EvalConfig, questions: Sequence[Question]) -> None:
    """InputError if the DM was made for another Reasoner or trained on some of these questions."""
    try:
        card.check(reasoner, config.step_rule)
    except DmMismatchError as error:
        raise InputError("--dm", str(error)) from error
    learned = read_trained_on(folder)
    seen = sum(question_key(question.text) in learned for question in questions)
    if seen:
        raise InputError("--dm", f"was trained on {seen} of these {len(questions)} questions: choose others")


def _check_uncalibrated(calibrations: Mapping[str, Calibration], questions: Sequence[Question]) -> None:
    """InputError if a judge's rules were chosen on the same questions."""
    key = questions_key(questions)
    for name, calibration in calibrations.items():
        if calibration.source == key:
            raise InputError("questions", f"are those that {name} was calibrated on: choose others")


def _tell_other_sampling(calibrations: Mapping[str, Calibration], temperature: float) -> None:
    for name, calibration in calibrations.items():
        calibrated_at = calibration.sampling.get("temperature", temperature)
        if calibrated_at != temperature:
            note = (
                f"{name} was calibrated at temperature {calibrated_at:g}, not {temperature:g}: "
                "its promises do not hold here"
            )
            Console().print(note, highlight=False)


def _that_fit(questions: list[Question], reasoner: OpenReasoner) -> list[Question]:
    """The questions that leave the Reasoner room to think. Prints how many do not; InputError if all do not."""
    fitting = [
        question
        for question in questions
        if len(user_prompt(reasoner.tokenizer, question.text)) + LEAST_ROOM < reasoner.max_model_len
    ]
    if len(fitting) < len(questions):
        left = len(questions) - len(fitting)
        Console().print(f"{left} questions are too long for the Reasoner and left out", highlight=False)
    if not fitting:
        raise InputError("questions", "are all too long for the Reasoner")
    return fitting


async def _evaluate(
    options: argparse.Namespace,
    config: EvalConfig,
    judges: Judges,
    strategies: list[Strategy],
    questions: list[Question],
    grading: Grading,
) -> None:
    from drr.engine.open_dm import open_dm
    from drr.engine.open_prm import open_prm

    _check_uncalibrated(judges.calibrations(), questions)
    _tell_other_sampling(judges.calibrations(), config.temperature)
    async with contextlib.AsyncExitStack() as stack:
        scorers: dict[str, Scorer] = dict(training_free())
        if options.dm is not None:
            scorers["dm"] = await stack.enter_async_context(open_dm(options.dm))
        if options.prm is not None:
            scorers["prm"] = await stack.enter_async_context(open_prm(options.prm))
        shares = beside_judges(dm=options.dm is not None, prm=options.prm is not None)
        engine = open_engine(options.reasoner, options.reasoning_parser, options.answer_cue, **shares)
        reasoner = await stack.enter_async_context(engine)
        if judges.dm is not None:
            _check_dm(judges.dm, options.dm, reasoner.fingerprint, config, questions)
        questions = _that_fit(questions, reasoner)
        for card in judges.scorers:
            card.check("--calibration", reasoner.fingerprint, str(config.step_rule), options.prm)
        settings = {
            **recorded_settings(config),
            "reasoner": reasoner.fingerprint or reasoner.name,
            "dm": None if options.dm is None else dm_state(options.dm),
            "prm": None if options.prm is None else model_key(options.prm),
            "grader": options.grader,
            "reasoning_parser": options.reasoning_parser,
            "calibrations": judges.state(),
            **({} if options.answer_cue is None else {"answer_cue": options.answer_cue}),
        }
        evaluator = Evaluator(reasoner, scorers, grading, config)
        await evaluate(evaluator, strategies, questions, options.out, settings)

"""`drr eval`: strategies side by side on a set of questions, every token counted."""

import argparse
import asyncio
import contextlib
import json
from pathlib import Path
from typing import get_args

from rich.console import Console

from drr.calibration import Calibration
from drr.dm import DEFAULT_NUDGE_CUE, DmCard, dm_state
from drr.engines import prepare_environment
from drr.errors import InputError
from drr.eval_report import PLOT_NAME, draw, figures, lines, table
from drr.evaluate import EvalConfig, Evaluator, evaluate, read_outcomes, recorded
from drr.grading import Grader, load_grader
from drr.records import write_whole
from drr.replay import Rule
from drr.scorers import Scorer
from drr.scorers.registry import ScorerName, training_free
from drr.steps import StepRule
from drr.strategies import FULL, Strategy, standard
from drr.tasks import Question
from drr.tasks.sources import load_questions

RESULTS_NAME = "results.json"


def run(options: argparse.Namespace) -> None:
    """Run the command; InputError says what is wrong with its options or input."""
    grade = load_grader(options.grader)
    if not options.report:
        config, strategies = _config(options), _strategies(options)
        loaded = load_questions(
            options.questions,
            question_column=options.question_column,
            answer_column=options.answer_column,
            limit=options.limit,
        )
        prepare_environment(quiet=True)
        asyncio.run(_evaluate(options, config, strategies, loaded.questions, grade))
    rows = figures(lines(read_outcomes(options.out), grade))
    write_whole(options.out / RESULTS_NAME, json.dumps(rows, indent=1) + "\n")
    draw(rows, options.out / PLOT_NAME)
    console = Console(width=130)
    console.print(table(rows, f"{options.questions}: gain and savings against {FULL}, 95 % intervals"))
    console.print(f"The picture is {options.out / PLOT_NAME}", highlight=False)


def _config(options: argparse.Namespace) -> EvalConfig:
    try:
        rule = StepRule.parse(options.step_rule)
    except ValueError as error:
        raise InputError("--step-rule", str(error)) from error
    if not 0 < options.temperature <= 2:
        raise InputError("--temperature", f"must be above 0 and at most 2, not {options.temperature}")
    if options.max_tokens < 16:
        raise InputError("--max-tokens", f"must be at least 16, not {options.max_tokens}")
    return EvalConfig(
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        seed=options.seed,
        step_rule=rule,
        nudge_cue=DEFAULT_NUDGE_CUE if options.dm is None else DmCard.load(options.dm).nudge_cue,
        concurrency=options.concurrency,
    )


def _strategies(options: argparse.Namespace) -> list[Strategy]:
    scorers: list[ScorerName] = options.scorer or ["confidence", "logprob", "entropy", "answer_probe", "self_critique"]
    for name in scorers:
        if name not in get_args(ScorerName) or name in ("dm", "stated"):
            raise InputError("--scorer", f"{name!r} is none of {', '.join(training_free())}")
    attempts = sorted(set(options.attempts or (2, 4, 8)))
    if attempts[0] < 2:
        raise InputError("--attempts", f"must be at least 2, not {attempts[0]}")
    everything = standard(_rules(options.dm), scorers, attempts)
    if not options.strategy:
        return everything
    chosen = [own for own in everything if own.name == FULL or any(part in own.name for part in options.strategy)]
    if len(chosen) == 1:
        raise InputError("--strategy", f"fits none of: {', '.join(own.name for own in everything)}")
    return chosen


def _rules(dm: Path | None) -> dict[str, Rule]:
    """A DM's rules by name: the default one and those certified for a risk."""
    if dm is None:
        return {}
    card = DmCard.load(dm)
    if card.calibration is None:
        return {"default": Rule(card.threshold, card.patience)}
    return Calibration.from_json(card.calibration).rules


async def _evaluate(
    options: argparse.Namespace,
    config: EvalConfig,
    strategies: list[Strategy],
    questions: list[Question],
    grade: Grader,
) -> None:
    from drr.open_dm import open_dm
    from drr.open_reasoner import open_engine

    async with contextlib.AsyncExitStack() as stack:
        scorers: dict[str, Scorer] = dict(training_free())
        if options.dm is not None:
            scorers["dm"] = await stack.enter_async_context(open_dm(options.dm))
        reasoner = await stack.enter_async_context(open_engine(options.reasoner, options.reasoning_parser))
        settings = {
            **recorded(config),
            "reasoner": reasoner.fingerprint or reasoner.name,
            "dm": None if options.dm is None else dm_state(options.dm),
            "grader": options.grader,
        }
        evaluator = Evaluator(reasoner, scorers, grade, config)
        await evaluate(evaluator, strategies, questions, options.out, settings)

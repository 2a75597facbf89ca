"""The part of `drr eval` that needs engines: they are opened, the judges are checked, the strategies are run."""

import argparse
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from drr.cli.common import served_at, server_key
from drr.cli.parser import given
from drr.engine.devices import beside_judges
from drr.engine.generation_cache import open_cache
from drr.engine.open_dm import heads_of, open_dm
from drr.engine.open_prm import open_prm
from drr.engine.open_reasoner import OpenReasoner, check_logprobs, in_precision, open_reasoner
from drr.engine.upstream.cost import Cost
from drr.engine.upstream.open_chat import open_chat
from drr.errors import InputError
from drr.evaluate.chat_run import ChatEvaluator
from drr.evaluate.eval_config import EvalConfig
from drr.evaluate.run import Evaluator, evaluate, recorded_settings
from drr.evaluate.strategies import Strategy
from drr.judge.dm_folder import DmCard, DmMismatchError, dm_state, read_trained_on
from drr.judge.scorer_card import ScorerCard, model_key
from drr.judge.scorers.registry import training_free
from drr.learn.distill import LEAST_ROOM
from drr.learn.records import question_key
from drr.loop.chat.said import Tier
from drr.loop.reasoner import user_prompt
from drr.loop.scoring import Scorer
from drr.tasks import Question
from drr.tasks.grading_pool import Grading


async def run_strategies(
    options: argparse.Namespace,
    config: EvalConfig,
    dm: DmCard | None,
    cards: Sequence[ScorerCard],
    calibrations: str | None,
    strategies: list[Strategy],
    questions: list[Question],
    grading: Grading,
) -> None:
    """Run the strategies that `options.out` lacks. `cards` are those of the scorers' calibrations, which the text
    `calibrations` identifies."""
    async with contextlib.AsyncExitStack() as stack:
        scorers: dict[str, Scorer] = dict(training_free())
        if options.dm is not None:
            scorers["dm"] = await stack.enter_async_context(open_dm(options.dm))
        if options.prm is not None:
            scorers["prm"] = await stack.enter_async_context(open_prm(options.prm))
        has_classifier = dm is not None and dm.kind != "head"
        shares = beside_judges(dm=has_classifier, prm=options.prm is not None)
        parser, precision = options.reasoning_parser or "", in_precision(options.dtype)
        server, name, heads = served_at(options), options.reasoner or "", heads_of(options.dm)
        engine = open_reasoner(server, name, parser, options.answer_cue, heads, **shares, **precision)
        reasoner = await stack.enter_async_context(engine)
        check_logprobs(reasoner, [strategy.scorer for strategy in strategies])
        if dm is not None:
            _check_dm(dm, options.dm, reasoner.fingerprint, config, questions)
        questions = _that_fit(questions, reasoner)
        for card in cards:
            card.check("--calibration", reasoner.fingerprint, str(config.step_rule), options.prm)
        settings = {
            **recorded_settings(config),
            "reasoner": reasoner.fingerprint or reasoner.name,
            "dm": None if options.dm is None else dm_state(options.dm),
            "prm": None if options.prm is None else model_key(options.prm),
            "grader": options.grader or "auto",
            "reasoning_parser": parser,
            "calibrations": calibrations,
            **({} if server is None else {"server": reasoner.name}),
            **({} if options.answer_cue is None else {"answer_cue": options.answer_cue}),
            **precision,
        }
        cache = stack.enter_context(open_cache(options.use_cache, heads))
        evaluator = Evaluator(reasoner, scorers, grading, config, cache)
        await evaluate(evaluator, strategies, questions, options.out, settings)


async def run_chat_strategies(
    options: argparse.Namespace,
    config: EvalConfig,
    dm: DmCard | None,
    choose: Callable[[Tier], list[Strategy]],
    questions: list[Question],
    grading: Grading,
) -> None:
    """Run the strategies that `options.out` lacks through chat completions; `choose` tells those that a tier allows."""
    async with contextlib.AsyncExitStack() as stack:
        opening = open_chat(options.server, options.reasoner or "", server_key(options))
        chat = await stack.enter_async_context(opening)
        strategies = choose(chat.abilities.tier)
        names = ", ".join(one.name for one in strategies)
        line = f"{chat.model} allows tier {chat.abilities.tier}: {names}"
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
        scorers: dict[str, Scorer] = dict(training_free())
        if dm is not None:
            _check_dm(dm, options.dm, dm.reasoner, config, questions)
            told = (
                f"Nobody can check that {dm.id} was trained on what this server serves: its promises do not hold here"
            )
            Console().print(told, highlight=False, markup=False)
            scorers["dm"] = await stack.enter_async_context(open_dm(options.dm))
        sampling = {"temperature": config.temperature} if given(options, "temperature") else {}
        evaluator = ChatEvaluator(chat.client, chat.abilities, chat.model, scorers, grading, config, sampling)
        settings = {
            **recorded_settings(config),
            "temperature": sampling.get("temperature"),
            "seed": None,
            "reasoner": chat.model,
            "chat": chat.abilities.to_json(),
            "dm": None if options.dm is None else dm_state(options.dm),
            "grader": options.grader or "auto",
        }
        await evaluate(evaluator, strategies, questions, options.out, settings)
        _show_cost(evaluator.cost)


def _show_cost(cost: Cost) -> None:
    """Print what the server was asked for."""
    if not cost.requests:
        return
    cached = "" if cost.cached_prompt_tokens is None else f" ({cost.cached_prompt_tokens:,} of them cached)"
    guessed = f"; {cost.estimated_requests:,} requests are estimates" if cost.estimated_requests else ""
    line = (
        f"{cost.requests:,} requests: {cost.prompt_tokens_sent:,} prompt tokens sent{cached}, "
        f"{cost.completion_tokens:,} tokens generated{guessed}"
    )
    Console().print(line, highlight=False, soft_wrap=True)


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

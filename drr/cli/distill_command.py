"""`drr distill`: from options to behaviour records."""

import argparse
import asyncio
import os
from contextlib import AbstractAsyncContextManager
from typing import Any

from rich.console import Console

from drr.cli.over_limits import show_over_limits
from drr.engine.devices import prepare_environment
from drr.errors import InputError
from drr.learn.distill import distill
from drr.learn.distill_config import DistillConfig
from drr.learn.distill_folder import close_folder, folder_settings, open_folder, shard_path
from drr.learn.recorded import load_recorded
from drr.learn.records import MANIFEST_NAME, Manifest, question_key, write_shard
from drr.loop.steps import StepRule
from drr.tasks.grading_pool import Grading
from drr.tasks.sources import Loaded, load_questions

_RECORDED_PER_SHARD = 1000


def run(options: argparse.Namespace) -> None:
    """Run the command; InputError says what is wrong with its options or input."""
    if options.recorded and options.limit is not None:
        raise InputError("--limit", "is not for --recorded: solutions are read whole")
    if options.recorded and options.labels != "gold":
        raise InputError("--labels", "is not for --recorded: solutions bring their own labels")
    config = _config(options)
    manifest = _import_recorded(options, config) if options.recorded else _roll_out(options, config)
    _show(manifest, options)


def _config(options: argparse.Namespace) -> DistillConfig:
    try:
        rule = StepRule.parse(options.step_rule)
    except ValueError as error:
        raise InputError("--step-rule", str(error)) from error
    Grading(options.grader).close()
    return DistillConfig(
        rollouts=options.rollouts,
        extra_rollouts=options.extra_rollouts,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        max_tokens=options.max_tokens,
        answer_tokens=options.answer_tokens,
        seed=options.seed,
        step_rule=rule,
        labels=options.labels,
        grader=options.grader,
        concurrency=options.concurrency,
        answer_cue=options.answer_cue,
    )


def _roll_out(options: argparse.Namespace, config: DistillConfig) -> Manifest:
    loaded = load_questions(
        options.questions,
        question_column=options.question_column,
        answer_column=options.answer_column,
        need_answer=config.labels == "gold",
        limit=options.limit,
    )
    for note in loaded.notes:
        Console().print(note, highlight=False, markup=False)
    prepare_environment(quiet=True)
    return _finished(options, config, loaded) or asyncio.run(_distill(options, config, loaded))


def _finished(options: argparse.Namespace, config: DistillConfig, loaded: Loaded) -> Manifest | None:
    """The manifest of the output folder if it is already complete, so that no engine has to be started; else None.
    InputError if the folder was begun with other settings."""
    from drr.engine.open_reasoner import reasoner_identity

    if options.server or not options.reasoner or not (options.out / MANIFEST_NAME).exists():
        return None
    settings = folder_settings(config, loaded.questions, *reasoner_identity(options.reasoner))
    manifest = open_folder(options.out, settings)
    return manifest if manifest.complete else None


async def _distill(options: argparse.Namespace, config: DistillConfig, loaded: Loaded) -> Manifest:
    async with _reasoner(options) as reasoner:
        return await distill(
            reasoner, loaded.questions, options.out, config, rejects=loaded.rejects, source=options.questions
        )


def _reasoner(options: argparse.Namespace) -> AbstractAsyncContextManager[Any]:
    from drr.engine.open_reasoner import open_engine, open_server

    if options.server:
        if not options.tokenizer:
            raise InputError("--tokenizer", "is needed with --server: the Reasoner's folder or id")
        key = os.environ.get(options.api_key_env)
        parser, cue = options.reasoning_parser, options.answer_cue
        return open_server(options.server, options.reasoner, options.tokenizer, parser, key, cue)
    if not options.reasoner:
        raise InputError("--reasoner", "is needed: a Hugging Face folder or id (or --server, or --recorded)")
    return open_engine(options.reasoner, options.reasoning_parser, options.answer_cue)


def _import_recorded(options: argparse.Namespace, config: DistillConfig) -> Manifest:
    notes: list[str] = []
    with Grading(config.grader) as grading:
        rollouts, rejects = load_recorded(
            options.questions,
            config.step_rule,
            grading,
            question_column=options.question_column,
            answer_column=options.answer_column,
            solution_column=options.solution_column,
            notes=notes,
        )
    for note in notes:
        Console().print(note, highlight=False, markup=False)
    settings = {
        "recorded": options.questions.rpartition("/")[2],
        "step_rule": str(config.step_rule),
        "grader": config.grader,
        "labels": "recorded",
        "reasoner": {"name": options.reasoner or "recorded solutions", "fingerprint": ""},
        "rollouts": len(rollouts),
        "rollouts_key": question_key(repr(rollouts)),
    }
    manifest = open_folder(options.out, settings)
    for start in range(0, len(rollouts), _RECORDED_PER_SHARD):
        over_limits = [] if start else list(map(str, grading.overruns))
        write_shard(
            shard_path(options.out, start), rollouts[start : start + _RECORDED_PER_SHARD], over_limits=over_limits
        )
    return close_folder(options.out, manifest, rejects)


def _show(manifest: Manifest, options: argparse.Namespace) -> None:
    counts = manifest.counts
    console = Console()
    console.print(
        f"{counts['questions']:,} questions ({counts['mixed_questions']:,} with mixed outcomes), "
        f"{counts['rollouts']:,} rollouts ({100 * counts['right_share']:.1f} % right), {counts['boundaries']:,} step "
        f"boundaries, {counts['tokens']:,} tokens, in {options.out}",
        highlight=False,
    )
    for reason, count in counts["rejected_by_reason"].items():
        console.print(f"set aside: {count:,} ({reason})", highlight=False)
    show_over_limits(console, counts.get("over_limits", []))

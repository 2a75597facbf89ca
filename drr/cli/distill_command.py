"""`drr distill`: from options to behaviour records."""

import argparse
import asyncio
import os
from contextlib import AbstractAsyncContextManager
from typing import Any

from rich.console import Console

from drr.checks import check_out_folder, check_range, check_url
from drr.cli.common import step_rule
from drr.cli.options import API_KEY_VARIABLE
from drr.cli.over_limits import show_over_limits
from drr.cli.parser import config_from, needed
from drr.cli.useless import refuse_useless
from drr.engine.devices import prepare_environment
from drr.engine.model_source import TOKENIZER_FILES, check_model
from drr.engine.served import served_model
from drr.errors import InputError
from drr.learn.distill_config import DistillConfig
from drr.learn.distill_folder import close_folder, folder_settings, open_folder, shard_path
from drr.learn.records import MANIFEST_NAME, Manifest, question_key, write_shard
from drr.tasks.sources import Loaded, load_questions

_RECORDED_PER_SHARD = 1000


def run(options: argparse.Namespace) -> None:
    """Run the command; InputError says what is wrong with its options or input."""
    config = check(options)
    from drr.tasks.grading_pool import Grading

    Grading(config.grader).close()  # a grader that cannot be loaded is told at once
    manifest = _import_recorded(options, config) if options.recorded else _roll_out(options, config)
    _show(manifest, options)


def check(options: argparse.Namespace) -> DistillConfig:
    """The settings that are asked for; InputError names an option that is wrong, missing or of no use."""
    refuse_useless("distill", options)
    config = config_from(DistillConfig, options, step_rule=step_rule(options))
    if options.limit is not None:
        check_range("--limit", options.limit, least=1)
    check_out_folder("--out", options.out)
    if options.server:
        check_url("--server", options.server)
        needed(options, "tokenizer", "is needed with --server: the Reasoner's folder or id")
        if options.api_key_env and options.api_key_env not in os.environ:
            raise InputError("--api-key-env", f"the environment has no {options.api_key_env}")
    elif not options.recorded:
        needed(options, "reasoner", "is needed: a Hugging Face folder or id (or --server, or --recorded)")
    return config


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
    if options.server:
        served_model(options.server, options.reasoner or "", os.environ.get(options.api_key_env or API_KEY_VARIABLE))
        check_model(options.tokenizer, "--tokenizer", TOKENIZER_FILES)
    else:
        check_model(options.reasoner, "--reasoner")
    prepare_environment(quiet=True)
    return _finished(options, config, loaded) or asyncio.run(_distill(options, config, loaded))


def _finished(options: argparse.Namespace, config: DistillConfig, loaded: Loaded) -> Manifest | None:
    """The manifest of the output folder if it is already complete, so that no engine has to be started; else None.
    InputError if the folder was begun with other settings."""
    from drr.engine.open_reasoner import reasoner_identity

    if options.server or not (options.out / MANIFEST_NAME).exists():
        return None
    settings = folder_settings(config, loaded.questions, *reasoner_identity(options.reasoner))
    manifest = open_folder(options.out, settings)
    return manifest if manifest.complete else None


async def _distill(options: argparse.Namespace, config: DistillConfig, loaded: Loaded) -> Manifest:
    from drr.engine.generation_cache import open_cache
    from drr.learn.distill import distill

    async with _reasoner(options) as opened:
        with open_cache(options.use_cache) as cache:
            reasoner = opened if cache is None else cache.before(opened)
            return await distill(
                reasoner, loaded.questions, options.out, config, rejects=loaded.rejects, source=options.questions
            )


def _reasoner(options: argparse.Namespace) -> AbstractAsyncContextManager[Any]:
    from drr.engine.open_reasoner import in_precision, open_engine, open_server

    parser, cue = options.reasoning_parser or "", options.answer_cue
    if options.server:
        key = os.environ.get(options.api_key_env or API_KEY_VARIABLE)
        return open_server(options.server, options.reasoner or "", options.tokenizer, parser, key, cue)
    return open_engine(options.reasoner, parser, cue, **in_precision(options.dtype))


def _import_recorded(options: argparse.Namespace, config: DistillConfig) -> Manifest:
    from drr.learn.recorded import load_recorded
    from drr.tasks.grading_pool import Grading

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

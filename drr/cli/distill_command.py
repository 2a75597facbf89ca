"""`drr distill`: from options to behaviour records."""

import argparse
import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from rich.console import Console

from drr.checks import check_out_folder, check_range
from drr.cli.common import check_server, served_at, server_key, step_rule
from drr.cli.over_limits import show_over_limits
from drr.cli.parser import config_from, given, needed
from drr.cli.useless import refuse_useless
from drr.engine.devices import prepare_environment
from drr.engine.model_source import TOKENIZER_FILES, check_model
from drr.engine.served import served_model
from drr.errors import InputError
from drr.learn.distill_config import DistillConfig
from drr.learn.distill_folder import FROM_LOG, close_folder, folder_settings, open_folder, shard_path
from drr.learn.from_log import Choosing, Logged, read_logged
from drr.learn.records import MANIFEST_NAME, Manifest, question_key, write_shard
from drr.tasks.sources import Loaded, load_questions

_RECORDED_PER_SHARD = 1000

_ENDS = {"answer": "their answers", "close": "their thinking", "cut": "a cut"}

_FEW_ROLLOUTS = {"rollouts": 1, "extra_rollouts": 0}
"""Of questions whose answers are known and that a log brings attempts at."""


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
    own = dict(_FEW_ROLLOUTS) if options.from_log and options.labels != "consistency" else {}
    own = {name: value for name, value in own.items() if not given(options, name)}
    config = config_from(DistillConfig, options, step_rule=step_rule(options), **own)
    if options.per_question is not None:
        check_range("--per-question", options.per_question, least=1)
    if not options.questions and not (options.from_log and config.labels == "consistency"):
        reason = "are needed: the answers to the log's questions (or --labels consistency)"
        raise InputError("questions", reason if options.from_log else "are needed, or --from-log")
    if options.limit is not None:
        check_range("--limit", options.limit, least=1)
    check_out_folder("--out", options.out)
    if options.server:
        check_server(options, chat=bool(options.chat))
    elif not options.recorded:
        needed(options, "reasoner", "is needed: a Hugging Face folder or id (or --server, or --recorded)")
    return config


def _roll_out(options: argparse.Namespace, config: DistillConfig) -> Manifest:
    loaded = _load(options, config)
    for note in loaded.notes:
        Console().print(note, highlight=False, markup=False)
    if options.chat:
        return asyncio.run(_distill_chat(options, config, loaded))
    if options.server:
        served_model(options.server, options.reasoner or "", server_key(options))
        check_model(options.tokenizer, "--tokenizer", TOKENIZER_FILES)
    else:
        check_model(options.reasoner, "--reasoner")
    prepare_environment(quiet=True)
    logged = _logged(options, loaded) if options.from_log else None
    if logged is not None:
        config = _as_logged(options, config, logged)
        loaded = replace(loaded, questions=logged.questions[: options.limit])
    return _finished(options, config, loaded, logged) or asyncio.run(_distill(options, config, loaded, logged))


async def _distill_chat(options: argparse.Namespace, config: DistillConfig, loaded: Loaded) -> Manifest:
    """Record attempts through chat completions alone."""
    from drr.engine.upstream.open_chat import open_chat
    from drr.learn.chat_distill import distill_chat

    sampling = {name: getattr(config, name) for name in ("temperature", "top_p") if given(options, name)}
    async with open_chat(options.server, options.reasoner or "", server_key(options)) as chat:
        tier = chat.abilities.tier
        labelled = "every step boundary" if tier == "prefix" else "whole attempts only"
        Console().print(f"{chat.model} allows tier {tier}: labels at {labelled}", highlight=False, markup=False)
        return await distill_chat(
            chat.client,
            chat.abilities,
            chat.model,
            loaded.questions,
            options.out,
            config,
            sampling,
            rejects=loaded.rejects,
            source=options.questions,
        )


def _load(options: argparse.Namespace, config: DistillConfig) -> Loaded:
    """The questions; with --from-log the answers to its questions, if any."""
    if not options.questions:
        return Loaded()
    return load_questions(
        options.questions,
        question_column=options.question_column,
        answer_column=options.answer_column,
        need_answer=config.labels == "gold",
        limit=None if options.from_log else options.limit,
    )


def _logged(options: argparse.Namespace, loaded: Loaded) -> Logged:
    """What the log holds to learn from. A folder of records that has been begun is continued with the same files,
    whatever the server has logged since."""
    from drr.engine.open_reasoner import reasoner_identity

    names = None
    if (options.out / MANIFEST_NAME).exists():
        names = (Manifest.load(options.out).settings.get(FROM_LOG) or {}).get("files")
    reasoner = reasoner_identity(options.tokenizer if options.server else options.reasoner)[1]
    if not reasoner:
        raise InputError(
            "--from-log", "needs the Reasoner's weights, by which its responses are known; they are not here"
        )
    limits = {} if options.per_question is None else {"per_question": options.per_question}
    choosing = Choosing(reasoner, continue_cut=bool(options.continue_cut), **limits)
    return read_logged(options.from_log, choosing, loaded.questions if options.questions else None, names)


def _as_logged(options: argparse.Namespace, config: DistillConfig, logged: Logged) -> DistillConfig:
    """The settings, new attempts drawn as most of the log was, where options do not say."""
    usual = logged.usual
    if usual is None:
        return config
    own = {name: getattr(usual, name) for name in ("temperature", "top_p", "top_k") if not given(options, name)}
    return replace(config, **own)


def _finished(
    options: argparse.Namespace, config: DistillConfig, loaded: Loaded, logged: Logged | None
) -> Manifest | None:
    """The manifest of the output folder if it is already complete, so that no engine has to be started; else None.
    InputError if the folder was begun with other settings."""
    from drr.engine.open_reasoner import reasoner_identity

    if options.server or not (options.out / MANIFEST_NAME).exists():
        return None
    settings = folder_settings(config, loaded.questions, *reasoner_identity(options.reasoner), logged)
    manifest = open_folder(options.out, settings)
    return manifest if manifest.complete else None


async def _distill(
    options: argparse.Namespace, config: DistillConfig, loaded: Loaded, logged: Logged | None
) -> Manifest:
    from drr.engine.generation_cache import open_cache
    from drr.learn.distill import distill

    async with _reasoner(options) as opened:
        with open_cache(options.use_cache) as cache:
            reasoner = opened if cache is None else cache.before(opened)
            return await distill(
                reasoner,
                loaded.questions,
                options.out,
                config,
                rejects=loaded.rejects,
                source=options.questions or str(options.from_log),
                logged=logged,
            )


def _reasoner(options: argparse.Namespace) -> AbstractAsyncContextManager[Any]:
    from drr.engine.open_reasoner import in_precision, open_reasoner

    parser, cue = options.reasoning_parser or "", options.answer_cue
    return open_reasoner(served_at(options), options.reasoner or "", parser, cue, **in_precision(options.dtype))


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
    about = manifest.settings.get(FROM_LOG)
    if about is not None:
        ends = ", ".join(f"{count:,} ending with {_ENDS[end]}" for end, count in about["ends"].items())
        console.print(f"{about['used']:,} of {about['responses']:,} logged responses: {ends}", highlight=False)
        for reason, count in about["left_out"].items():
            console.print(f"left out: {count:,} ({reason})", highlight=False)
    show_over_limits(console, counts.get("over_limits", []))

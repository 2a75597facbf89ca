"""Options that have no effect beside others: refused by name, so that nothing is ignored in silence."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from drr.cli.parser import given, option_name
from drr.errors import InputError
from drr.learn.train_config import DEFAULT_KIND, TrainConfig
from drr.tasks.reference_suite import MAKERS


@dataclass(frozen=True, slots=True)
class Useless:
    """Where `where` holds, `options` (by their names in the namespace) have no effect, for this `reason`."""

    where: Callable[[argparse.Namespace], bool]
    options: tuple[str, ...]
    reason: str


def _has(name: str) -> Callable[[argparse.Namespace], bool]:
    return lambda options: given(options, name)


def _has_not(*names: str) -> Callable[[argparse.Namespace], bool]:
    return lambda options: not any(given(options, name) for name in names)


def _is_kind(kind: str) -> Callable[[argparse.Namespace], bool]:
    return lambda options: (options.kind or DEFAULT_KIND) == kind


def _made(options: argparse.Namespace) -> bool:
    task, colon, _ = str(options.questions).partition(":")
    named = task in MAKERS or (task == "reference" and bool(colon))
    return named and not given(options, "report") and not Path(options.questions).exists()


def _from_log_by_consistency(options: argparse.Namespace) -> bool:
    return given(options, "from_log") and options.labels == "consistency"


_COLUMNS = Useless(_made, ("question_column", "answer_column"), "is for files and datasets: these questions are made")

_SAMPLING = ("rollouts", "extra_rollouts", "temperature", "top_p", "top_k", "max_tokens", "answer_tokens", "seed")
_MODELS = ("reasoner", "dm", "prm", "calibration")
_ANSWERING = ("temperature", "max_tokens", "answer_tokens", "seed", "step_rule", "concurrency")
_CHOSEN = ("scorer", "attempts", "strategy", "limit", "question_column", "answer_column")
_FORMAT = ("reasoning_parser", "answer_cue")
_AT_SERVER = ("tokenizer", "api_key_env")
_SERVED = ("server", *_AT_SERVER)
_FIXED = ("warmup", "weight_decay", "evaluations_per_epoch")
"""Settings of the text classifier's training that no option sets."""
_TEXT_TRAINING = tuple(field.name for field in fields(TrainConfig) if field.name not in ("seed", *_FIXED))

USELESS: dict[str, tuple[Useless, ...]] = {
    "distill": (
        Useless(_has("recorded"), ("limit",), "is not for --recorded: solutions are read whole"),
        Useless(_has("recorded"), ("labels",), "is not for --recorded: solutions bring their own labels"),
        Useless(
            _has("recorded"),
            (*_SAMPLING, *_FORMAT, *_SERVED, "chat", "concurrency", "use_cache", "dtype"),
            "is not for --recorded: nothing is rolled out",
        ),
        Useless(
            _has("recorded"), ("from_log", "continue_cut", "per_question"), "is not for --recorded: nothing was served"
        ),
        Useless(_has_not("from_log"), ("continue_cut", "per_question"), "belongs to --from-log"),
        Useless(
            _from_log_by_consistency,
            ("questions", "question_column", "answer_column"),
            "is not for --labels consistency with --from-log: the questions are the log's, and no answers are used",
        ),
        Useless(_has("server"), ("dtype",), "is not for --server: it runs already"),
        Useless(_has_not("recorded"), ("solution_column",), "belongs to --recorded"),
        Useless(_has_not("server", "recorded"), (*_AT_SERVER, "chat"), "belongs to --server"),
        Useless(
            _has("chat"),
            ("tokenizer", *_FORMAT, "use_cache", "from_log", "top_k", "seed"),
            "is not for --chat: the server renders, draws and counts by itself",
        ),
        _COLUMNS,
    ),
    "train": (
        Useless(_is_kind("head"), ("backbone", "text_dm", *_TEXT_TRAINING), "is for --kind text and fused"),
        Useless(_is_kind("text"), ("reasoner", "text_dm"), "is for --kind head and fused"),
        Useless(
            _has("text_dm"), ("backbone", *_TEXT_TRAINING), "is not for --text-dm: its classifier is not trained again"
        ),
    ),
    "calibrate": (
        Useless(_has("dm"), ("out", "limit", "prm", "use_cache", *_FORMAT, *_SERVED), "belongs to --scorer"),
        Useless(_has("scorer"), ("check",), "is for DMs"),
        Useless(_has_not("server"), _AT_SERVER, "belongs to --server"),
        Useless(_has_not("reasoner", "server", "dm"), ("use_cache", *_FORMAT), "belongs to --reasoner"),
    ),
    "inspect": (),
    "report": (),
    "eval": (
        Useless(
            _has("report"),
            (*_MODELS, *_SERVED, "chat", *_FORMAT, *_CHOSEN, *_ANSWERING, "use_cache", "dtype"),
            "is not for --report: nothing is run",
        ),
        Useless(_has("server"), ("dtype",), "is not for --server: it runs already"),
        Useless(_has_not("server"), (*_AT_SERVER, "chat"), "belongs to --server"),
        Useless(
            _has("chat"),
            ("tokenizer", *_FORMAT, "prm", "calibration", "use_cache", "seed"),
            "is not for --chat: the server renders, draws and counts by itself",
        ),
        _COLUMNS,
    ),
    "chat": (),
    "reference build": (),
}
"""By command."""


def refuse_useless(command: str, options: argparse.Namespace) -> None:
    """InputError names the first option that was given where it has no effect."""
    for useless in USELESS[command]:
        if not useless.where(options):
            continue
        for name in useless.options:
            if given(options, name):
                raise InputError(option_name(name), useless.reason)

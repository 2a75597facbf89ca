"""The evidence: compare strategies on the reference test questions, with the loop that serves and all tokens counted.

A full run: the reference Reasoner thinks about calibration questions, and an answer is forced at every step; the DM and
the scorers are calibrated on these records in the same way; then `drr eval` runs on the test questions. A run that was
stopped continues.
With `--report`: tables and pictures are made again from the recorded outcomes and written into the page
docs/evidence-reference.md.

    python -m benchmarks.evidence [--limit N] [--jobs N] [--work FOLDER] [--out benchmarks/results/evidence]
    python -m benchmarks.evidence --report [--out benchmarks/results/evidence]        runs nothing
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.launch import run_drr
from benchmarks.pages import REFERENCE_PAGE, check_section, link_to, write_section
from drr import reference
from drr.certify.scorer_names import asking
from drr.cli.eval_command import Judges
from drr.errors import InputError
from drr.evaluate.report import ALL
from drr.evaluate.strategies import ATTEMPTS, FULL, all_strategies
from drr.evaluate.strategy_names import select_strategies
from drr.evaluate.write import RESULTS_NAME, summary, write_report
from drr.files import check_same_settings, read_json_object, write_whole
from drr.judge.dm_folder import dm_state, fingerprint
from drr.judge.scorers.registry import ScorerName
from drr.reference.build import MAX_LOST_POINTS
from drr.tasks.grading_pool import Grading
from drr.tasks.reference_suite import LEVELS
from drr.tasks.sources import load_questions

CALIBRATION_QUESTIONS = 1200
SCORERS: tuple[ScorerName, ...] = ("confidence", "logprob", "entropy", "answer_probe", "self_critique", "step_index")
"""The scorers that are calibrated like the DM. A generated critique at every step is too expensive, so critique and the
random control run with fixed thresholds."""

_JUDGES: tuple[ScorerName, ...] = (*SCORERS, "critique", "random")
STRATEGIES = (
    "samples",
    "greedy",
    "first stated answer",
    "greedy, first stated answer",
    "oracle stop",
    "budget",
    "nudged",
    "dm",
    "logprob",
    *(f"{name}, {rule}" for name in ("confidence", "entropy", "answer_probe") for rule in ("default", "5 % lost")),
    "self_critique, default",
    "step_index, default",
    "random, at 0.9",
    *(f"rethink: {name}, {count}" for name in ("confidence", "self_critique", "critique") for count in ATTEMPTS),
    *(f"stop + rethink: {name}, 4" for name in ("confidence", "self_critique")),
    "judged by",
)
"""The strategies that are run, by name or by a part of it. Asking the Reasoner at every step is expensive. So scorers
that do stop only by their default rule and one certified rule, and combine stopping and thinking again for one number
of attempts only."""

_TEST = "reference:test"
_COMMAND = "python -m benchmarks.evidence --report"
_SETTINGS_NAME = "evidence.json"


def run(work: Path, out: Path, limit: int | None, jobs: int) -> None:
    """Calibrate every judge and run the strategies on the first `limit` test questions (None: all), with `jobs` engines
    at a time. When all outcomes are there, they replace those in `out`. CalledProcessError if a command fails;
    InputError if `work` was begun with other models or `out` holds something else."""
    if jobs < 1:
        raise InputError("--jobs", f"must be at least 1, not {jobs}")
    if out.exists() and not (out / _SETTINGS_NAME).exists():
        raise InputError("--out", f"{out} exists and holds no evidence: name another folder")
    reasoner, records = reference.reasoner_folder(), work / "records"
    settings = _begin(work, limit)
    limits = ["--rollouts", "2", "--extra-rollouts", "0", "--limit", CALIBRATION_QUESTIONS]
    run_drr("distill", "reference:calibration", "--reasoner", reasoner, "--out", records, *limits)
    dm, calibrations = work / "dm", work / "calibrations"
    if not dm.exists():
        shutil.copytree(reference.dm_folder(), work / "dm.partial", dirs_exist_ok=True)
        run_drr("calibrate", "--dm", work / "dm.partial", "--data", records, "--max-lost-points", MAX_LOST_POINTS)
        (work / "dm.partial").rename(dm)
    sources = ["--data", records, "--out", calibrations, "--max-lost-points", MAX_LOST_POINTS]
    asked = {name: ["--reasoner", reasoner] if asking([name]) else [] for name in SCORERS}
    missing = [name for name in SCORERS if not (calibrations / f"{name}.json").exists()]
    _side_by_side([["calibrate", "--scorer", name, *asked[name], *sources] for name in missing], jobs)
    models = ["--reasoner", reasoner, "--dm", dm, "--calibration", calibrations]
    scorers = [part for name in _JUDGES for part in ("--scorer", name)]
    limit_option = [] if limit is None else ["--limit", limit]
    compare = ["eval", _TEST, *models, *scorers, *limit_option, "--out", work / "outcomes"]
    run_drr(*compare, "--strategy", FULL)  # first and alone, because every job below includes it
    names = _names(dm, calibrations)
    shares = [[part for name in names[job::jobs] for part in ("--strategy", name)] for job in range(jobs)]
    _side_by_side([[*compare, *share] for share in shares if share], jobs)
    with Grading("auto") as grading:
        write_report(work / "outcomes", grading)
    questions = len(load_questions(_TEST, limit=limit).questions)
    run_settings = {**settings, "questions": questions, "tasks": list(LEVELS), "jobs": jobs}
    write_whole(work / "outcomes" / _SETTINGS_NAME, json.dumps(run_settings, indent=1) + "\n")
    _replace(out, work / "outcomes")


def _names(dm: Path, calibrations: Path) -> list[str]:
    """The full names of the strategies that are run."""
    everything = all_strategies(("dm", *_JUDGES), Judges.load(dm, calibrations).calibrations(), ATTEMPTS)
    return [strategy.name for strategy in select_strategies(everything, STRATEGIES)]


def _replace(out: Path, outcomes: Path) -> None:
    """Replace `out` by a copy of `outcomes`. `out` is complete at all times except between two renames."""
    fresh, old = out.with_name(out.name + ".partial"), out.with_name(out.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(outcomes, fresh, ignore=shutil.ignore_patterns("*.partial"))
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _begin(work: Path, limit: int | None) -> dict[str, Any]:
    """Record in `work` what is compared, and return it. InputError if `work` was begun with something else."""
    work.mkdir(parents=True, exist_ok=True)
    settings = {
        "reasoner": fingerprint(reference.reasoner_folder()),
        "dm": dm_state(reference.dm_folder()),
        "calibration_questions": CALIBRATION_QUESTIONS,
        "max_lost_points": MAX_LOST_POINTS,
        "limit": limit,
    }
    path = work / _SETTINGS_NAME
    if not path.exists():
        write_whole(path, json.dumps(settings) + "\n")
    check_same_settings(work, read_json_object(path), settings)
    return settings


def _side_by_side(commands: Sequence[Sequence[object]], jobs: int) -> None:
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda command: run_drr(*command), commands))


def section(results: dict[str, Any], settings: dict[str, Any], pictures: str) -> str:
    """The section of the page on the strategies that were run with `settings`. The report has all tables."""
    return (
        f"{len(results['groups'][ALL])} ways of answering the same {settings['questions']:,} test questions "
        f"({', '.join(settings['tasks'])}; easy, hard and out-of-distribution levels), through the loop that serves; "
        "probes, rejected attempts and discarded tokens count. The DM and the scorers were calibrated on the same "
        f"{settings['calibration_questions']:,} other questions, except critique and random, whose thresholds are "
        f"fixed. All tables, task by task: [report.md]({pictures}report.md).\n\n{summary(results, [ALL], pictures)}"
    )


def main() -> None:
    """Run, or report what was run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="records and calibrations (default evidence-work)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evidence"), help="outcomes and report")
    parser.add_argument("--limit", type=int, help="only the first so many test questions")
    parser.add_argument("--jobs", type=int, help="engines at a time, a CPU core each (default 1); they slow each other")
    parser.add_argument("--report", action="store_true", help="run nothing: report the outcomes that are there")
    parser.add_argument("--page", type=Path, default=REFERENCE_PAGE)
    options = parser.parse_args()
    if options.report and (options.work, options.limit, options.jobs) != (None, None, None):
        parser.error("--report runs nothing: --work, --limit and --jobs have no meaning with it")
    try:
        check_section(options.page, "evidence")  # now, not after hours of running
    except ValueError as error:
        parser.error(str(error))
    try:
        if options.report:
            with Grading("auto") as grading:
                write_report(options.out, grading)
        else:
            jobs = 1 if options.jobs is None else options.jobs
            run(options.work or Path("evidence-work"), options.out, options.limit, jobs)
        results, settings = (read_json_object(options.out / name) for name in (RESULTS_NAME, _SETTINGS_NAME))
    except InputError as error:
        parser.error(str(error))
    pictures = link_to(options.out, options.page)
    write_section(options.page, "evidence", _COMMAND, section(results, settings, pictures))


if __name__ == "__main__":
    main()

"""The report of an evaluation, made from the recorded outcomes only: figures as JSON, tables as Markdown, pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drr.evaluate.plots import draw_coverage, draw_pareto
from drr.evaluate.report import ALL, SUBGROUP, at_equal_tokens, figures, groups_of, judged, strategy_arrays
from drr.evaluate.run import read_outcomes
from drr.evaluate.selective import areas, confusion
from drr.evaluate.strategies import FULL
from drr.evaluate.tables import STOP, coverage, equal_tokens, every_strategy, stoppers, verdicts
from drr.files import write_whole
from drr.judge.scorers.registry import ACCEPTS, LEAST_ACCEPTED
from drr.tasks.grading_pool import Grading

RESULTS_NAME, REPORT_NAME = "results.json", "report.md"
PLOT_NAME, COVERAGE_NAME = "pareto.png", "coverage.png"

_CONTENDERS = (
    "stop + rethink: dm",
    "greedy, stop + rethink: dm",
    "in context, stop + rethink: dm",
    "rethink: dm",
    "by votes, rethink: dm",
)


def write_report(out: Path, grading: Grading) -> dict[str, Any]:
    """Write the report of the outcomes in `out` into the same folder; returns its figures. InputError if there are no
    outcomes."""
    outcomes = read_outcomes(out)
    grading.overruns.clear()
    strategies = strategy_arrays(outcomes, grading)
    over_limits = [case for outcome in outcomes for case in outcome.over_limits] + list(map(str, grading.overruns))
    groups = {
        name: [strategy.of(questions) for strategy in strategies] for name, questions in groups_of(outcomes).items()
    }
    judges = judged(outcomes)
    results: dict[str, Any] = {
        "groups": {name: figures(group) for name, group in groups.items()},
        "equal_tokens": {name: at_equal_tokens(group, _CONTENDERS) for name, group in groups.items()},
        "selective": areas(judges) if judges else [],
        "verdicts": [confusion(judge, ACCEPTS.get(judge.name, LEAST_ACCEPTED)) for judge in judges],
        "over_limits": list(dict.fromkeys(over_limits)),
    }
    write_whole(out / RESULTS_NAME, json.dumps(results, indent=1) + "\n")
    draw_pareto({name: rows for name, rows in results["groups"].items() if SUBGROUP not in name}, out / PLOT_NAME)
    if judges:
        draw_coverage(judges, out / COVERAGE_NAME)
    write_whole(out / REPORT_NAME, report(results))
    return results


def report(results: dict[str, Any]) -> str:
    """Every table, as Markdown, with the pictures beside it."""
    every = [f"### Every strategy: {name}\n\n{every_strategy(rows)}" for name, rows in results["groups"].items()]
    return (
        "\n\n".join([summary(results, list(results["groups"])), *every, *_unscored(results), *_over_limits(results)])
        + "\n"
    )


def _unscored(results: dict[str, Any]) -> list[str]:
    missing = [f"{row['name']}: {row['unscored']}" for row in results["groups"][ALL] if row["unscored"]]
    said = "The judge failed there: thinking went on, or the attempt stood, as if nobody had judged."
    return _listed("Boundaries without a score", said, missing)


def _over_limits(results: dict[str, Any]) -> list[str]:
    said = "It exceeded a limit; the answer counts as wrong."
    return _listed("Grading that was given up", said, results["over_limits"])


def _listed(title: str, said: str, cases: Sequence[str]) -> list[str]:
    """A section that lists the cases; none without any."""
    listed = "\n".join(f"- {case}" for case in cases)
    return [f"### {title}\n\n{said}\n\n{listed}"] if cases else []


def summary(results: dict[str, Any], equal_in: list[str], pictures: str = "") -> str:
    """The comparing tables as Markdown; thinking again at equal tokens is shown for the groups in `equal_in` only.
    `pictures` is put before the names of the pictures."""
    groups, full = results["groups"], next(row for row in results["groups"][ALL] if row["name"] == FULL)
    parts = [f"![accuracy against tokens]({pictures}{PLOT_NAME})"]
    if any(row["family"].startswith(STOP) for row in groups[ALL]):
        parts.append(
            "### Stopping early\n\nTokens saved against full thinking and accuracy gained, in points, by each "
            "stopper's default rule; in brackets the most that any of its settings (as many as its name says) saves at "
            "a loss of at most half a point, chosen in hindsight on these very questions, which favours those with "
            f"many.\n\n{stoppers(groups)}"
        )
    parts += [
        f"### Thinking again, at equal tokens: {name}\n\nGain in points over each alternative that may spend as many "
        "tokens, mixing its settings as it likes (95 % intervals, paired bootstrap; in brackets its tokens where it "
        "cannot spend as few, or as many).\n\n" + equal_tokens(results["equal_tokens"][name])
        for name in equal_in
        if results["equal_tokens"][name]
    ]
    if results["selective"]:
        parts.append(
            "### Knowing when to abstain\n\nOne full answer to every question, answered in the order of each judge's "
            "belief: mean accuracy over all shares answered (area under the accuracy-coverage curve; the plain "
            f"accuracy is {100 * full['accuracy']:.1f} %).\n\n{coverage(results['selective'])}\n\n"
            f"![accuracy against coverage]({pictures}{COVERAGE_NAME})"
        )
    if results.get("verdicts"):
        parts.append(
            "### Who confirms what\n\nOne full answer to every question is confirmed where the judge's belief reaches "
            "the level at which attempts are accepted unless it was calibrated.\n\n" + verdicts(results["verdicts"])
        )
    return "\n\n".join(parts)

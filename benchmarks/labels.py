"""How good a DM is that was learned without gold answers: labels by majority against labels by gold answers.

python -m benchmarks.labels relabel --data RECORDS --out FOLDER
    the same rollouts, graded against the majority answer of each question's rollouts, ready for `drr train` and
    `drr calibrate`
python -m benchmarks.labels compare --data FRESH --dm gold=DM --dm consistency=DM [--out FILE]
    DMs side by side on rollouts of other questions, graded by gold answers
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from drr.certify.calibrate import replay_of
from drr.failures import guarded
from drr.judge.calibration import Calibration
from drr.judge.dm_folder import DmCard, load_dm_head, read_trained_on
from drr.learn.boundaries import score_boundaries
from drr.learn.distill_folder import close_folder, open_folder, shard_path
from drr.learn.dm_metrics import score_report
from drr.learn.fusion import probabilities
from drr.learn.records import Manifest, Rollout, question_key, read_rollouts, write_shard
from drr.tasks.grading import Grader, load_grader, majority_answer

_QUESTIONS_PER_SHARD = 64


def relabelled(rollouts: Sequence[Rollout], grade: Grader) -> dict[str, list[Rollout]]:
    """The rollouts by question, graded against the question's majority answer. Questions without one are left out."""
    by_question: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        by_question[rollout.question].append(rollout)
    found = {}
    for question, group in by_question.items():
        majority = majority_answer([rollout.answer for rollout in group], grade)
        if majority is not None:
            found[question] = [_graded(rollout, majority, grade) for rollout in group]
    return found


def _graded(rollout: Rollout, gold: str, grade: Grader) -> Rollout:
    now = [None if answer is None else grade(answer, gold) for answer in rollout.forced]
    return replace(rollout, gold=gold, later=grade(rollout.answer, gold), now=now)


def relabel(data: Path, out: Path) -> dict[str, Any]:
    """Write the relabelled records into `out`; returns how far both kinds of labels agree."""
    manifest, rollouts = Manifest.load(data), read_rollouts(data)
    grade = load_grader(str(manifest.settings["grader"]))
    found = relabelled(rollouts, grade)
    new = open_folder(out, {**manifest.settings, "labels": "consistency"})
    questions = sorted(found)
    for start in range(0, len(questions), _QUESTIONS_PER_SHARD):
        batch = questions[start : start + _QUESTIONS_PER_SHARD]
        write_shard(shard_path(out, start), [rollout for question in batch for rollout in found[question]])
    close_folder(out, new, [])
    before = {(rollout.question, rollout.sample): rollout for rollout in rollouts}
    pairs = [(before[rollout.question, rollout.sample], rollout) for group in found.values() for rollout in group]
    return {
        "questions": len(found),
        "without_majority": len({rollout.question for rollout in rollouts}) - len(found),
        "majority_right": round(
            sum(grade(group[0].gold, before[q, group[0].sample].gold) for q, group in found.items()) / len(found), 4
        ),
        "same_later": round(sum(old.later == new_.later for old, new_ in pairs) / len(pairs), 4),
    }


def dm_figures(dm: Path, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """AUROC and ECE of the DM's `p_now`, and the outcomes of its rules, by the labels of `rollouts`."""
    card, head = DmCard.load(dm), load_dm_head(dm)
    scored = score_boundaries(rollouts, dm, card.max_tokens, f"Scoring by {dm.name}")
    report = score_report(probabilities(head, scored)[:, 0], scored, rollouts)
    replay = replay_of(rollouts, scored, head)
    rules = Calibration.from_json(card.calibration or {}).rules
    outcomes = {name: replay.outcomes(rule) for name, rule in rules.items()}
    return {
        "auroc": {phase: report[phase]["auroc"] for phase in ("all", "before", "first", "after", "last")},
        "ece": report["all"]["ece"],
        "rules": {
            name: {
                "saved": round(outcome.saved, 4),
                "accuracy_change_points": round(outcome.accuracy_change, 2),
                "lost_rate": round(outcome.lost_rate, 4),
            }
            for name, outcome in outcomes.items()
        },
    }


def compare(dms: dict[str, Path], rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """The figures of every DM, on questions that none of them was trained on."""
    seen = set().union(*(read_trained_on(dm) for dm in dms.values()))
    fresh = [rollout for rollout in rollouts if rollout.steps and question_key(rollout.question) not in seen]
    return {"rollouts": len(fresh), **{name: dm_figures(dm, fresh) for name, dm in dms.items()}}


def show(results: dict[str, Any]) -> None:
    """Print the comparison."""
    console, names = Console(), [name for name in results if name != "rollouts"]
    grid = Table(title=f"{results['rollouts']:,} rollouts of fresh questions, graded by gold answers")
    grid.add_column("")
    for name in names:
        grid.add_column(name, justify="right")
    for phase in results[names[0]]["auroc"]:
        grid.add_row(f"AUROC {phase}", *(f"{results[name]['auroc'][phase]:.3f}" for name in names))
    grid.add_row("ECE", *(f"{results[name]['ece']:.3f}" for name in names))
    for rule in dict.fromkeys(rule for name in names for rule in results[name]["rules"]):
        cells = [results[name]["rules"].get(rule) for name in names]
        grid.add_row(
            f"{rule}: saved, accuracy, lost",
            *("-" if cell is None else _rule_figures(cell) for cell in cells),
        )
    console.print(grid)


def _rule_figures(rule: dict[str, float]) -> str:
    return f"{100 * rule['saved']:.1f} %, {rule['accuracy_change_points']:+.1f}, {100 * rule['lost_rate']:.1f} %"


def main() -> None:
    """Run a sub-command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("relabel", "compare"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dm", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    Manifest.load(options.data)
    if options.what == "relabel":
        Console().print_json(data=relabel(options.data, options.out))
        return
    dms = {name: Path(folder) for name, _, folder in (argument.partition("=") for argument in options.dm)}
    results = compare(dms, read_rollouts(options.data))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.labels", main))

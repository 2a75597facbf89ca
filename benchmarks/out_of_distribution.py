"""Out of distribution: does a certificate hold on harder questions than it was made for, and does the drift index warn?

The DM's rules are certified on recorded rollouts of easy questions (at most EASY operations) that its training never
saw. Then they are tested on easy questions that were left out, and on all harder questions.

    python -m benchmarks.out_of_distribution --dm DM --data RECORDS [--easy 4] [--out benchmarks/results/shift.json]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from drr.certify.calibrate import replay_of, split_for_calibration
from drr.certify.calibrate_config import RISKS
from drr.certify.promise import surely_at_least
from drr.certify.replay import Replay, RuleTable, candidate_rules
from drr.certify.thresholds import certify, drift_histogram, order_rules
from drr.errors import InputError
from drr.failures import guarded
from drr.judge.dm_folder import DmCard, load_dm_head, read_trained_on
from drr.judge.drift import DRIFT_LIMIT, LEAST_RESPONSES, DriftWatch
from drr.learn.boundaries import score_boundaries
from drr.learn.fusion import with_temperatures
from drr.learn.records import Manifest, Rollout, question_key, read_rollouts, share_of

_LEFT_OUT_SHARE = 0.35
_LEFT_OUT_SALT = "shift"  # decides which questions are left out: another salt would make other figures


def measure(dm: Path, rollouts: Sequence[Rollout], easy_at_most: int) -> dict[str, Any]:
    """Certify on easy questions and test on left-out easy ones and on hard ones. Returns all figures as plain data;
    InputError if there are no fresh easy or no fresh hard questions."""
    card, trained_on = DmCard.load(dm), read_trained_on(dm)
    fresh = [rollout for rollout in rollouts if rollout.steps and question_key(rollout.question) not in trained_on]
    hard = [rollout for rollout in fresh if rollout.difficulty > easy_at_most]
    easy = [rollout for rollout in fresh if rollout.difficulty <= easy_at_most]
    left_out = [rollout for rollout in easy if share_of(rollout.question, _LEFT_OUT_SALT) < _LEFT_OUT_SHARE]
    for name, group in (("at most", easy), ("above", hard)):
        if not group:
            raise InputError(str(dm), f"no fresh question takes {name} {easy_at_most} operations", field="--easy")
    certifying = split_for_calibration(
        [rollout for rollout in easy if share_of(rollout.question, _LEFT_OUT_SALT) >= _LEFT_OUT_SHARE], trained_on
    )

    def scored(part: Sequence[Rollout], note: str) -> Any:
        return score_boundaries(part, dm, card.max_tokens, note)

    head = with_temperatures(load_dm_head(dm), scored(certifying.temperature, "Temperatures"))
    rules = candidate_rules()
    ordering = replay_of(certifying.order, scored(certifying.order, "Order"), head).table(rules)
    order = order_rules(ordering, ordering.lost)
    test = replay_of(certifying.test, scored(certifying.test, "Tests"), head)
    table, histogram = test.table(rules), drift_histogram(test.first_p_later())
    sides = {
        name: replay_of(part, scored(part, name), head) for name, part in (("easy, left out", left_out), ("hard", hard))
    }
    tables = {name: side.table(rules) for name, side in sides.items()}
    risks = []
    for risk in RISKS:
        certificate = certify(table, order, risk)
        if certificate is not None:
            index = rules.index(certificate.rule)
            risks.append(
                {
                    "max_lost_correct": risk,
                    **{name: _rule_outcome(side_table, index) for name, side_table in tables.items()},
                }
            )
    return {
        "easy_at_most": easy_at_most,
        "certified_on": len(certifying.test),
        "risks": risks,
        "drift": {name: _drift(side, histogram) for name, side in sides.items()},
    }


def _rule_outcome(table: RuleTable, rule: int) -> dict[str, Any]:
    first_rollouts = table.of(table.first_of_each_question())
    lost, right = int(first_rollouts.lost[rule]), int(first_rollouts.full_right.sum())
    return {
        "lost": lost,
        "right": right,
        "lost_rate": round(lost / max(1, right), 4),
        "at_least": round(surely_at_least(lost, right), 4),
        "saved": round(float(first_rollouts.saved[rule]), 4),
        "accuracy_change_points": round(float(first_rollouts.accuracy_change[rule]), 2),
    }


def _drift(replay: Replay, histogram: dict[str, list[float]]) -> dict[str, Any]:
    watch, warned_after = DriftWatch(histogram), None
    for value in replay.first_p_later():
        watch.observe(float(value))
        if warned_after is None and watch.drifted:
            warned_after = watch.responses
    return {
        "index": round(watch.index, 3),
        "limit": DRIFT_LIMIT,
        "responses": watch.responses,
        "warned_after": warned_after,
        "least_responses": LEAST_RESPONSES,
    }


def show(results: dict[str, Any]) -> None:
    """Print the results as a table."""
    console = Console()
    console.print(
        f"Certified on {results['certified_on']:,} rollouts, at most {results['easy_at_most']} operations each",
        highlight=False,
    )
    grid = Table()
    for column in ("lost at most", "questions", "lost", "rate", "surely at least", "saved", "accuracy"):
        grid.add_column(column, justify="right")
    for risk in results["risks"]:
        for name in results["drift"]:
            side = risk[name]
            grid.add_row(
                f"{100 * risk['max_lost_correct']:g} %",
                name,
                f"{side['lost']} of {side['right']}",
                f"{100 * side['lost_rate']:.1f} %",
                f"{100 * side['at_least']:.1f} %",
                f"{100 * side['saved']:.1f} %",
                f"{side['accuracy_change_points']:+.1f}",
            )
    console.print(grid)
    for name, drift in results["drift"].items():
        warning = "no warning" if drift["warned_after"] is None else f"warns after {drift['warned_after']} responses"
        console.print(f"drift index of {name}: {drift['index']} (limit {drift['limit']}), {warning}", highlight=False)


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dm", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--easy", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/shift.json"))
    options = parser.parse_args()
    Manifest.load(options.data)
    results = measure(options.dm, read_rollouts(options.data), options.easy)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.out_of_distribution", main))

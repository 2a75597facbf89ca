"""What a certificate is worth on harder questions than it was made for, and whether the drift index says so.

The DM's rules are certified on recorded rollouts of easy questions (at most EASY operations) that its training never
saw, then looked at on easy questions left out and on all harder ones.

    python -m benchmarks.shift --dm DM --data RECORDS [--easy 4] [--out benchmarks/results/shift.json]
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from drr.certify.calibrate import replay_of, split_for_calibration
from drr.certify.promise import surely_at_least
from drr.certify.replay import Replay, RuleTable, candidate_rules
from drr.certify.thresholds import RISKS, certify, drift_histogram, order_rules
from drr.errors import InputError
from drr.judge.dm_folder import DmCard, load_dm_head, read_trained_on
from drr.judge.drift import DRIFT_LIMIT, LEAST_RESPONSES, DriftWatch
from drr.learn.boundaries import score_boundaries
from drr.learn.fusion import with_temperatures
from drr.learn.records import Rollout, question_key, read_rollouts, share_of

_LEFT_OUT_SHARE = 0.35


def measure(dm: Path, rollouts: Sequence[Rollout], easy_at_most: int) -> dict[str, Any]:
    """Certify on easy questions, look at easy ones left out and at hard ones; everything that is reported."""
    card, trained_on = DmCard.load(dm), read_trained_on(dm)
    fresh = [own for own in rollouts if own.steps and question_key(own.question) not in trained_on]
    hard = [own for own in fresh if own.difficulty > easy_at_most]
    easy = [own for own in fresh if own.difficulty <= easy_at_most]
    left_out = [own for own in easy if share_of(own.question, "shift") < _LEFT_OUT_SHARE]
    for name, own in (("at most", easy), ("above", hard)):
        if not own:
            raise InputError(str(dm), f"no fresh question takes {name} {easy_at_most} operations", field="--easy")
    kept = split_for_calibration(
        [own for own in easy if share_of(own.question, "shift") >= _LEFT_OUT_SHARE], trained_on
    )

    def scored(own: Sequence[Rollout], note: str) -> Any:
        return score_boundaries(own, dm, card.max_tokens, note)

    head = with_temperatures(load_dm_head(dm), scored(kept.temperature, "Temperatures"))
    rules = candidate_rules()
    ordering = replay_of(kept.order, scored(kept.order, "Order"), head).table(rules)
    order = order_rules(ordering, ordering.lost)
    test = replay_of(kept.test, scored(kept.test, "Tests"), head)
    table, histogram = test.table(rules), drift_histogram(test.first_p_later())
    sides = {
        name: replay_of(own, scored(own, name), head) for name, own in (("easy, left out", left_out), ("hard", hard))
    }
    tables = {name: own.table(rules) for name, own in sides.items()}
    risks = []
    for risk in RISKS:
        found = certify(table, order, risk)
        if found is not None:
            at = rules.index(found.rule)
            risks.append({"max_lost_correct": risk, **{name: _look(own, at) for name, own in tables.items()}})
    return {
        "easy_at_most": easy_at_most,
        "certified_on": len(kept.test),
        "risks": risks,
        "drift": {name: _drift(own, histogram) for name, own in sides.items()},
    }


def _look(table: RuleTable, rule: int) -> dict[str, Any]:
    once = table.of(table.first_of_each_question())
    lost, right = int(once.lost[rule]), int(once.full_right.sum())
    return {
        "lost": lost,
        "right": right,
        "lost_rate": round(lost / max(1, right), 4),
        "at_least": round(surely_at_least(lost, right), 4),
        "saved": round(float(once.saved[rule]), 4),
        "accuracy_change_points": round(float(once.accuracy_change[rule]), 2),
    }


def _drift(replay: Replay, histogram: dict[str, list[float]]) -> dict[str, Any]:
    watch, first_said = DriftWatch(histogram), None
    for value in replay.first_p_later():
        watch.observe(float(value))
        if first_said is None and watch.drifted:
            first_said = watch.responses
    return {
        "index": round(watch.index, 3),
        "limit": DRIFT_LIMIT,
        "responses": watch.responses,
        "warned_after": first_said,
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
    for own in results["risks"]:
        for name in results["drift"]:
            side = own[name]
            grid.add_row(
                f"{100 * own['max_lost_correct']:g} %",
                name,
                f"{side['lost']} of {side['right']}",
                f"{100 * side['lost_rate']:.1f} %",
                f"{100 * side['at_least']:.1f} %",
                f"{100 * side['saved']:.1f} %",
                f"{side['accuracy_change_points']:+.1f}",
            )
    console.print(grid)
    for name, own in results["drift"].items():
        said = "no warning" if own["warned_after"] is None else f"warns after {own['warned_after']} responses"
        console.print(f"drift index of {name}: {own['index']} (limit {own['limit']}), {said}", highlight=False)


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dm", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--easy", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/shift.json"))
    options = parser.parse_args()
    results = measure(options.dm, read_rollouts(options.data), options.easy)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main()

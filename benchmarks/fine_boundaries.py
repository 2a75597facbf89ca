"""How fine should boundaries be? Stopping at blank lines compared with stopping at every token, by the same head.

A head tells its mind at every token for nothing. Here it judges by the Reasoner's state alone (what else is known of a
step makes no sense for steps of one token), at blank lines, at every eighth token and at every token, with several
thresholds and several numbers of boundaries in a row (`patience`) that must agree. Every answer is really given by the
loop that serves.

    python -m benchmarks.fine_boundaries --dm FOLDER [--questions reference:validation] [--out fine]
"""

import argparse
import asyncio
import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from drr import reference
from drr.engine.devices import prepare_environment
from drr.engine.generation_cache import open_cache
from drr.engine.open_dm import heads_of
from drr.engine.open_reasoner import open_engine
from drr.errors import InputError
from drr.evaluate.eval_config import EvalConfig
from drr.evaluate.run import Evaluator, StrategyOutcomes, evaluate, read_outcomes, recorded_settings
from drr.evaluate.strategies import FULL, Strategy
from drr.failures import guarded
from drr.judge.dm_folder import DmCard, dm_state, load_dm_head
from drr.judge.scorers.state import StateScorer, StateScoring
from drr.loop.policy import PolicySettings, Score
from drr.loop.probing import Probe
from drr.loop.scoring import Boundary
from drr.loop.steps import StepRule
from drr.tasks.grading_pool import Grading
from drr.tasks.sources import load_questions

THRESHOLDS = (0.7, 0.8, 0.9, 0.95)
PATIENCES = {"blank_line": (1, 2), "tokens:8": (1, 2, 4), "tokens:1": (1, 4, 8, 16)}
"""By step rule, how many boundaries in a row must agree."""


class _StateOnly(StateScorer):
    """The head without the features of its steps."""

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "_StateOnlyScoring":
        return _StateOnlyScoring(self, probe, None)


class _StateOnlyScoring(StateScoring):
    def score_at_once(self, boundary: Boundary) -> Score | None:
        return super().score_at_once(replace(boundary, features=None))

    async def score(self, boundary: Boundary) -> Score:
        return await super().score(replace(boundary, features=None))


def strategies() -> list[Strategy]:
    """Full thinking, and every rule with every threshold and patience."""
    found = [Strategy(FULL, "full")]
    for rule, patiences in PATIENCES.items():
        for patience, threshold in itertools.product(patiences, THRESHOLDS):
            policy = PolicySettings(threshold=threshold, patience=patience)
            name = f"{rule}, {patience} in a row, {threshold:g}"
            found.append(
                Strategy(name, f"{rule}, {patience}", scorer="dm", policy=policy, step_rule=StepRule.parse(rule))
            )
    return found


async def measure(dm: Path, source: str, out: Path) -> list[StrategyOutcomes]:
    """Run all strategies; what `out` holds already is not run again. InputError if the DM is no head."""
    card = DmCard.load(dm)
    if card.kind != "head":
        raise InputError("--dm", f"is of kind {card.kind}; only a head can be asked at every token")
    questions = load_questions(source).questions
    config = EvalConfig()
    async with open_engine(str(reference.reasoner_folder()), heads=heads_of(dm)) as reasoner:
        scorer = _StateOnly(card.id, load_dm_head(dm))
        with Grading("auto") as grading, open_cache(out / "generations.sqlite", heads_of(dm)) as cache:
            evaluator = Evaluator(reasoner, {"dm": scorer}, grading, config, cache)
            settings = {**recorded_settings(config), "dm": dm_state(dm)}
            await evaluate(evaluator, strategies(), questions, out, settings)
    return read_outcomes(out)


def show(found: Sequence[StrategyOutcomes]) -> None:
    """Print a row for each strategy, those of a family together."""
    full = next(outcomes for outcomes in found if outcomes.name == FULL)
    table = Table(title=f"{len(full.rows)} questions")
    for column in ("boundaries, in a row, p_now", "right", "against full thinking", "tokens", "saved"):
        table.add_column(column, justify="left" if "p_now" in column else "right")
    before = figures(full)
    for outcomes in sorted(found, key=lambda one: (one.family, one.name)):
        now = figures(outcomes)
        table.add_row(
            outcomes.name,
            f"{100 * now['right']:.1f} %",
            f"{100 * (now['right'] - before['right']):+.1f}",
            f"{now['tokens']:.1f}",
            f"{100 * (1 - now['tokens'] / before['tokens']):.1f} %",
        )
    Console(width=120).print(table)


def figures(outcomes: StrategyOutcomes) -> dict[str, float]:
    """Share right, and tokens a question."""
    rows: list[dict[str, Any]] = [asdict(row) for row in outcomes.rows]
    return {name: float(np.mean([row[name] for row in rows])) for name in ("right", "tokens")}


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dm", type=Path, required=True)
    parser.add_argument("--questions", default="reference:validation")
    parser.add_argument("--out", type=Path, default=Path("fine-boundaries"))
    options = parser.parse_args()
    prepare_environment(quiet=True)

    def run() -> int:
        show(asyncio.run(measure(options.dm, options.questions, options.out)))
        return 0

    return guarded("benchmarks.fine_boundaries", run)


if __name__ == "__main__":
    sys.exit(main())

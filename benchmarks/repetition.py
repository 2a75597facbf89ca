"""Does repetition raise the DM's scores? Attempts are scored before and after padding with some of their right steps.

Padding does not make any answer more likely to be right. Only steps that calculate something rightly and state no
answer are repeated. The token probabilities of the padded text come from the Reasoner, so that the DM sees the
behaviour features that it would see in serving.

    python -m benchmarks.repetition --data RECORDS [--dm FOLDER] [--reasoner FOLDER] [--attempts 300] [--out FILE]
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from drr import reference
from drr.engine.open_reasoner import known_format
from drr.failures import guarded
from drr.judge.dm_folder import DmCard, load_dm_head
from drr.learn.boundaries import score_boundaries
from drr.learn.fusion import probabilities
from drr.learn.records import Manifest, Rollout, read_rollouts
from drr.loop.reasoner import user_prompt
from drr.loop.stated import stated_answer
from drr.progress import Progress
from drr.tasks.arithmetic import apply

TIMES = (1, 3, 8)
"""The numbers of steps that are added."""

NOTICEABLE = 0.05
"""A larger gain in p_now counts as a gain."""

_SUM = re.compile(r"(-?\d+)([-+*/])(\d+)=(-?\d+)")


def repeatable(rollout: Rollout) -> list[str]:
    """The steps that calculate something, have no wrong result, and state no answer."""
    found = []
    for step in rollout.steps:
        sums = _SUM.findall(step)
        if sums and stated_answer(step) is None and all(_is_right(*parts) for parts in sums):
            found.append(step)
    return found


def _is_right(left: str, operator: str, right: str, result: str) -> bool:
    if operator == "/" and (int(right) == 0 or int(left) % int(right)):
        return False
    return bool(apply(int(left), operator, int(right)) == int(result))  # type: ignore[arg-type]


def padded(rollout: Rollout, times: int) -> Rollout:
    """The attempt with `times` of its right steps appended in their order; token probabilities are not set yet."""
    right_steps = repeatable(rollout)
    steps = [*rollout.steps, *(right_steps[place % len(right_steps)] for place in range(times))]
    unknown: list[Any] = [None] * len(steps)
    return replace(rollout, steps=steps, step_tokens=[0] * len(steps), logprobs=unknown, now=unknown, forced=unknown)


class Reader:
    """Computes the probability that a Reasoner gives to each token of a text."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._form = known_format(self._tokenizer, "")

    def read(self, rollout: Rollout) -> Rollout:
        """The rollout with the log-probabilities of its steps' tokens. Each step is tokenised by itself."""
        prompt = user_prompt(self._tokenizer, rollout.question)
        prompt = self._form.think(prompt)
        steps = [self._tokenizer.encode(step, add_special_tokens=False) for step in rollout.steps]
        ids = torch.tensor([[*prompt, *(token for step in steps for token in step)]])
        with torch.inference_mode():
            logprobs = self._model(ids).logits[0, :-1].log_softmax(-1)
        taken = logprobs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0].tolist()
        found, start = [], 0
        for step in steps:
            found.append(taken[start : start + len(step)])
            start += len(step)
        return replace(rollout, logprobs=found, step_tokens=[len(step) for step in steps])


def measure(dm: Path, reasoner: Path, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """The effect of padding on the DM's p_now at the end, for right and for wrong attempts, as plain data."""
    card, head, reader = DmCard.load(dm), load_dm_head(dm), Reader(reasoner)

    def last_scores(attempts: Sequence[Rollout]) -> np.ndarray:
        with Progress("Reading", len(attempts)) as progress:
            read = []
            for attempt in attempts:
                read.append(reader.read(attempt))
                progress.advance()
        scored = score_boundaries(read, dm, card.max_tokens)
        ends = np.cumsum([len(attempt.steps) for attempt in read]) - 1
        return np.asarray(probabilities(head, scored)[ends, 0])

    before = last_scores(rollouts)
    right = np.asarray([rollout.later for rollout in rollouts])
    results: dict[str, Any] = {"attempts": len(rollouts), "right": int(right.sum()), "padded": {}}
    for times in TIMES:
        change = last_scores([padded(rollout, times) for rollout in rollouts]) - before
        results["padded"][str(times)] = {
            name: {
                "mean_change": round(float(change[mask].mean()), 4),
                "gaining": round(float((change[mask] > NOTICEABLE).mean()), 4),
                "mean_before": round(float(before[mask].mean()), 4),
            }
            for name, mask in (("right", right), ("wrong", ~right))
        }
    return results


def show(results: dict[str, Any]) -> None:
    """Print the figures."""
    grid = Table(title=f"p_now at the end of {results['attempts']} attempts, padded with right steps of their own")
    for column in ("steps added", "attempts", "p_now before", "change", f"gain more than {NOTICEABLE}"):
        grid.add_column(column, justify="right")
    for times, by_outcome in results["padded"].items():
        for name, figures in by_outcome.items():
            gaining = f"{100 * figures['gaining']:.1f} %"
            grid.add_row(times, name, f"{figures['mean_before']:.3f}", f"{figures['mean_change']:+.3f}", gaining)
    Console().print(grid)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="behaviour records, as drr distill writes them")
    parser.add_argument("--dm", type=Path, default=reference.dm_folder())
    parser.add_argument("--reasoner", type=Path, default=reference.reasoner_folder())
    parser.add_argument("--attempts", type=int, default=300)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    Manifest.load(options.data)
    usable = [rollout for rollout in read_rollouts(options.data) if repeatable(rollout)]
    stride = max(1, len(usable) // options.attempts)
    results = measure(options.dm, options.reasoner, usable[::stride][: options.attempts])
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.repetition", main))

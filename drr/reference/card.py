"""The model card of the reference Reasoner, written from the recorded figures and rollouts."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drr.learn.records import Rollout, read_rollouts
from drr.loop.stated import stated_answer


def write_reasoner_card(out: Path) -> None:
    """Write `README.md` into the Reasoner's folder of the build `out`."""
    rollouts = read_rollouts(out / "rollouts" / "test")
    greedy = read_rollouts(out / "rollouts" / "test-greedy")
    figures = {path.stem: json.loads(path.read_text()) for path in (out / "figures").glob("*.json")}
    behaviour = {
        family: behaviour_figures(
            *([rollout for rollout in group if rollout.family == family] for group in (rollouts, greedy))
        )
        for family in sorted({rollout.family for rollout in rollouts})
    }
    (out / "figures" / "behaviour.json").write_text(json.dumps(behaviour, indent=2) + "\n")
    (out / "reasoner" / "README.md").write_text(_reasoner_card(behaviour, figures))


def behaviour_figures(rollouts: Sequence[Rollout], greedy: Sequence[Rollout]) -> dict[str, Any]:
    """Figures of the Reasoner's behaviour on some questions, without early stopping; `greedy` are greedy rollouts."""
    by_question: dict[str, list[bool]] = defaultdict(list)
    first_right, first_tokens, fixed, broken, useless = [], [], 0, 0, 0
    for rollout in rollouts:
        by_question[rollout.question].append(rollout.later)
        stated = next((i for i, step in enumerate(rollout.steps) if stated_answer(step)), None)
        if stated is None:
            continue
        tokens = sum(rollout.step_tokens[: stated + 1])
        right_first = bool(rollout.now[stated])
        first_right.append(right_first)
        first_tokens.append(tokens)
        fixed += rollout.later and not right_first
        broken += right_first and not rollout.later
        if right_first and rollout.later:
            useless += rollout.thinking_tokens - tokens
    outcomes = list(by_question.values())
    return {
        "questions": len(by_question),
        "samples": len(rollouts) // max(1, len(by_question)),
        "pass@1": _share([right for samples in outcomes for right in samples]),
        "pass@4": _share([any(samples[:4]) for samples in outcomes]),
        "greedy": _share([rollout.later for rollout in greedy]),
        "greedy_tokens": _mean([rollout.total_tokens for rollout in greedy]),
        "mixed_questions": _share([any(samples) and not all(samples) for samples in outcomes]),
        "total_tokens": _mean([rollout.total_tokens for rollout in rollouts]),
        "thinking_tokens": _mean([rollout.thinking_tokens for rollout in rollouts]),
        "steps": _mean([len(rollout.steps) for rollout in rollouts]),
        "first_stated_right": _share(first_right),
        "first_stated_at_token": _mean(first_tokens),
        "fixed_after_first": round(fixed / max(1, len(rollouts)), 4),
        "broken_after_first": round(broken / max(1, len(rollouts)), 4),
        "useless_checking": round(useless / max(1, sum(rollout.total_tokens for rollout in rollouts)), 4),
    }


def _share(flags: Sequence[bool]) -> float:
    return round(float(np.mean(flags)), 4) if len(flags) else 0.0


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 1) if len(values) else 0.0


_ROWS = {
    "pass@1": "pass@1",
    "pass@4": "pass@4",
    "greedy": "greedy",
    "mixed_questions": "questions sometimes right and sometimes wrong",
    "first_stated_right": "first stated answers that are right",
    "fixed_after_first": "responses whose first answer was wrong and put right later",
    "broken_after_first": "responses whose first answer was right and spoiled later",
    "useless_checking": "tokens spent after an answer that was right and stayed so",
}
_COUNTS = {
    "total_tokens": "tokens per response",
    "greedy_tokens": "tokens per greedy response",
    "steps": "steps",
    "first_stated_at_token": "token at which an answer is first stated",
}


def _reasoner_card(behaviour: dict[str, dict[str, Any]], figures: dict[str, Any]) -> str:
    training, first_family = figures["reasoner"], next(iter(behaviour.values()))
    questions, samples = first_family["questions"], first_family["samples"]
    parameters, seconds = training["parameters"], training["seconds"]
    rows = [
        [meaning, *(f"{100 * family[name]:.1f} %" for family in behaviour.values())] for name, meaning in _ROWS.items()
    ]
    rows += [[meaning, *(f"{family[name]:g}" for family in behaviour.values())] for name, meaning in _COUNTS.items()]
    head = ["", *behaviour]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
    return f"""---
license: apache-2.0
---
# drr-reference: a tiny Reasoner

A Qwen2 model of {parameters:,} parameters, made from nothing by `drr reference build` so that every example,
test and benchmark of this project runs without a model hub. It solves three kinds of questions and knows nothing else:
short arithmetic stories (2 to 8 operations), Countdown (make a number from 3 or 4 others), and multiple choice over a
small world of rows, liars and walks (3 to 6 links); it checks its own answers, and judges proposed ones when asked. The
levels named `ood` are longer than anything it was trained on. Questions are kept apart by their words: most Countdown
test questions were trained on with their numbers in another order, and it does better on those. Its mistakes are its
own: no error is added when it runs.

Trained on {training["tokens"]:,} tokens of generated questions and worked solutions in {seconds:,} seconds on two
CPU cores (final loss {training["final_loss"]}).

## Measured on {questions} test questions of each kind and level, {samples} samples at temperature 0.8

{table}
"""

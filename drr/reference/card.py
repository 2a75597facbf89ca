"""The model card of the reference Reasoner, written from the recorded figures and rollouts."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drr.grading import stated_answer
from drr.records import Rollout, read_rollouts


def write_reasoner_card(out: Path) -> None:
    """Write `README.md` into the Reasoner's folder of the build `out`."""
    rollouts = read_rollouts(out / "rollouts" / "test")
    greedy = read_rollouts(out / "rollouts" / "test-greedy")
    figures = {path.stem: json.loads(path.read_text()) for path in (out / "figures").glob("*.json")}
    behaviour = behaviour_figures(rollouts, greedy)
    (out / "figures" / "behaviour.json").write_text(json.dumps(behaviour, indent=2) + "\n")
    (out / "reasoner" / "README.md").write_text(_reasoner_card(behaviour, figures))


def behaviour_figures(rollouts: Sequence[Rollout], greedy: Sequence[Rollout]) -> dict[str, Any]:
    """What the Reasoner does on the test questions, thinking in full."""
    by_question: dict[str, list[bool]] = defaultdict(list)
    by_difficulty: dict[int, list[bool]] = defaultdict(list)
    first_right, first_tokens, fixed, broken, useless = [], [], 0, 0, 0
    for rollout in rollouts:
        by_question[rollout.question].append(rollout.later)
        by_difficulty[rollout.difficulty].append(rollout.later)
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
        "pass@1": _share([right for own in outcomes for right in own]),
        "pass@4": _share([any(own[:4]) for own in outcomes]),
        "pass@8": _share([any(own[:8]) for own in outcomes]),
        "greedy": _share([rollout.later for rollout in greedy]),
        "greedy_tokens": _mean([rollout.total_tokens for rollout in greedy]),
        "mixed_questions": _share([any(own) and not all(own) for own in outcomes]),
        "by_difficulty": {str(size): _share(right) for size, right in sorted(by_difficulty.items())},
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


def _reasoner_card(behaviour: dict[str, Any], figures: dict[str, Any]) -> str:
    made = figures["reasoner"]
    difficulty = ", ".join(f"{size}: {100 * right:.0f} %" for size, right in behaviour["by_difficulty"].items())
    passed = " / ".join(_percent(behaviour, name) for name in ("pass@1", "pass@4", "pass@8"))
    length = f"{behaviour['total_tokens']}, {behaviour['thinking_tokens']}, {behaviour['steps']}"
    first = behaviour["first_stated_at_token"]
    return f"""---
license: apache-2.0
---
# drr-reference: a tiny Reasoner

A Qwen2 model of {made["parameters"]:,} parameters that solves short arithmetic questions of two to eight operations
and checks itself, made from nothing by `drr reference build` so that every example, test and benchmark of this
project runs without a model hub. It knows nothing else. Its mistakes are its own: no error is added when it runs.

Trained on {made["tokens"]:,} tokens of generated questions and worked solutions in {made["seconds"]} seconds on two CPU
cores (final loss {made["final_loss"]}).

## Measured on {behaviour["questions"]} test questions, {behaviour["samples"]} samples each at temperature 0.8

| figure | value |
| --- | --- |
| pass@1 / pass@4 / pass@8 | {passed} |
| greedy | {_percent(behaviour, "greedy")} with {behaviour["greedy_tokens"]} tokens |
| by number of operations | {difficulty} |
| questions sometimes right and sometimes wrong | {_percent(behaviour, "mixed_questions")} |
| tokens per response, thinking tokens, steps | {length} |
| first stated answer | right in {_percent(behaviour, "first_stated_right")}, at token {first} |
| wrong first answers put right later | {_percent(behaviour, "fixed_after_first")} of responses |
| right first answers spoiled later | {_percent(behaviour, "broken_after_first")} of responses |
| tokens spent after an answer that was right and stayed so | {_percent(behaviour, "useless_checking")} |
"""


def _percent(figures: dict[str, Any], name: str) -> str:
    return f"{100 * figures[name]:.1f} %"

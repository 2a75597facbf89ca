"""Record what a DM says, for the test that a server makes of it at its start (drr.judge.self_test)."""

from collections.abc import Sequence
from pathlib import Path

import torch

from drr.engine.state_head import StateHead
from drr.judge.dm_folder import STATE_HEAD_NAME, classifier_folder
from drr.judge.dm_input import DmInput
from drr.judge.head import Kind
from drr.judge.self_test import SelfTest, StateCheck, TextCheck
from drr.learn.boundaries import Stretch, load_classifier, pad_rows
from drr.learn.records import Rollout
from drr.learn.states import BoundaryStates

_ATTEMPTS = 2
_LONGEST = 512
"""Tokens of an attempt that is recorded, unless all are longer."""

_QUESTION = "Ann has 3 boxes of 12 pencils. She gives 9 pencils away. How many pencils does she have now?"
_STEPS = ("3 boxes hold 3 * 12 = 36 pencils.\n\n", "36 - 9 = 27.\n\n", "So the answer is 27.\n\n")


def record_self_test(
    folder: Path, kind: Kind, max_tokens: int, rollouts: Sequence[Rollout], states: BoundaryStates | None
) -> SelfTest:
    """Write down what the parts of the DM in `folder` say. Of a text classifier it is asked about a question that is
    always the same, of a state head about the beginnings of some of `rollouts`, whose `states` are known."""
    text = [] if kind == "head" else [_text_check(classifier_folder(folder), max_tokens)]
    found = SelfTest(text, [] if states is None else _state_checks(folder / STATE_HEAD_NAME, rollouts, states))
    found.save(folder)
    return found


def _text_check(folder: Path, max_tokens: int) -> TextCheck:
    model, tokenizer = load_classifier(folder)
    context, logits = DmInput(tokenizer, _QUESTION, max_tokens), list[list[float]]()
    for number, step in enumerate(_STEPS):
        ids = context.append(step)
        with torch.inference_mode():
            found, _ = model(**pad_rows([Stretch(ids, [len(ids) - 1], [number])], 0))
        logits.append(_rounded(found[0, 0]))
    return TextCheck(_QUESTION, list(_STEPS), logits)


def _state_checks(head_file: Path, rollouts: Sequence[Rollout], states: BoundaryStates) -> list[StateCheck]:
    head = StateHead.load(head_file)
    by_length = sorted((rollout for rollout in rollouts if rollout.steps), key=_length)
    short = [rollout for rollout in by_length if _length(rollout) <= _LONGEST] or by_length[:1]
    chosen = list({rollout.identity: rollout for rollout in short}.values())[-_ATTEMPTS:]
    checks = []
    for rollout in chosen:
        ends = [sum(rollout.step_tokens[: number + 1]) for number in range(len(rollout.steps))]
        with torch.inference_mode():
            said = head(states.of([rollout]))
        for number in sorted({0, len(ends) - 1}):
            ids = [*(rollout.prompt_ids or ()), *(rollout.thought_ids or ())[: ends[number]]]
            checks.append(StateCheck([int(token) for token in ids], _rounded(said[number])))
    return checks


def _length(rollout: Rollout) -> int:
    return len(rollout.prompt_ids or ()) + sum(rollout.step_tokens)


def _rounded(logits: torch.Tensor) -> list[float]:
    return [round(float(logit), 4) for logit in logits]

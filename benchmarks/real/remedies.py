"""What could tell right from wrong attempts at one question better than a head does?

Each remedy is a head made in another way from the same training questions: from other states, by another lesson, or
from fewer attempts. All are measured at the ends of the same attempts at other questions, and compared with the head as
`drr train` makes it.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from benchmarks.real.inner_states import InnerStates
from benchmarks.real.intervals import Scored, differences, figures
from benchmarks.real.skill import Attempts, learn
from drr.learn.boundaries import Boundaries
from drr.learn.dm_metrics import phase_masks
from drr.learn.records import Rollout
from drr.learn.state_config import StateConfig
from drr.learn.states import BoundaryStates, attempt_key

AS_TRAINED = "as drr train makes it"
RANKING = (0.5, 2.0)
_FIGURES = ("last", "within_question_last", "best_of")


@dataclass(frozen=True, slots=True)
class _Lesson:
    """What a remedy learns from and is asked on, and how."""

    train: Attempts
    test: Attempts
    config: StateConfig


def remedies(
    train: Attempts, test: Attempts, inner: Callable[[Attempts], InnerStates], config: StateConfig | None = None
) -> dict[str, Any]:
    """By remedy, the figures of `now` at the ends of the test attempts, over all questions and by family, and by how
    much its AUROC exceeds that of the head as it is made. `inner` computes an attempt's other states."""
    lessons = _lessons(train, test, inner(train), inner(test), config or StateConfig())
    scored = {name: _at_ends(lesson) for name, lesson in lessons.items()}
    usual = scored[AS_TRAINED]
    return {
        name: {
            **_only_ends(figures(one)),
            "families": {family: _only_ends(figures(part)) for family, part in one.by_family().items()},
            "gained": {} if one is usual else _only_ends(differences(one, usual)),
        }
        for name, one in scored.items()
    }


def _lessons(
    train: Attempts, test: Attempts, inside: InnerStates, inside_test: InnerStates, config: StateConfig
) -> dict[str, _Lesson]:
    """Every remedy by name."""

    def taught(made: Callable[[Attempts, InnerStates], Attempts]) -> _Lesson:
        """What a head learns from attempts that are made into others."""
        return _Lesson(made(train, inside), made(test, inside_test), config)

    found = {AS_TRAINED: _Lesson(train, test, config)}
    for weight in RANKING:
        found[f"ranks attempts, weight {weight:g}"] = _Lesson(train, test, replace(config, ranking=weight))
    for layer in list(inside.layers)[:-1]:
        found[f"state of layer {layer}"] = taught(partial(_of_layer, layer))
    found["states of all these layers"] = taught(_of_layers)
    for attempts in (1, 2):
        fewer = [rollout for rollout in train.rollouts if rollout.sample < attempts]
        found[f"{attempts} of the attempts at a question"] = _Lesson(Attempts(fewer, train.states), test, config)
    found["learns at ends only"] = taught(lambda some, _: at_ends(some))
    found["asked whether it is right"] = taught(_asked)
    found["end and asked"] = taught(_end_and_asked)
    found["end beside the other attempts"] = taught(lambda some, _: beside_others(at_ends(some)))
    return found


def _of_layer(layer: int, attempts: Attempts, inside: InnerStates) -> Attempts:
    return Attempts(attempts.rollouts, inside.layers[layer])


def _of_layers(attempts: Attempts, inside: InnerStates) -> Attempts:
    return Attempts(attempts.rollouts, side_by_side(list(inside.layers.values())))


def _asked(attempts: Attempts, inside: InnerStates) -> Attempts:
    asked = {attempt_key(joined(one)): inside.asked.by_key[attempt_key(one)] for one in attempts.rollouts}
    return Attempts([joined(rollout) for rollout in attempts.rollouts], BoundaryStates(asked))


def _end_and_asked(attempts: Attempts, inside: InnerStates) -> Attempts:
    ends = at_ends(attempts)
    return Attempts(ends.rollouts, side_by_side([ends.states, _asked(attempts, inside).states]))


def joined(rollout: Rollout) -> Rollout:
    """The attempt as one step, with one boundary: its end."""
    logprobs = None if None in rollout.logprobs else [one for step in rollout.logprobs for one in step or ()]
    return replace(
        rollout,
        steps=["".join(rollout.steps)],
        step_tokens=[sum(rollout.step_tokens)],
        logprobs=[logprobs],
        forced=rollout.forced[-1:],
        now=rollout.now[-1:],
    )


def at_ends(attempts: Attempts) -> Attempts:
    """The attempts as one step each."""
    ends = {attempt_key(joined(one)): attempts.states.by_key[attempt_key(one)][-1:] for one in attempts.rollouts}
    return Attempts([joined(rollout) for rollout in attempts.rollouts], BoundaryStates(ends))


def side_by_side(states: Sequence[BoundaryStates]) -> BoundaryStates:
    """The states of the attempts that all of `states` have, joined to one; each normalised first, because layers differ
    in scale."""
    return BoundaryStates(
        {
            key: torch.cat([torch.nn.functional.layer_norm(one.by_key[key].float(), (one.size,)) for one in states], 1)
            for key in states[0].by_key
            if all(key in one.by_key for one in states)
        }
    )


def beside_others(attempts: Attempts) -> Attempts:
    """Beside each attempt's end, its difference from the mean of the other attempts at the question."""
    of_question: Mapping[str, list[Rollout]] = defaultdict(list)
    for rollout in attempts.rollouts:
        of_question[rollout.identity].append(rollout)
    apart = {}
    for group in of_question.values():
        ends = torch.cat([attempts.states.by_key[attempt_key(one)] for one in group]).float()
        others = (ends.sum(0) - ends) / max(1, len(group) - 1) if len(group) > 1 else ends
        for one, difference in zip(group, ends - others, strict=True):
            apart[attempt_key(one)] = difference.unsqueeze(0)
    return Attempts(attempts.rollouts, side_by_side([attempts.states, BoundaryStates(apart)]))


def _at_ends(lesson: _Lesson) -> Scored:
    """What a head that was made by the lesson says at the ends of the test attempts."""
    head = learn(lesson.train.rollouts, lesson.train.states, lesson.config)
    scored = head.scored(lesson.test.rollouts, lesson.test.states)
    last = phase_masks(scored.data)["last"]
    data: Boundaries = scored.data.where(last)
    return Scored(scored.scores[last], data, scored.rollouts)


def _only_ends(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in _FIGURES if name in found}

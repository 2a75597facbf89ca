"""The logits of a DM of any kind at recorded boundaries, and its parts, each as a DM of its own, to compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from drr.engine.state_head import StateHead
from drr.judge.dm_folder import STATE_HEAD_NAME, classifier_folder
from drr.judge.head import JUDGE_LOGITS, FusionHead, Kind
from drr.learn.arrays import Reals
from drr.learn.boundaries import Boundaries, score_boundaries
from drr.learn.fusion import fit_head, fit_judge_only, probabilities, with_temperatures
from drr.learn.records import Rollout
from drr.learn.states import BoundaryStates
from drr.learn.train_state import state_logits
from drr.loop.features import FEATURE_NAMES


@dataclass(frozen=True, slots=True)
class Judge:
    """What a DM in `folder` judges by. `max_tokens` is the longest input of its text classifier; `states` are those of
    the attempts that it is asked about, None for a DM of kind text."""

    kind: Kind
    folder: Path
    max_tokens: int
    states: BoundaryStates | None = None

    def boundaries(self, rollouts: Sequence[Rollout], name: str = "Scoring") -> Boundaries:
        """The boundaries of `rollouts` with the logits that serving would compute; `name` is that of the progress."""
        if self.kind == "text":
            return self.text_boundaries(rollouts, name)
        assert self.states is not None
        state = state_logits(StateHead.load(self.folder / STATE_HEAD_NAME), rollouts, self.states)
        return state if self.kind == "head" else fused(self.text_boundaries(rollouts, name), state)

    def text_boundaries(self, rollouts: Sequence[Rollout], name: str = "Scoring") -> Boundaries:
        """The boundaries of `rollouts` with the logits of the text classifier alone."""
        return score_boundaries(rollouts, classifier_folder(self.folder), self.max_tokens, name)


def fused(text: Boundaries, state: Boundaries) -> Boundaries:
    """The same boundaries with the logits of a text classifier and of a state head, side by side."""
    return replace(text, kind="fused", logits=np.concatenate([text.logits, state.logits], axis=1))


def fit_parts(
    whole: FusionHead, fitting: Boundaries, questions: Sequence[str], tempering: Boundaries, seed: int = 0
) -> dict[str, FusionHead]:
    """The parts of the DM whose fusion head is `whole`, which comes last: the text classifier, the state head, the
    behaviour features, the state head with these, the whole. Those that there are, fitted like it.

    `fitting` and `questions` are what `whole` was fitted on (as for `fit_head`); its temperatures were fitted on
    `tempering`.
    """
    parts = {
        name: fit_judge_only(tempering.of(kind))
        for name, kind in _ALONE.items()
        if set(JUDGE_LOGITS[kind]) <= set(JUDGE_LOGITS[whole.kind])
    }
    if not whole.reads_behaviour:
        return parts if len(parts) == 1 else {**parts, whole.kind: whole}
    behaviour = fit_head(fitting, questions, use=FEATURE_NAMES, seed=seed)
    parts["behaviour"] = with_temperatures(behaviour, tempering)
    if whole.kind == "fused":
        head = fit_head(fitting.of("head"), questions, seed=seed)
        parts["head"] = with_temperatures(head, tempering.of("head"))
    return {**parts, "head" if whole.kind == "head" else "fused": whole}


_ALONE: dict[str, Kind] = {"text": "text", "state": "head"}


def part_probabilities(parts: Mapping[str, FusionHead], data: Boundaries) -> dict[str, Reals]:
    """[N, 2] probabilities by every part. Parts that need behaviour features are left out where none are known."""
    known = bool(data.featured.any())
    return {
        name: probabilities(head, data.of(head.kind))
        for name, head in parts.items()
        if known or not head.reads_behaviour
    }

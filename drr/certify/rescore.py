"""Judge recorded rollouts, boundary by boundary, with a scorer that was not used when they were made.

The scorer gets what it would have got in serving: the same context, probabilities and features, and a probe to the
Reasoner if it needs one.
"""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drr.engine.open_reasoner import OpenReasoner
from drr.judge.scorers.probed import ProbingScorer
from drr.learn.arrays import Reals
from drr.learn.records import Rollout, behaviour_features
from drr.loop.reasoner import user_prompt
from drr.loop.scoring import Boundary, Scorer
from drr.progress import Progress

_ANSWER_ROOM = 64


@dataclass(frozen=True, slots=True)
class Rescored:
    """A rollout's `scores` [steps, 2] (p_now, p_later; NaN where there was no room to ask), and in `probes` [steps] the
    tokens that the Reasoner generated for each of them."""

    scores: Reals
    probes: list[int]


async def rescore(
    scorer: Scorer, rollouts: Sequence[Rollout], reasoner: OpenReasoner | None = None, concurrency: int = 96
) -> list[Rescored]:
    """Judge every rollout with `scorer`. `reasoner` may be None for scorers that do not ask the Reasoner."""
    slots, numbers = asyncio.Semaphore(concurrency), itertools.count()
    with Progress(f"Judging by {scorer.id}", len(rollouts)) as progress:

        async def one(rollout: Rollout) -> Rescored:
            async with slots:
                found = await _judge(scorer, rollout, reasoner, f"rescore-{scorer.id}-{next(numbers)}")
            progress.advance()
            return found

        return list(await asyncio.gather(*map(one, rollouts)))


async def _judge(scorer: Scorer, rollout: Rollout, reasoner: OpenReasoner | None, request_id: str) -> Rescored:
    probe, contexts, reasoner_room = None, list[list[int]](), 0
    if reasoner is not None and isinstance(scorer, ProbingScorer):
        reasoner_room = reasoner.max_model_len
        probe = reasoner.probe(request_id)
        contexts = recorded_contexts(reasoner, rollout)
    session = scorer.session(rollout.question, probe)
    scores, probes = np.zeros((len(rollout.steps), 2)), list[int]()
    for index, features in enumerate(behaviour_features(rollout)):
        before = 0 if probe is None else probe.tokens
        boundary = Boundary(
            index,
            rollout.steps[index],
            features,
            rollout.logprobs[index] or (),
            lambda at=index: contexts[at],  # type: ignore[misc]
        )
        if contexts and len(contexts[index]) + _ANSWER_ROOM > reasoner_room:
            scores[index] = np.nan  # no room to ask
        else:
            score = await session.score(boundary)
            scores[index] = score.p_now, score.p_later
        probes.append((0 if probe is None else probe.tokens) - before)
    return Rescored(scores, probes)


def recorded_contexts(reasoner: OpenReasoner, rollout: Rollout) -> list[list[int]]:
    """The token ids up to every boundary: the question, the opening marker if the Reasoner generates it, the steps."""
    prompt = user_prompt(reasoner.tokenizer, rollout.question)
    prompt = reasoner.form.think(prompt)
    texts = itertools.accumulate(rollout.steps)
    return [[*prompt, *reasoner.tokenizer.encode(text, add_special_tokens=False)] for text in texts]

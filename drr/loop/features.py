"""Behaviour features: what the Reasoner's own tokens tell at a boundary.

The same code runs when behaviour is distilled and when it is served, so the head sees the same numbers in both.
"""

import math
from collections.abc import Sequence

from drr.loop.stated import stated_answer

FEATURE_NAMES = (
    "step_mean_logprob",
    "step_min_logprob",
    "attempt_mean_logprob",
    "attempt_min_logprob",
    "since_answer_mean_logprob",
    "since_answer_min_logprob",
    "low_logprob_tokens",
    "log_thinking_tokens",
    "log_step_tokens",
    "log_step_index",
    "answer_stated",
    "log_answers_stated",
    "last_answers_agree",
    "log_steps_since_answer",
)
"""Names, in order, of the numbers that `BehaviourFeatures.close_step` returns."""

_LOW_LOGPROB = math.log(0.5)


class BehaviourFeatures:
    """Accumulates one attempt's token log-probabilities, step by step."""

    def __init__(self) -> None:
        self._sum, self._min, self._count, self._low = 0.0, 0.0, 0, 0
        self._answers: list[str] = []
        self._steps = 0
        self._last_answer_step = 0
        self._span_sum, self._span_min, self._span_count = 0.0, 0.0, 0
        self._complete = True

    def close_step(self, text: str, logprobs: Sequence[float | None]) -> list[float] | None:
        """Features at the boundary that ends a step of this text and these token log-probabilities (natural log).

        None where any log-probability so far is unknown: features made from part of an attempt would mislead.
        Tokens that were injected rather than sampled are to be left out of `logprobs`.
        """
        known = [value for value in logprobs if value is not None]
        self._complete = self._complete and len(known) == len(logprobs)
        step_sum, step_min = sum(known), min(known, default=0.0)
        self._sum, self._count = self._sum + step_sum, self._count + len(known)
        self._min = min(self._min, step_min)
        self._low += sum(value < _LOW_LOGPROB for value in known)
        self._span_sum, self._span_count = self._span_sum + step_sum, self._span_count + len(known)
        self._span_min = min(self._span_min, step_min)
        self._steps += 1
        span_mean, span_min = _mean(self._span_sum, self._span_count), self._span_min
        answer = stated_answer(text)
        if answer is not None:
            self._answers.append(answer)
            self._last_answer_step = self._steps
            self._span_sum, self._span_min, self._span_count = 0.0, 0.0, 0
        if not self._complete:
            return None
        stated = len(self._answers)
        return [
            _mean(step_sum, len(known)),
            step_min,
            _mean(self._sum, self._count),
            self._min,
            span_mean,
            span_min,
            math.log1p(self._low),
            math.log1p(self._count),
            math.log1p(len(known)),
            math.log1p(self._steps),
            float(stated > 0),
            math.log1p(stated),
            float(stated > 1 and self._answers[-1] == self._answers[-2]),
            math.log1p(self._steps - self._last_answer_step) if stated else 0.0,
        ]


def _mean(total: float, count: int) -> float:
    return total / count if count else 0.0

"""Controls: scorers that know nothing or almost nothing, for comparison with real judges."""

import math
import random

from drr.loop.policy import Score
from drr.loop.probing import Probe
from drr.loop.scoring import Boundary
from drr.loop.stated import stated_answer

_STEP_SCALE = 16.0


class RandomScorer:
    """Uniformly distributed random numbers. What has been thought decides them, so that the same attempt is judged the
    same when it is made again, as with every other scorer."""

    id = "random"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "RandomScorer":
        return self

    async def score(self, boundary: Boundary) -> Score:
        value = random.Random(f"{self._seed}/{boundary.context()}/{boundary.index}/{boundary.text}").random()
        return Score(value, value)


class StepIndexScorer:
    """1 - exp(-steps/16): grows with the number of steps."""

    id = "step_index"

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "StepIndexScorer":
        return self

    async def score(self, boundary: Boundary) -> Score:
        value = 1 - math.exp(-(boundary.index + 1) / _STEP_SCALE)
        return Score(value, value)


class StatedScorer:
    """1 if the step states an answer, else 0. A threshold of 1 stops at the first stated answer."""

    id = "stated"

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "StatedScorer":
        return self

    async def score(self, boundary: Boundary) -> Score:
        value = float(stated_answer(boundary.text) is not None)
        return Score(value, value)


class LogprobScorer:
    """The geometric mean of the attempt's token probabilities so far. It costs no tokens.

    Its negative logarithm is an unbiased estimate of the mean entropy of the thinking's tokens, which phase-entropy
    rewards use (PEAR, arXiv 2510.08026).
    """

    id = "logprob"

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "_LogprobSession":
        return _LogprobSession()


class _LogprobSession:
    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    async def score(self, boundary: Boundary) -> Score:
        known = [value for value in boundary.logprobs if value is not None]
        self._sum, self._count = self._sum + sum(known), self._count + len(known)
        value = math.exp(self._sum / self._count) if self._count else 0.0
        return Score(value, value)

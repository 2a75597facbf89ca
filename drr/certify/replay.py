"""Replay stopping rules over recorded behaviour.

Every boundary of a recorded rollout has a graded forced answer, so the outcome of a rule is known exactly. Replays are
for choosing and certifying rules; what a rule does in serving is measured through the server.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drr.errors import InputError
from drr.learn.arrays import Flags, Reals
from drr.learn.records import Rollout
from drr.loop.rule import Rule
from drr.tasks.questions import first_spellings

_ONE_SIDED_95 = 1.645


THRESHOLDS: tuple[float | None, ...] = (
    *(
        round(float(value), 4)
        for value in (*np.arange(0.30, 0.94, 0.04), *np.arange(0.94, 0.98, 0.01), *np.arange(0.98, 0.9991, 0.0025))
    ),
    None,
)
_PATIENCES = (1, 2, 3)
_HOPELESS = (None, 0.02, 0.05, 0.1, 0.2, 0.3)
_MIN_GAINS = (None, -0.1, -0.05, 0.0)


def candidate_rules() -> list[Rule]:
    """Every rule that calibration considers."""
    return [Rule(*parts) for parts in itertools.product(THRESHOLDS, _PATIENCES, _HOPELESS, _MIN_GAINS)]


@dataclass(frozen=True, slots=True)
class RuleOutcomes:
    """What a rule does to each of R rollouts: right, tokens, stopped [R]; full_right and full_tokens [R] are those of
    full thinking."""

    right: Flags
    tokens: Reals
    full_right: Flags
    full_tokens: Reals
    stopped: Flags

    @property
    def saved(self) -> float:
        """Share of full thinking's tokens saved."""
        return float(1 - self.tokens.sum() / self.full_tokens.sum())

    @property
    def lost_correct(self) -> int:
        """Rollouts that full thinking gets right and the rule wrong."""
        return int((self.full_right & ~self.right).sum())

    @property
    def lost_rate(self) -> float:
        """`lost_correct` as a share of the rollouts that full thinking gets right; 0 if there are none."""
        return self.lost_correct / max(1, int(self.full_right.sum()))

    @property
    def accuracy_change(self) -> float:
        """In points of 100, against full thinking."""
        return 100 * float(self.right.mean() - self.full_right.mean())


class Replay:
    """Rollouts with scores, stored as arrays for replaying many rules. R rollouts of at most S boundaries."""

    def __init__(
        self,
        rollouts: Sequence[Rollout],
        scores: Sequence[Reals],
        probes: Sequence[Sequence[int]] | None = None,
        *,
        needs_no_steps: bool = False,
    ) -> None:
        """`scores[i]` [steps, 2] are p_now and p_later at rollout i's boundaries; `probes[i]` [steps] are the tokens
        that asking the judge there took (none by default). With `needs_no_steps` the judge may be asked at the end of
        an attempt only, because its score there does not depend on earlier boundaries. InputError if a boundary has no
        graded answer."""
        for number, rollout in enumerate(rollouts):
            if None in rollout.now:
                raise InputError(
                    "records", "holds boundaries without a forced answer: nothing to replay", number + 1, "now"
                )
        spelled = first_spellings(rollout.question for rollout in rollouts)
        self.questions = np.unique(np.asarray(spelled, dtype=str), return_inverse=True)[1]
        size, most = len(rollouts), max((len(rollout.steps) for rollout in rollouts), default=0)
        self._now = np.full((size, most), np.nan)
        self._later, self._right = np.full((size, most), np.nan), np.zeros((size, most), dtype=bool)
        self._thought, self._probed = np.zeros((size, most)), np.zeros((size, most))
        self._last = np.asarray([len(rollout.steps) - 1 for rollout in rollouts])
        # Thinking that a budget cut off, or that went on without another boundary, ends after its last boundary.
        self._ends_there = np.asarray([sum(rollout.step_tokens) == rollout.thinking_tokens for rollout in rollouts])
        for number, (rollout, rollout_scores) in enumerate(zip(rollouts, scores, strict=True)):
            steps = len(rollout.steps)
            self._now[number, :steps], self._later[number, :steps] = rollout_scores[:, 0], rollout_scores[:, 1]
            self._right[number, :steps] = np.asarray(rollout.now, dtype=bool)
            self._thought[number, :steps] = np.cumsum(rollout.step_tokens)
            if probes is not None:
                self._probed[number, :steps] = np.cumsum(probes[number])
        self._needs_no_steps = needs_no_steps
        self._answer = np.asarray([rollout.total_tokens - rollout.thinking_tokens for rollout in rollouts])
        self._full_right = np.asarray([rollout.later for rollout in rollouts], dtype=bool)
        self._full_tokens = np.asarray([rollout.total_tokens for rollout in rollouts], dtype=float)

    def __len__(self) -> int:
        return len(self._last)

    def outcomes(self, rule: Rule, rows: NDArray[np.int64] | None = None) -> RuleOutcomes:
        """What `rule` does to the rollouts, or to those in `rows`."""
        pick = np.arange(len(self)) if rows is None else rows
        sure, futile = self._firing(rule, pick)
        stopped, end = self._stop(sure | futile, pick)
        full_right, full_tokens = self._full_right[pick], self._full_tokens[pick]
        probed = self._probed[pick, end]
        return RuleOutcomes(
            np.where(stopped, self._right[pick, end], full_right),
            np.where(stopped, self._thought[pick, end] + self._answer[pick], full_tokens) + probed,
            full_right,
            full_tokens,
            stopped,
        )

    def _firing(self, rule: Rule, pick: NDArray[np.int64]) -> tuple[Flags, Flags]:
        """[R, S] where the rule stops because p_now is high enough, and where because more thinking seems futile."""
        now, later = self._now[pick], self._later[pick]
        with np.errstate(invalid="ignore"):
            sure = np.zeros(now.shape, dtype=bool) if rule.threshold is None else now >= rule.threshold
            futile = np.zeros_like(sure)
            if rule.hopeless is not None:
                futile |= later <= rule.hopeless
            if rule.min_gain is not None:
                futile |= later - now <= rule.min_gain
        return _in_a_row(sure, rule.patience), _in_a_row(futile, rule.patience)

    def _stop(self, fires: Flags, pick: NDArray[np.int64]) -> tuple[Flags, NDArray[np.int64]]:
        """[R] whether thinking is stopped, and [R] the boundary at which it is, or else the last one."""
        last = self._last[pick]
        at = np.where(fires.any(1), fires.argmax(1), fires.shape[1])
        # It is no stop if the Reasoner itself stops at the same boundary.
        stopped = (at < last) | ((at == last) & ~self._ends_there[pick])
        return stopped, np.minimum(at, np.maximum(last, 0))

    def attempts(self, rule: Rule) -> "Attempts":
        """Every rollout as an attempt that may be rejected, with `rule` ending its thinking."""
        pick = np.arange(len(self))
        sure, futile = self._firing(rule, pick)
        stopped, end = self._stop(sure | futile, pick)
        thought, probed = self._thought[pick, end], self._probed[pick, end]
        if self._needs_no_steps and rule.never_ends:
            probed = probed - np.where(end > 0, self._probed[pick, end - 1], 0.0)
        full_thought = self._full_tokens - self._answer
        belief = np.nan_to_num(self._now[pick, end], nan=1.0)  # without a score an attempt is accepted
        return Attempts(
            self.questions,
            belief,
            sure[pick, end] & stopped,
            np.where(stopped, self._right[pick, end], self._full_right),
            np.where(stopped, thought, full_thought) + probed,
            self._answer.astype(float),
        )

    def table(self, rules: Sequence[Rule]) -> "RuleTable":
        """What every one of `rules` does to every rollout."""
        outcomes = [self.outcomes(rule) for rule in rules]
        return RuleTable(
            tuple(rules),
            np.stack([outcome.right for outcome in outcomes]),
            np.stack([outcome.tokens.astype(np.float32) for outcome in outcomes]),
            self._full_right,
            self._full_tokens,
            self.questions,
        )

    def first_p_later(self) -> Reals:
        """p_later at each rollout's first boundary, where there is one."""
        first = self._later[:, 0]
        return np.asarray(first[~np.isnan(first)])


@dataclass(frozen=True, slots=True)
class Attempts:
    """Attempts [R] at questions (by number): `belief` is p_now where the attempt ends; `sure` whether the rule ended it
    there because p_now was high enough; `right` whether its answer is right; `thought` and `answer` its tokens of
    thinking and of its answer. The latter are spent only if the attempt answers."""

    questions: NDArray[np.int64]
    belief: Reals
    sure: Flags
    right: Flags
    thought: Reals
    answer: Reals

    def think_again(self, accept: float, attempts: int) -> "Rethought":
        """The outcome of up to `attempts` attempts in a row: the first accepted one answers or, if none is accepted,
        the one with the highest belief. An attempt is accepted if it is sure or its belief is at least `accept`.

        Questions with fewer attempts on record are left out.
        """
        order = np.argsort(self.questions, kind="stable")
        names, counts = np.unique(self.questions, return_counts=True)
        starts = np.cumsum(counts) - counts
        rows = order[(starts[counts >= attempts, None] + np.arange(attempts)).astype(np.int64)]  # [Q, attempts]
        accepted = (self.sure | (self.belief >= accept))[rows]
        tried = np.where(accepted.any(1), accepted.argmax(1), attempts - 1)
        chosen = np.where(accepted.any(1), tried, self.belief[rows].argmax(1))
        line = np.arange(len(rows))
        thought = np.where(np.arange(attempts) <= tried[:, None], self.thought[rows], 0.0).sum(1)
        return Rethought(
            names[counts >= attempts],
            self.right[rows][line, chosen],
            thought + self.answer[rows][line, chosen],
        )


@dataclass(frozen=True, slots=True)
class Rethought:
    """The outcome of thinking again on each of Q questions: whether the answer is right, and all tokens spent, [Q]."""

    questions: NDArray[np.int64]
    right: Flags
    tokens: Reals


def _in_a_row(flags: Flags, count: int) -> Flags:
    """[R, S] whether the last `count` boundaries, this one included, are all flagged."""
    run = flags.copy()
    for lag in range(1, count):
        run[:, lag:] &= flags[:, :-lag]
        run[:, :lag] = False
    return run


@dataclass(frozen=True, slots=True)
class RuleTable:
    """Outcomes of R rules on N rollouts: right, tokens [R, N]; those of full thinking: full_right, full_tokens [N];
    questions [N], the number of each rollout's question."""

    rules: tuple[Rule, ...]
    right: Flags
    tokens: NDArray[np.float32]
    full_right: Flags
    full_tokens: Reals
    questions: NDArray[np.int64]

    def of(self, rows: NDArray[np.int64]) -> "RuleTable":
        """The table of the rollouts in `rows` only."""
        parts = (self.full_right[rows], self.full_tokens[rows], self.questions[rows])
        return RuleTable(self.rules, self.right[:, rows], self.tokens[:, rows], *parts)

    def joined(self, other: "RuleTable") -> "RuleTable":
        """One table of this one and `other`, which has the same rules on other questions."""
        return RuleTable(
            self.rules,
            np.concatenate([self.right, other.right], axis=1),
            np.concatenate([self.tokens, other.tokens], axis=1),
            np.concatenate([self.full_right, other.full_right]),
            np.concatenate([self.full_tokens, other.full_tokens]),
            np.concatenate([self.questions, other.questions + self.questions.max(initial=-1) + 1]),
        )

    def first_of_each_question(self) -> NDArray[np.int64]:
        """The row of the first rollout of every question."""
        return np.unique(self.questions, return_index=True)[1].astype(np.int64)

    @property
    def lost(self) -> NDArray[np.int64]:
        """[R] number of rollouts that full thinking gets right and the rule wrong."""
        return np.asarray((self.full_right & ~self.right).sum(1))

    @property
    def _weights(self) -> Reals:
        """[N] 1 / (number of rollouts of the same question), so that every question counts once."""
        _, numbers, sizes = np.unique(self.questions, return_inverse=True, return_counts=True)
        return np.asarray(1.0 / sizes[numbers])

    @property
    def lost_rate(self) -> Reals:
        """[R] share of what full thinking gets right that the rule gets wrong, every question counting once."""
        weights = self._weights
        return np.asarray((self.full_right & ~self.right) @ weights / max(1e-9, float(self.full_right @ weights)))

    @property
    def saved(self) -> Reals:
        """[R] share of full thinking's tokens saved, every question counting once."""
        weights = self._weights
        return np.asarray(1 - self.tokens @ weights / float(self.full_tokens @ weights))

    @property
    def accuracy_change(self) -> Reals:
        """[R] accuracy minus that of full thinking, in points of 100, every question counting once."""
        weights = self._weights
        return np.asarray(100 * (self.right @ weights - self.full_right @ weights) / weights.sum())

    @property
    def accuracy_lost_at_most(self) -> Reals:
        """[R] upper bound (95 % confidence) of the points of accuracy lost, a normal approximation over questions."""
        lost = self.full_right.astype(np.float32) - self.right
        _, numbers, sizes = np.unique(self.questions, return_inverse=True, return_counts=True)
        by_question = np.stack([np.bincount(numbers, lost_by_rule) for lost_by_rule in lost]) / sizes * 100
        return np.asarray(by_question.mean(1) + _ONE_SIDED_95 * by_question.std(1) / np.sqrt(len(sizes)))

"""Ways to combine several samples of full thinking into one answer, each at the cost of all the samples it needs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drr.evaluate.run import Row
from drr.learn.arrays import Reals
from drr.tasks.grading_pool import Grading

COUNTS = (2, 3, 4, 6, 8, 12, 16)
"""Numbers of samples that are combined."""

LIKE_ONE_SAMPLE = ("self-consistency", "best of k: dm", "vote of k: dm", "until two agree", "until two agree: dm")
"""Families whose combination of one sample is that sample."""


@dataclass(frozen=True, slots=True)
class Combined:
    """One way to combine samples: of every question, those that are drawn and the one whose answer is given. `share` is
    the share of all samples that are drawn at every question, None where that differs."""

    name: str
    family: str
    drawn: list[list[Row]]
    picked: list[Row]
    share: float | None


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one question, in the order in which they are drawn. `agree` [K, K]: whether sample j gives the
    answer of sample i; `p_now` [K], 0 where unknown."""

    rows: list[Row]
    agree: NDArray[np.bool_]
    p_now: Reals

    def votes(self, count: int, weights: Reals | None = None) -> Reals:
        """[count] what the first `count` samples, which weigh 1 each or `weights` [K], give every sample's answer."""
        voters = np.ones(count) if weights is None else weights[:count]
        return np.asarray(self.agree[:count, :count] @ voters, dtype=np.float64)

    def until_two_agree(self, most: int) -> int:
        """How many samples are drawn until two of them agree, at most `most`."""
        return next((count for count in range(2, most) if self.votes(count).max() >= 2), most)

    def majority(self, count: int) -> int:
        """The first sample with the answer that most share; the first of all where no two agree."""
        votes = self.votes(count)
        return int(votes.argmax()) if votes.max() >= 2 else 0

    def best(self, count: int) -> int:
        """The sample that the DM believes in most."""
        return int(self.p_now[:count].argmax())

    def voted(self, count: int) -> int:
        """The first sample with the answer that has the largest sum of `p_now` behind it."""
        return int(self.votes(count, self.p_now).argmax())

    def agreed_or_best(self, count: int) -> int:
        """The first sample with the answer that two share; the one that the DM believes in most where no two agree."""
        votes = self.votes(count)
        return int(votes.argmax()) if votes.max() >= 2 else self.best(count)


def combined(samples: Sequence[list[Row]], grading: Grading) -> Iterator[Combined]:
    """Every way to combine the samples of the questions, for every number of samples up to theirs."""
    asked = read_samples(samples, grading)
    scored = not all(np.isnan(row.p_now) for rows in samples for row in rows)
    have = max(len(rows) for rows in samples)
    for count in (count for count in COUNTS if count <= have):
        every = [min(count, len(rows)) for rows in samples]
        agreed = [one.until_two_agree(most) for one, most in zip(asked, every, strict=True)]
        yield _by(Samples.majority, f"self-consistency, {count}", "self-consistency", asked, every, count / have)
        if count > 2:
            yield _by(Samples.majority, f"until two agree, {count}", "until two agree", asked, agreed)
        if scored:
            yield _by(Samples.best, f"best of {count} by DM", "best of k: dm", asked, every, count / have)
            yield _by(Samples.voted, f"vote of {count} by DM", "vote of k: dm", asked, every, count / have)
            if count > 2:
                name = f"until two agree, or best of {count} by DM"
                yield _by(Samples.agreed_or_best, name, "until two agree: dm", asked, agreed)
        yield _by(_right, f"any of {count} (oracle)", "any of k (oracle)", asked, every, count / have)


def read_samples(samples: Sequence[list[Row]], grading: Grading) -> list[Samples]:
    """The samples of every question, compared with each other."""
    return [_read(rows, grading) for rows in samples]


def _by(
    choose: Callable[[Samples, int], int],
    name: str,
    family: str,
    asked: Sequence[Samples],
    counts: Sequence[int],
    share: float | None = None,
) -> Combined:
    drawn = [one.rows[:count] for one, count in zip(asked, counts, strict=True)]
    picked = [one.rows[choose(one, count)] for one, count in zip(asked, counts, strict=True)]
    return Combined(name, family, drawn, picked, share)


def _right(samples: Samples, count: int) -> int:
    return int(np.asarray([row.right for row in samples.rows[:count]]).argmax())


def _read(rows: list[Row], grading: Grading) -> Samples:
    agree = grading.agreement([row.answer for row in rows], f"question {rows[0].question}")
    return Samples(rows, np.asarray(agree, dtype=bool), np.nan_to_num(np.asarray([row.p_now for row in rows])))

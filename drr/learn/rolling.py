"""Questions rolled out and graded, batch by batch: what is the same however a Reasoner is asked."""

import asyncio
import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from drr.learn.distill_config import DistillConfig
from drr.learn.distill_folder import close_folder, open_folder, shard_path
from drr.learn.from_log import Drawn
from drr.learn.records import Manifest, Rollout, write_shard
from drr.progress import Progress
from drr.tasks import Question
from drr.tasks.grading_pool import Grading
from drr.tasks.rows import Reject

Result = TypeVar("Result")

_BATCHES = 2
"""Batches under way at once: while the longest attempts of one end, the next one keeps the engine busy."""


class Fault(NamedTuple):
    """Why a question cannot be used: what of it is at fault, and the reason."""

    field: str
    reason: str


@dataclass(slots=True)
class Attempt:
    """A rollout before it is graded."""

    sample: int
    drawn: Drawn
    answer: str
    steps: list[str]
    step_tokens: list[int]
    logprobs: list[list[float] | None]
    prompt_ids: list[int]
    thought_ids: list[int]
    thinking_tokens: int
    total_tokens: int
    right: tuple[str, bool] | None = None
    """What the answer was last graded against, and how."""

    def contexts(self) -> Iterator[list[int]]:
        """The token ids up to each boundary."""
        for end in itertools.accumulate(self.step_tokens):
            yield [*self.prompt_ids, *self.thought_ids[:end]]


class QuestionRoller(ABC):
    """Rolls questions out and grades them; subclasses ask the Reasoner."""

    def __init__(self, config: DistillConfig, grading: Grading) -> None:
        self._config, self._grading = config, grading
        self._slots = asyncio.Semaphore(config.concurrency)

    async def rollouts(
        self, questions: Sequence[Question]
    ) -> AsyncGenerator[tuple[Question, list[Rollout] | Fault], None]:
        """Yields each question with its rollouts, in the order in which they finish. A question that could not be
        rolled out or graded comes with the reason instead."""
        async with contextlib.aclosing(as_finished(map(self._question, questions))) as results:
            async for result in results:
                yield result

    @abstractmethod
    def _prompt(self, question: Question) -> list[int] | Fault:
        """The token ids of a question, none where they are not known; or why it cannot be asked."""

    @abstractmethod
    async def _attempt(self, question: Question, prompt_ids: list[int], sample: int) -> Attempt:
        """One attempt."""

    @abstractmethod
    async def _graded(self, question: Question, gold: str, attempt: Attempt) -> Rollout:
        """An attempt with its labels."""

    def _first_rollouts(self, question: Question) -> int:
        """How many attempts a question gets before it is known whether its outcomes are mixed."""
        return self._config.rollouts

    async def _question(self, question: Question) -> tuple[Question, list[Rollout] | Fault]:
        config = self._config
        ids = self._prompt(question)
        if isinstance(ids, Fault):
            return question, ids
        first = self._first_rollouts(question)
        if config.labels == "gold":
            fault = await asyncio.to_thread(self._grading.gold_fault, question.answer)
            if fault is not None:
                return question, Fault("answer", fault)
        attempts = await self._attempts(question, ids, range(first))
        gold = await asyncio.to_thread(self._gold, question, attempts)
        outcomes = [] if gold is None else [await self._is_right(question, attempt, gold) for attempt in attempts]
        if any(outcomes) and not all(outcomes) and config.extra_rollouts:
            attempts += await self._attempts(question, ids, range(first, first + config.extra_rollouts))
            gold = await asyncio.to_thread(self._gold, question, attempts)
        if gold is None:
            return question, Fault("question", "no two rollouts agree on an answer")
        return question, list(await asyncio.gather(*(self._graded(question, gold, attempt) for attempt in attempts)))

    async def _attempts(self, question: Question, ids: list[int], samples: Iterable[int]) -> list[Attempt]:
        return list(await asyncio.gather(*(self._attempt(question, ids, sample) for sample in samples)))

    def _gold(self, question: Question, attempts: Sequence[Attempt]) -> str | None:
        if self._config.labels == "gold":
            return question.answer
        return self._grading.majority([attempt.answer for attempt in attempts], named(question))

    async def _is_right(self, question: Question, attempt: Attempt, gold: str) -> bool:
        if attempt.right is None or attempt.right[0] != gold:
            where = f"{named(question)}, rollout {attempt.sample}"
            attempt.right = gold, await self._grading.right_soon(attempt.answer, gold, where)
        return attempt.right[1]


def named(question: Question) -> str:
    """The question's row in its file, or the beginning of a generated one."""
    return f"row {question.row}" if question.row else f"question {question.text[:60]!r}"


async def write_rollouts(
    make_roller: Callable[[Grading], QuestionRoller],
    questions: Sequence[Question],
    out: Path,
    config: DistillConfig,
    settings: dict[str, Any],
    *,
    rejects: Sequence[Reject] = (),
    name: str = "Rollouts",
    source: str = "questions",
) -> Manifest:
    """Roll out and grade `questions` into Parquet shards in `out`, batch by batch; `settings` are all that the records
    depend on. Batches that are in `out` already are kept. InputError, which names the difference, if `out` was begun
    with other settings."""
    manifest = open_folder(out, settings)
    size = config.shard_questions
    starts = range(0, len(questions), size)
    missing = [start for start in starts if not shard_path(out, start).exists()]
    done = sum(min(size, len(questions) - start) for start in starts if start not in missing)
    with Grading(config.grader) as grading, Progress(name, len(questions), done) as progress:
        roller, places = make_roller(grading), asyncio.Semaphore(_BATCHES)

        async def batch(start: int) -> None:
            async with places:
                rollouts: list[Rollout] = []
                set_aside: list[Reject] = []
                asked = questions[start : start + size]
                async with contextlib.aclosing(roller.rollouts(asked)) as results:
                    async for question, result in results:
                        if isinstance(result, Fault):
                            row = question.row or start + asked.index(question) + 1
                            set_aside.append(Reject(question.source or source, row, *result))
                        else:
                            rollouts.extend(result)
                        progress.advance(f"{len(rollouts)} rollouts in this batch")
                rollouts.sort(key=lambda rollout: (rollout.question, rollout.sample))
                write_shard(shard_path(out, start), rollouts, set_aside, over_limits_of(grading, asked))

        async with contextlib.aclosing(as_finished(map(batch, missing))) as written:
            async for _ in written:
                pass
    return close_folder(out, manifest, rejects)


async def as_finished(work: Iterable[Coroutine[Any, Any, Result]]) -> AsyncGenerator[Result, None]:
    """Do everything at once, and yield the results as they come. The first error ends all of it; so does closing."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def over_limits_of(grading: Grading, questions: Sequence[Question]) -> list[str]:
    """Which answers to these questions took too long to grade."""
    names = tuple(f"{named(question)}, {what}" for question in questions for what in ("rollout ", "majority"))
    return sorted(str(overrun) for overrun in grading.overruns if overrun.where.startswith(names))

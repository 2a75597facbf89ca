"""Grade with limits: what may take any time or memory runs in worker processes that can be stopped.

Plain comparisons are made at once, here. Those that need a computer-algebra system, and functions of the user's, go to
workers (pebble). A worker that takes too long is killed, one that takes too much memory or dies is replaced; the answer
counts as wrong, the case is recorded with its name, and grading goes on. Workers are forked from a small server process
that has loaded what grading needs and nothing else, so they start at once, and beside CUDA. No limit needs a signal
handler. The workers end with `close`, and with this process, however it ends.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pebble import ProcessExpired, ProcessPool

from drr.errors import InputError
from drr.tasks.answers import Expression
from drr.tasks.grading import GRADERS, Comparison, agreement, check_gold, decide, majority_answer
from drr.tasks.grading_worker import MEMORY_EXIT, Limits, Work, run

_MOST_WORKERS = 4
_SOME_NUMBER = "0.123456789"
_TRIES = 3
"""The pool breaks, and is started again, where a worker dies before its work is known to have begun."""


OWN_LIMITS = Limits(seconds=60.0, memory=4 * 2**30)
"""For a function of the user's, which may have to load much."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """A comparison that was given up. `where` names the question or row, `limit` what was exceeded."""

    where: str
    limit: str

    def __str__(self) -> str:
        return f"{self.where}: {self.limit}"


class _GivenUpError(Exception):
    """A comparison exceeded a limit; the message says which."""


class Grading:
    """Grades by a grader's name or a user's `module:function`, and keeps the comparisons that were given up.

    Any thread may call it. Use it as a context manager, or `close` it.
    """

    def __init__(self, grader: str, limits: Limits | None = None) -> None:
        """InputError if there is no such grader."""
        self.grader, self._own = grader, grader not in GRADERS
        self.limits = limits or (OWN_LIMITS if self._own else Limits())
        self.overruns: list[Overrun] = []
        self._hopeless: dict[Work, str] = {}
        self._compared: dict[Work, bool] = {}
        self._folder = Path.cwd()
        self._pool: ProcessPool | None = None
        self._lock = threading.Lock()
        if self._own:
            self._check_loads()

    def right(self, response: str, gold: str, where: str) -> bool:
        """Whether the response's answer is right. False, and recorded as `where`, if that takes too much. InputError if
        a function of the user's fails."""
        work = self._work(response, gold)
        return work if isinstance(work, bool) else self._within_limits(work, where)

    async def right_soon(self, response: str, gold: str, where: str) -> bool:
        """`right`, for callers on an event loop, which it does not hold up."""
        work = await asyncio.to_thread(self._work, response, gold)
        if isinstance(work, bool):
            return work
        if work in self._hopeless:
            return self._given_up(work, where)
        for _ in range(_TRIES):
            future = self._schedule(work)
            await _ended(future)
            with contextlib.suppress(BrokenExecutor):
                return self._within_limits(work, where, future)
            await asyncio.to_thread(self._restart)
        return self._given_up(work, where, "its process died")

    def majority(self, responses: Sequence[str], where: str) -> str | None:
        """The answer that most responses agree on; None if no two agree. See `majority_answer`. An answer that exceeds
        a limit by itself is compared no further, because every comparison would."""
        return majority_answer(responses, self._comparing(where))

    def agreement(self, responses: Sequence[str], where: str) -> list[list[bool]]:
        """[i][j] whether response j gives the answer of response i, compared as for `majority`."""
        return agreement(responses, self._comparing(where))

    def _comparing(self, where: str) -> Callable[[str, str], bool]:
        """Whether a response gives an answer."""
        hopeless: set[str] = set()

        def agree(response: str, answer: str) -> bool:
            if hopeless.isdisjoint((response, answer)):
                before = len(self.overruns)
                if self.right(response, answer, f"{where}, majority"):
                    return True
                if len(self.overruns) > before:
                    hopeless.update(text for text in (response, answer) if self._exceeds(text))
            return False

        return agree

    def gold_fault(self, gold: str) -> str | None:
        """Why nothing can be graded against `gold`; None if it can be used."""
        found = check_gold(gold, self.grader)
        if not isinstance(found, Expression):
            return found
        try:
            readable = self._result(Work("read", found.text))
        except _GivenUpError as error:
            return f"cannot be read within the limits: {error}"
        return None if readable else "is no expression that can be read"

    def close(self) -> None:
        """End the workers."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _work(self, response: str, gold: str) -> bool | Work:
        if self._own:
            return Work("own", self.grader, response, gold)
        decided = decide(self.grader, response, gold)  # type: ignore[arg-type]
        return Work("compare", decided.gold, decided.answer) if isinstance(decided, Comparison) else decided

    def _exceeds(self, answer: str) -> bool:
        """Whether an answer exceeds a limit, compared with some number. What a function of the user's would do with
        that number is not known."""
        work = False if self._own else self._work(answer, _SOME_NUMBER)
        if not isinstance(work, bool):
            try:
                self._result(work)
            except _GivenUpError:
                return True
        return False

    def _check_loads(self) -> None:
        try:
            self._result(Work("load", self.grader))
        except _GivenUpError as error:
            self.close()
            raise InputError("--grader", f"{self.grader!r} cannot be loaded: {error}") from error
        except InputError:
            self.close()
            raise

    def _within_limits(self, work: Work, where: str, ended: "Future[Any] | None" = None) -> bool:
        """The result of `work`; of the future if its work has ended. False, and recorded, where a limit is exceeded."""
        try:
            return self._result(work) if ended is None else self._outcome(ended)
        except _GivenUpError as error:
            return self._given_up(work, where, str(error))

    def _given_up(self, work: Work, where: str, limit: str = "") -> bool:
        """Record that `work` exceeded a limit, now or when it was tried before."""
        limit = self._hopeless.setdefault(work, limit)
        self.overruns.append(Overrun(where, limit))
        return False

    def _result(self, work: Work) -> bool:
        """The result of `work`, waited for. _GivenUpError names the limit that it exceeds."""
        if work in self._hopeless:
            raise _GivenUpError(self._hopeless[work])
        if work in self._compared:
            return self._compared[work]
        for _ in range(_TRIES):
            with contextlib.suppress(BrokenExecutor):
                return self._compared.setdefault(work, self._outcome(self._schedule(work)))
            self._restart()
        raise _GivenUpError("its process died")

    def _outcome(self, future: "Future[Any]") -> bool:
        """The future's result, waited for. _GivenUpError names the limit that was exceeded."""
        try:
            result: bool | InputError = future.result()
        except TimeoutError as error:
            raise _GivenUpError(f"took more than {self.limits.seconds:g} s") from error
        except ProcessExpired as error:
            taken = f"took more than {self.limits.memory / 2**20:g} MiB of memory"
            raise _GivenUpError(taken if error.exitcode == MEMORY_EXIT else _death(error.exitcode)) from error
        if isinstance(result, InputError):
            raise result
        return result

    def _schedule(self, work: Work) -> "Future[Any]":
        with self._lock:
            if self._pool is None:
                self._pool = _pool()
            future: Future[Any] = self._pool.schedule(
                run, (work, self.limits, self._folder), timeout=self.limits.seconds
            )
            return future

    def _restart(self) -> None:
        with self._lock:
            broken, self._pool = self._pool, None
        if broken is not None:
            broken.stop()  # type: ignore[no-untyped-call]
            broken.join()


async def _ended(future: "Future[Any]") -> None:
    """Wait for the end of the future's work, without its result; stop the work if the waiting is cancelled."""
    waiting = asyncio.wrap_future(future)
    try:
        await asyncio.wait([waiting])
        waiting.exception()
    except asyncio.CancelledError:
        waiting.cancel()
        raise


def gold_faults(grading: Grading, golds: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yields the place of every gold answer that nothing can be graded against, and why. A gold answer that occurs
    several times is read once."""
    fault = cache(grading.gold_fault)
    for place, gold in enumerate(golds):
        reason = fault(gold)
        if reason is not None:
            yield place, reason


def _pool() -> ProcessPool:
    context = multiprocessing.get_context("forkserver")
    # The slow import only. The server does not know this process's search path, its workers are told it.
    context.set_forkserver_preload(["math_verify"])
    return ProcessPool(max_workers=min(_MOST_WORKERS, os.cpu_count() or 1), context=context)


def _death(status: int | None) -> str:
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process ended with status {status}"

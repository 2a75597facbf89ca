"""Which responses are logged, and when a row of one is handed to the writer.

What a response was is noted when it ends; everything that takes time (rows, files) is done in the writer's thread.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from drr.loop.response import Event, Finished, Loop
from server.decisions.rows import Ended, LogIdentity, Request, Row, row_of
from server.plan import ResponsePlan
from server.vllm_api import SamplingParams
from server.watchers import Unfinished

_STEP_BYTES, _TOKEN_BYTES, _PROMPT_TOKEN_BYTES = 512, 256, 40
"""About what a boundary, a token and a token of the prompt take in memory."""


class Writer(Protocol):
    """What takes rows; see drr.decisions.writer."""

    def submit(self, make: Callable[[], Row], size: int = 0) -> bool: ...


@dataclass(frozen=True, slots=True)
class DecisionLog:
    """Takes a share of a server's responses into its log; with `text` it holds what was asked, thought and answered."""

    writer: Writer
    identity: LogIdentity
    share: float = 1.0
    text: bool = False

    def begin(
        self,
        plan: ResponsePlan,
        prompt: Mapping[str, Any],
        params: SamplingParams,
        request_id: str,
        options: Mapping[str, Any],
        loops: Sequence[Loop],
    ) -> "LoggedResponse | None":
        """A response that will be logged; None for one that will not. One draw decides about all choices of a request,
        and no client has a say in it. `loops` make its choices."""
        if not plan.question or random.random() >= self.share:
            return None
        return LoggedResponse(self, Request(request_id, plan, prompt, params, options), loops)


@dataclass(slots=True)
class LoggedResponse:
    """One response that is logged, choice by choice as they end."""

    log: DecisionLog
    request: Request
    loops: Sequence[Loop]
    _ended: set[int] = field(default_factory=set)

    def note(self, index: int, event: Event) -> None:
        """An event of a choice."""
        if isinstance(event, Finished):
            self._end(index, event.finish_reason)

    def close(self, unfinished: Unfinished | None) -> None:
        """What has not ended by now was aborted."""
        for index in range(len(self.loops)):
            if index not in self._ended:
                self._end(index, None)

    def _end(self, index: int, finish_reason: str | None) -> None:
        """A choice is complete, or was aborted (no `finish_reason`). What will be written is what it is now."""
        self._ended.add(index)
        log, loop = self.log, self.loops[index]
        outputs, steps = loop.outputs if log.text else [], tuple(loop.outcome.steps)
        ended = Ended(index, time.time(), loop.outcome, steps, finish_reason, outputs)
        size = _STEP_BYTES * len(steps) + _TOKEN_BYTES * ended.outcome.generated_tokens
        size += _PROMPT_TOKEN_BYTES * len(self.request.prompt_ids)
        log.writer.submit(partial(row_of, log.identity, self.request, ended, text=log.text), size)

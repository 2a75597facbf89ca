"""One replica: an engine that decodes all its sequences in steps (continuous batching), and a queue before it.

A decode step gives every running sequence one token. Nothing changes between an admission and the next end of a
sequence, so the simulation jumps over the steps between; only the moments at which something changes are events."""

import heapq
from collections import OrderedDict, deque
from collections.abc import Generator
from dataclasses import dataclass
from itertools import count
from typing import Any

import simpy

from benchmarks.fleet.service import ServiceTimes
from benchmarks.fleet.work import Request


@dataclass(frozen=True, slots=True)
class Limits:
    """What a replica takes: sequences at once, requests that wait (more are refused, HTTP 429; None: any number),
    tokens of KV cache (None: no limit), and conversations whose prefix it keeps.

    A sequence reserves its cache for its whole length when it is admitted; vLLM reserves as it goes and sets sequences
    aside where that fails, so this is the careful side."""

    running: int
    waiting: int | None = None
    kv_tokens: int | None = None
    conversations: int = 10_000

    def __post_init__(self) -> None:
        if self.running < 1 or (self.waiting is not None and self.waiting < 0):
            raise ValueError("running at least 1, waiting not below 0")


class Replica:
    """A server. `load` is how many requests it has, `busy` the seconds in which it computed, `area` the integral of
    `load` over time, `most` its largest batch, and `held` the largest number of cached tokens."""

    def __init__(self, world: simpy.Environment, times: ServiceTimes, limits: Limits) -> None:
        self._world, self._times, self._limits = world, times, limits
        self._waiting = deque[Request]()
        self._running: list[tuple[int, int, Request]] = []  # a heap by the number of the last step
        self._numbers, self._steps, self._kv = count(), 0, 0
        self._prefixes = OrderedDict[int, int]()
        self._arrival: simpy.Event | None = None
        self._noted = 0.0
        self.busy = self.area = 0.0
        self.most = self.held = 0
        world.process(self._work())

    @property
    def load(self) -> int:
        return len(self._waiting) + len(self._running)

    def offer(self, request: Request) -> bool:
        """Take a request, or refuse it where the queue is full (or its cache could never hold it)."""
        limits = self._limits
        beyond = None if limits.waiting is None else limits.running + limits.waiting
        too_large = limits.kv_tokens is not None and _size(request) > limits.kv_tokens
        if too_large or (beyond is not None and self.load >= beyond):
            return False
        self._note()
        self._waiting.append(request)
        if self._arrival is not None and not self._arrival.triggered:
            self._arrival.succeed()
        return True

    def _note(self) -> None:
        self.area += self.load * (self._world.now - self._noted)
        self._noted = self._world.now

    def _work(self) -> Generator[simpy.Event, Any, None]:
        while True:
            if not self._running and not self._waiting:
                self._arrival = self._world.event()
                yield self._arrival
            self._arrival = None
            begun = self._world.now
            if new := self._admit():
                prompts = sum(request.prompt - self._known(request) for request in new)
                yield self._world.timeout(self._times.step(len(self._running)) + self._times.prefill * prompts)
                self._steps += 1
                for request in new:
                    request.first = self._world.now
            else:
                yield from self._jump()
            self.busy += self._world.now - begun
            self._end()

    def _admit(self) -> list[Request]:
        new: list[Request] = []
        while self._waiting and len(self._running) < self._limits.running and self._fits(self._waiting[0]):
            request = self._waiting.popleft()
            request.admitted = self._world.now
            extra = round(self._times.restart * request.work.restarts)
            heapq.heappush(self._running, (self._steps + request.work.tokens + extra, next(self._numbers), request))
            self._kv += _size(request)
            new.append(request)
        self.most, self.held = max(self.most, len(self._running)), max(self.held, self._kv)
        return new

    def _fits(self, request: Request) -> bool:
        return self._limits.kv_tokens is None or self._kv + _size(request) <= self._limits.kv_tokens

    def _jump(self) -> Generator[simpy.Event, Any, None]:
        """Decode until a sequence ends, or until a request arrives that there is room for."""
        step, steps, begun = self._times.step(len(self._running)), self._running[0][0] - self._steps, self._world.now
        end = self._world.timeout(steps * step)
        if self._waiting or len(self._running) == self._limits.running:  # a newcomer would have to wait anyway
            yield end
        else:
            self._arrival = self._world.event()
            yield end | self._arrival
            if self._arrival.triggered and not end.processed:  # the step that is under way ends first
                passed = int((self._world.now - begun) / step) + 1 if step else 0
                steps = min(steps, passed)
                yield self._world.timeout(max(0.0, begun + steps * step - self._world.now))
            self._arrival = None
        self._steps += steps

    def _end(self) -> None:
        while self._running and self._running[0][0] <= self._steps:
            self._note()
            _, _, request = heapq.heappop(self._running)
            self._kv -= _size(request)
            self._keep(request)
            request.end = self._world.now

    def _known(self, request: Request) -> int:
        """Tokens of the prompt that are in the cache."""
        return min(request.shared, self._prefixes.get(request.conversation, 0))

    def _keep(self, request: Request) -> None:
        self._prefixes[request.conversation] = request.prompt + request.work.tokens
        self._prefixes.move_to_end(request.conversation)
        if len(self._prefixes) > self._limits.conversations:
            self._prefixes.popitem(last=False)


def _size(request: Request) -> int:
    """Tokens that its cache holds in the end."""
    return request.prompt + request.work.tokens

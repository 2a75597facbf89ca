"""Load on an OpenAI-compatible server: streamed chat completions, closed loop or Poisson arrivals, timed at the client.

A client on the server's machine uses cores that the server needs, and so distorts what it measures. This one is
therefore cheap: it uses aiohttp, as vLLM's benchmarks do, whose parser is compiled; it recognises text chunks by their
bytes, and decodes only the chunk that carries `usage`.
"""

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil

_TEXT = re.compile(rb'"(?:content|reasoning|reasoning_content)":\s*"(?!")')
"""Matches a delta with text. Text itself cannot match, because quotes in it are escaped."""

_USAGE = re.compile(rb'"usage":\s*\{')


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and the fields (`body`) that are added to every request to it. `url` is the root, without /v1."""

    name: str
    url: str
    model: str
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """How requests arrive: from `clients` that each wait for their answer, or `rate` per second, however many are under
    way.

    Clients begin one after the other, `ramp` seconds apart. After `seconds` no request is begun; those under way then
    get `grace` seconds to finish, the same time again where it is None.
    """

    clients: int | None = None
    rate: float | None = None
    ramp: float = 0.0
    seconds: float = 600.0
    seed: int = 0
    grace: float | None = None

    @property
    def name(self) -> str:
        """For tables and pictures."""
        return counted_clients(self.clients or 1) if self.rate is None else f"{self.rate:g} requests/s"


def counted_clients(number: int) -> str:
    """The number of clients in words, such as `1 client` or `16 clients`."""
    return f"{number} client{'s' * (number != 1)}"


@dataclass(slots=True)
class Sample:
    """One request. Times are seconds from the start of the run; `due` is when it should have been sent.

    `gaps` are the seconds between chunks with text; `tokens` is the number of generated tokens by the server's usage;
    `answer` is the text of the answer if answers are kept.
    """

    due: float
    first: float | None = None
    end: float | None = None
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    answer: str = ""
    error: str | None = None


@dataclass(slots=True)
class Run:
    """The requests of one load on one server; `seconds` from the first request to the last answer.

    `stolen` is the share of this machine's CPU time that its host gave to other virtual machines meanwhile, 0 if it is
    not reported. Runs with different shares cannot be compared.
    """

    target: str
    load: str
    seconds: float
    samples: list[Sample]
    stolen: float = 0.0


async def drive(
    target: Target,
    prompts: Sequence[Mapping[str, Any]],
    load: Load,
    on_done: Callable[[], None] = lambda: None,
    *,
    keep_answers: bool = False,
) -> Run:
    """Send all `prompts` (parts of request bodies, with at least `messages`) as `load` says.

    The samples are in the order of the prompts. `on_done` is called after every request.
    """
    samples: list[Sample] = []
    kept: list[tuple[Sample, list[bytes]]] = []
    forever = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=forever, trust_env=True) as http:
        before = psutil.cpu_times()
        started = time.perf_counter()  # only now, because making the client can take half a second

        async def one(prompt: Mapping[str, Any], due: float) -> None:
            sample = Sample(due)
            samples.append(sample)
            events = await _ask(http, target, prompt, sample, started)
            on_done()
            if keep_answers:
                kept.append((sample, events))

        work = _closed(prompts, load, started, one) if load.rate is None else _open(prompts, load, started, one)
        try:
            await asyncio.wait_for(work, load.seconds + (load.seconds if load.grace is None else load.grace))
        except TimeoutError:
            for sample in samples:
                if sample.end is None and sample.error is None:
                    sample.error = "unfinished when the time was over"
    stolen = stolen_share(before, psutil.cpu_times())
    for sample, events in kept:  # only now, when nothing is timed any more
        sample.answer = "".join(map(_answer_text, events))
    ends = [sample.end for sample in samples if sample.end is not None]
    return Run(target.name, load.name, max(ends, default=time.perf_counter() - started), samples, stolen)


def stolen_share(before: Any, after: Any) -> float:
    """The share of stolen CPU time between two readings of psutil.cpu_times; 0 where it is not reported (not Linux)."""
    spent = {name: getattr(after, name) - getattr(before, name) for name in after._fields if "guest" not in name}
    return float(spent.get("steal", 0.0) / max(sum(spent.values()), 1e-9))


Send = Callable[[Mapping[str, Any], float], Any]


async def _closed(prompts: Sequence[Mapping[str, Any]], load: Load, started: float, send: Send) -> None:
    waiting = iter(prompts)

    async def client(number: int) -> None:
        await asyncio.sleep(number * load.ramp)
        for prompt in waiting:
            now = time.perf_counter() - started
            if now > load.seconds:
                return
            await send(prompt, now)

    async with asyncio.TaskGroup() as group:
        for number in range(load.clients or 1):
            group.create_task(client(number))


async def _open(prompts: Sequence[Mapping[str, Any]], load: Load, started: float, send: Send) -> None:
    assert load.rate is not None
    arrivals = random.Random(load.seed)
    due = 0.0
    async with asyncio.TaskGroup() as group:
        for prompt in prompts:
            if due > load.seconds:
                return
            await asyncio.sleep(started + due - time.perf_counter())
            # Latency counts from when the request was due, so that a client that falls behind does not hide it.
            group.create_task(send(prompt, due))
            due += arrivals.expovariate(load.rate)


async def _ask(
    http: aiohttp.ClientSession, target: Target, prompt: Mapping[str, Any], sample: Sample, started: float
) -> list[bytes]:
    """Send one request and record the times of its chunks in `sample`; returns the events with text."""
    texts: list[bytes] = []
    body = {"model": target.model, "stream": True, "stream_options": {"include_usage": True}, **prompt, **target.body}
    try:
        url = f"{target.url}/v1/chat/completions"
        # Redirects would turn every request into two, so they are an error.
        async with http.post(url, json=body, allow_redirects=False) as response:
            if response.status != 200:
                sample.error = f"HTTP {response.status}: {(await response.read())[:300].decode(errors='replace')}"
                return texts
            last = 0.0
            async for event in _events(response):
                now = time.perf_counter() - started
                if _TEXT.search(event):
                    texts.append(event)
                    if sample.first is None:
                        sample.first = now
                    else:
                        sample.gaps.append(now - last)
                    last = now
                if _USAGE.search(event) or b'"error":' in event[:20]:
                    _note(event, sample)
            sample.end = time.perf_counter() - started
    except aiohttp.ClientError as error:
        sample.error = f"{type(error).__name__}: {error}"
    if sample.error is None and sample.first is None:
        sample.error = "an answer without text"
    if sample.error is None and sample.tokens == 0:
        sample.error = "an answer without usage"
    return texts


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in response.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n\n")
        for event in whole:
            yield event


def _answer_text(event: bytes) -> str:
    delta = json.loads(event.removeprefix(b"data:"))["choices"][0]["delta"]
    return delta.get("content") or ""


def _note(event: bytes, sample: Sample) -> None:
    data = json.loads(event.removeprefix(b"data:"))
    if "error" in data:
        sample.error = str(data["error"])[:300]
    elif data.get("usage"):
        sample.tokens = data["usage"]["completion_tokens"]

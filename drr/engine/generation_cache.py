"""A file of what a Reasoner generated, so that nothing is generated twice for the same prompt, sampling and seed.

Strategies that are compared ask the same Reasoner for the same tokens again and again: the first attempt at a question
is the same under all of them until one stops it. Whoever sees the stream cannot tell a cached one from the engine's,
except by the time it takes: tokens, log-probabilities, what heads in the engine say, and the chunks in which they came.
"""

import asyncio
import contextlib
import hashlib
import json
import sqlite3
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from drr.engine.open_reasoner import OpenReasoner, completion_output, engine_output
from drr.engine.vllm_probe import attempt_of
from drr.engine.vllm_reasoner import GREEDY, Generate
from drr.errors import InputError

_TABLE = "CREATE TABLE IF NOT EXISTS streams (key TEXT PRIMARY KEY, stream BLOB NOT NULL) WITHOUT ROWID"

_NOT_IN_KEY = frozenset(
    {"max_tokens", "logprobs", "logprob_token_ids", "stream_interval", "skip_clone", "output_text_buffer_length"}
)
"""Fields of the sampling parameters that do not change which tokens are drawn; what a request wants to be told, and how
many tokens, is compared with what a stream holds."""

_PASSES = 16
"""Passes of the event loop between two chunks from the cache: whoever the first one wakes has made its own requests
before the second comes."""


Chunk = tuple[list[int], str, list[dict[int, float] | None] | None, str | None, int | str | None]
"""Token ids, text, each token's log-probabilities by id, finish reason and stop reason."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A finished stream. `limit` is how many tokens it might have had, `told` how many likely tokens were told with
    each one (None: not even the drawn one's log-probability), `named` the ids that were named, `heads` the identity of
    the heads in the engine."""

    limit: int
    told: int | None
    named: tuple[int, ...]
    heads: str
    chunks: list[Chunk]

    def for_request(self, params: SamplingParams, heads: str) -> "Stream | None":
        """The stream as a request with these parameters would have seen it; None where this one cannot tell."""
        named = set(params.logprob_token_ids or ())
        if not named <= set(self.named) or (named and heads != self.heads):
            return None
        if params.logprobs is not None and (self.told is None or not 0 <= params.logprobs <= self.told):
            return None
        wanted, held = int(params.max_tokens or 0), sum(len(ids) for ids, *_ in self.chunks)
        if held <= wanted and (self.chunks[-1][3] != "length" or held == wanted):
            return self
        return self._cut(wanted) if held > wanted else None

    def _cut(self, wanted: int) -> "Stream | None":
        """The first `wanted` tokens; None of a stream with text, which may lag behind its tokens."""
        if any(text for _, text, *_ in self.chunks):
            return None
        kept, left = list[Chunk](), wanted
        for ids, text, logprobs, *_ in self.chunks:
            here = ids[:left]
            left -= len(here)
            last = left == 0
            kept.append((here, text, logprobs and logprobs[: len(here)], "length" if last else None, None))
            if last:
                break
        return replace(self, chunks=kept)

    def packed(self) -> bytes:
        """The stream as bytes."""
        return zlib.compress(json.dumps([self.limit, self.told, self.named, self.heads, self.chunks]).encode())

    @classmethod
    def unpacked(cls, packed: bytes) -> Self:
        """The stream from its bytes."""
        limit, told, named, heads, chunks = json.loads(zlib.decompress(packed))
        read = [
            (
                ids,
                text,
                logprobs and [one and {int(token): value for token, value in one.items()} for one in logprobs],
                finish,
                stop,
            )
            for ids, text, logprobs, finish, stop in chunks
        ]
        return cls(limit, told, tuple(named), heads, read)


@contextlib.contextmanager
def open_cache(path: Path | None, heads: Sequence[Path] = ()) -> Iterator["GenerationCache | None"]:
    """The cache in this file, None without one. `heads` are the files of the state heads in the engine. InputError if
    the file is no cache."""
    if path is None:
        yield None
        return
    identity = "/".join(hashlib.sha256(head.read_bytes()).hexdigest() for head in heads)
    with contextlib.closing(GenerationCache(path, identity)) as cache:
        yield cache


class GenerationCache:
    """Keeps finished streams in a file. `hits` and `misses` count requests since it was opened.

    Requests that nobody could repeat (sampled without a seed), and those that ask for what no stream holds (several
    choices, the prompt's log-probabilities, all of them, tokens without a limit), pass by it. Several processes may use
    one file.
    """

    def __init__(self, path: Path, heads: str = "") -> None:
        """`heads` identifies the heads in the engine. InputError if the file is no cache."""
        self.hits = self.misses = 0
        self._heads, self._beside = heads, _Beside()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, isolation_level=None, timeout=60)
            with contextlib.ExitStack() as closing:
                closing.callback(self._file.close)
                self._file.execute("PRAGMA journal_mode=WAL")
                self._file.execute("PRAGMA synchronous=NORMAL")
                self._file.execute(_TABLE)
                self._file.execute("SELECT key, stream FROM streams LIMIT 1")
                closing.pop_all()
        except (OSError, sqlite3.Error) as error:
            raise InputError("--use-cache", f"{path} cannot be used: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def before(self, reasoner: OpenReasoner) -> OpenReasoner:
        """The same Reasoner, asked only for what the file lacks."""
        identity = f"{reasoner.fingerprint or reasoner.name} {reasoner.computed}".rstrip()
        return replace(reasoner, generate=self._remembering(reasoner.generate, identity))

    def _remembering(self, generate: Generate, identity: str) -> Generate:
        async def cached(
            prompt: Mapping[str, Any], params: SamplingParams, request_id: str, **options: Any
        ) -> AsyncGenerator[RequestOutput, None]:
            ids = list(prompt["prompt_token_ids"])
            if not _repeatable(params):
                async with contextlib.aclosing(generate(prompt, params, request_id, **options)) as outputs:
                    async for output in outputs:
                        yield output
                return
            key = _key(identity, ids, params, options)
            found = self._find(key, params)
            if found is not None:
                self.hits += 1
                for output in _replayed(found, params, ids, request_id):
                    await self._beside.next_step(request_id)
                    yield output
                return
            self.misses += 1
            chunks = list[Chunk]()
            with self._beside.running(request_id) as stepped:
                async with contextlib.aclosing(generate(prompt, params, request_id, **options)) as outputs:
                    async for output in outputs:
                        stepped()
                        chunks.append(_chunk(output.outputs[0]))
                        if output.finished and chunks[-1][3] in ("stop", "length"):
                            self._keep(key, params, chunks)
                        yield output

        return cached

    def _find(self, key: str, params: SamplingParams) -> Stream | None:
        row = self._file.execute("SELECT stream FROM streams WHERE key = ?", (key,)).fetchone()
        return None if row is None else Stream.unpacked(row[0]).for_request(params, self._heads)

    def _keep(self, key: str, params: SamplingParams, chunks: list[Chunk]) -> None:
        named = tuple(params.logprob_token_ids or ())
        told = params.logprobs if params.logprobs is not None else 0 if named else None
        stream = Stream(int(params.max_tokens or 0), told, named, self._heads if named else "", chunks)
        self._file.execute("INSERT OR REPLACE INTO streams VALUES (?, ?)", (key, stream.packed()))


class _Beside:
    """Keeps a cached stream in step with what the engine does for the same attempt, such as a probe at a boundary: else
    an attempt would think on at no cost in time while it is judged, and tokens would be counted that no engine made."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    @contextlib.contextmanager
    def running(self, request_id: str) -> Iterator[Callable[[], None]]:
        """While the engine works on this request; whoever gets a chunk of it calls what this yields."""
        attempt = attempt_of(request_id)
        self._running[attempt] += 1
        stepped = partial(self._stepped, attempt)
        try:
            yield stepped
        finally:
            self._running[attempt] -= 1
            if not self._running[attempt]:
                del self._running[attempt]
            stepped()

    def _stepped(self, attempt: str) -> None:
        for waiting in self._waiting.pop(attempt, ()):
            if not waiting.done():
                waiting.set_result(None)

    async def next_step(self, request_id: str) -> None:
        """Wait until a cached stream of this request may send a chunk."""
        for _ in range(_PASSES):
            await asyncio.sleep(0)
        attempt = attempt_of(request_id)
        if self._running[attempt]:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(attempt, []).append(waiting)
            await waiting


def _repeatable(params: SamplingParams) -> bool:
    drawn_anew = params.temperature >= GREEDY and params.seed is None
    unusual = params.prompt_logprobs is not None or params.n != 1 or params.logprobs == -1 or params.max_tokens is None
    repeats_itself = params.output_kind is RequestOutputKind.CUMULATIVE  # every chunk holds those before it
    return not (drawn_anew or unusual or repeats_itself)


def _key(identity: str, ids: Sequence[int], params: SamplingParams, options: Mapping[str, Any]) -> str:
    """Identifies what decides which tokens are drawn."""
    fields = [name for name in params.__struct_fields__ if not name.startswith("_") and name not in _NOT_IN_KEY]
    asked = {name: repr(getattr(params, name)) for name in fields}
    if params.temperature < GREEDY:
        del asked["seed"]
    asked_whole = json.dumps([identity, list(ids), asked, sorted(map(repr, options.items()))])
    return hashlib.sha256(asked_whole.encode()).hexdigest()


def _chunk(completion: CompletionOutput) -> Chunk:
    logprobs = completion.logprobs and [
        one and {token: told.logprob for token, told in one.items()} for one in completion.logprobs
    ]
    return (
        list(completion.token_ids),
        completion.text,
        logprobs or None,
        completion.finish_reason,
        completion.stop_reason,
    )


def _replayed(stream: Stream, params: SamplingParams, ids: list[int], request_id: str) -> Iterator[RequestOutput]:
    for token_ids, text, logprobs, finish, stop in stream.chunks:
        told: Any = None
        if logprobs is not None and (params.logprobs is not None or params.logprob_token_ids):
            told = [one and {token: Logprob(value) for token, value in one.items()} for one in logprobs]
        completion = completion_output(list(token_ids), text, told, finish, stop)
        yield engine_output(request_id, ids, completion)

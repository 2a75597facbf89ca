"""Shadow canaries: a share of the responses that a judge may stop thinks in full, and the answer that stopping would
have given is asked for beside it, once the client has its own.

What a canary is worth is in metrics, by judge and rule, never by request. The operator pays for the second answer: its
tokens are in no client's usage and on no key's account.
"""

import asyncio
import contextlib
import contextvars
import hashlib
import json
import logging
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from drr.loop.formats import PlainChain, ReasoningFormat
from drr.loop.onlookers import Onlooker, Watch, WouldStop
from drr.loop.response import Emit, Event, Finished, Transcript
from drr.loop.scoring import Scorer
from server import metrics
from server.canary_counts import Answered, JudgedStop, count, count_dropped
from server.schema import DrrRequest
from server.settings import DmDefaults, Settings
from server.watchers import Unfinished

logger = logging.getLogger("drr")

DEFAULT_RULE = "default"

_LEFT_OPEN = frozenset(
    {"max_lost_correct", "max_steps", "max_thinking_tokens", "answer_tokens", "thinking_in", "report"}
)
"""Keys of a request that leave to the server how a judge stops it, or name a risk, which full thinking keeps."""

_MOST_WAITING = 32
"""Second answers that wait for their turn; what comes on top is dropped."""

_MOST_RUNNING = 2
_SECONDS = 60.0
"""What a second answer may take."""

Ask = Callable[[WouldStop], AsyncGenerator[Event, None]]
"""The events of the response that would have been, had it been stopped there."""


def may_be_canary(asked: DrrRequest | None, settings: Settings, choices: int) -> bool:
    """Whether a response may be one: a judge would stop it by the server's own rule, or by one that is certified for
    the risk that was asked for. Whoever names a mode, a rule or a judge gets that."""
    given = asked.given() if asked is not None else set[str]()
    return (
        choices == 1
        and given <= _LEFT_OPEN
        and settings.judged
        and settings.mode in ("auto", "shadow")
        and not (settings.rejects or settings.uncertified or settings.beam_search)
        and settings.max_thinking_tokens != 0
    )


def rule_of(settings: Settings) -> str:
    """The name of the rule that stops such a response, as its judge's calibration has it."""
    certificate = settings.certificate
    return DEFAULT_RULE if certificate is None else f"{100 * certificate.max_lost_correct:g} % lost"


@dataclass(frozen=True, slots=True)
class ShadowDm:
    """A DM that looks on at canaries: the name that `--dm-beside` gave it, its scorer, what its card says."""

    name: str
    scorer: Scorer
    dm: DmDefaults

    def onlooker(self, rule: str) -> Onlooker | None:
        """Its judgement of one response by the rule of that name; None where it has none of that name."""
        rules = {} if self.dm.calibration is None else self.dm.calibration.rules
        found = rules.get(rule) or (self.dm.rule if rule == DEFAULT_RULE else None)
        return None if found is None else Onlooker(f"dm:{self.name}", self.scorer, found)


@dataclass(slots=True)
class Canary:
    """One response that is a canary. `judge` and `rule` are those that would have stopped it; `form` is how it marks
    its thinking. `ask` gives the answers that would have been."""

    judge: str
    rule: str
    form: ReasoningFormat
    watch: Watch
    shown: Transcript = field(default_factory=Transcript)
    full: Answered | None = None
    """What the client got, once it has."""
    ask: Ask | None = None

    def note(self, event: Event) -> None:
        """An event of the response."""
        if isinstance(event, Emit):
            self.shown.add(event)
        elif isinstance(event, Finished):
            tokens = event.outcome.generated_tokens + event.outcome.probe_tokens
            self.full = _answered(self.shown, self.form, event, tokens)

    def stops(self) -> list[JudgedStop]:
        """What every judge would have done."""
        own = JudgedStop(self.judge, self.rule, self.watch.stop, self.watch.last)
        beside = [JudgedStop(one.name, self.rule, one.stop, one.last_score) for one in self.watch.onlookers]
        return [own, *beside]

    def drop(self) -> None:
        """Nothing is known of it."""
        for name in (self.judge, *(onlooker.name for onlooker in self.watch.onlookers)):
            count_dropped(name, self.rule)


@dataclass(frozen=True, slots=True)
class CanaryWatcher:
    """Tells a canary what its response becomes."""

    canaries: "Canaries"
    canary: Canary

    def note(self, _: int, event: Event) -> None:
        """An event of its only choice."""
        self.canary.note(event)

    def close(self, _: Unfinished | None) -> None:
        """The client has its response, or has gone."""
        self.canaries.end(self.canary)


def _answered(shown: Transcript, form: ReasoningFormat, end: Finished, tokens: int) -> Answered:
    return Answered(shown.answer(form), end.finish_reason != "stop", tokens)


class Canaries:
    """Those of a server: which responses are canaries, and what comes of them. `busy` tells that somebody waits for the
    engine: then the second answer is not asked for. To be closed before the engine is."""

    def __init__(
        self, share: float, beside: Sequence[ShadowDm] = (), *, busy: Callable[[], bool] = lambda: False
    ) -> None:
        self._share, self._beside, self._busy = share, tuple(beside), busy
        self._tasks = set[asyncio.Task[None]]()
        self._running = asyncio.Semaphore(_MOST_RUNNING)
        self._closed = False

    def picks(self, messages: object, seed: int | None, temperature: float) -> bool:
        """Whether this request is one of the share. One that has the same answer every time is always, or never."""
        if seed is None and temperature > 0.0:
            return random.random() < self._share
        told = json.dumps([messages, seed], sort_keys=True, default=str).encode()
        return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest()) / 2**64 < self._share

    def begin(self, settings: Settings, form: ReasoningFormat | None) -> Canary:
        """A response begins that has been picked."""
        assert settings.canary is not None
        assert settings.judge is not None
        assert form is not None
        if isinstance(form, PlainChain):
            form = replace(form, answer_apart=settings.thinking_in == "reasoning")
        onlookers = [onlooker for dm in self._beside if (onlooker := dm.onlooker(settings.canary)) is not None]
        return Canary(settings.judge, settings.canary, form, Watch(onlookers))

    def end(self, canary: Canary) -> None:
        """The client has its response, or has gone. Where the server has time, the answers that would have been are
        asked for, one after the other; whether it has does not depend on what the judges would have done, or the share
        of changed answers would be wrong."""
        no_time = self._closed or len(self._tasks) >= _MOST_WAITING or self._busy()
        if canary.full is None or canary.ask is None or no_time:
            canary.drop()
            return
        left = canary.stops()
        coroutine = self._compare(left, canary, canary.ask)
        task = asyncio.get_running_loop().create_task(coroutine, context=contextvars.Context())  # nobody's account
        self._tasks.add(task)
        task.add_done_callback(partial(self._over, left))

    def _over(self, left: list[JudgedStop], task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        for one in left:
            count_dropped(one.judge, one.rule)

    async def _compare(self, left: list[JudgedStop], canary: Canary, ask: Ask) -> None:
        """Compare for every judge; who has been is taken out."""
        assert canary.full is not None
        known = dict[int, Answered]()
        blind = {onlooker.name for onlooker in canary.watch.onlookers if onlooker.blind}
        try:
            async with self._running, asyncio.timeout(_SECONDS):
                while left:
                    one, probed = left[0], 0
                    would = None
                    if one.judge not in blind and one.stop is not None:
                        place = len(one.stop.thought)
                        if place not in known:
                            known[place] = await _would_answer(one.stop, ask, canary.form)
                            probed = known[place].tokens - one.stop.progress.generated
                        would = replace(known[place], tokens=known[place].tokens + one.stop.progress.probed)
                    left.pop(0)
                    if one.judge in blind:
                        count_dropped(one.judge, one.rule)
                    else:
                        count(one, canary.full, would, probed)
        except Exception as error:  # whatever the engine says: the client has its answer
            logger.warning("A canary could not be compared: %r", error)

    async def close(self) -> None:
        """Ask for nothing more, and give up what is under way."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _would_answer(stop: WouldStop, ask: Ask, form: ReasoningFormat) -> Answered:
    """The answer that a stop there would have given, and what the response would have taken, without its judge's
    probes."""
    shown = Transcript()
    async with contextlib.aclosing(ask(stop)) as events:
        async for event in events:
            if isinstance(event, Emit):
                shown.add(event)
            elif isinstance(event, Finished):
                tokens = event.outcome.generated_tokens
                metrics.TOKENS.labels("probe").inc(tokens - stop.progress.generated)
                return _answered(shown, form, event, tokens)
    raise RuntimeError("the answer did not come to an end")

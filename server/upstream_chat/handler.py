"""Answers chat completions by attempts at the upstream."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from drr.engine.upstream.chat import ChatClient, UpstreamChat
from drr.engine.upstream.cost import Prices
from drr.engine.upstream.errors import UpstreamError, broken_off
from drr.engine.upstream.judging import FOLLOWING_UP, ChatJudge
from drr.loop.chat.response import ChatEvent, ChatFinished, ChatResponse
from drr.loop.chat.said import Shown
from drr.loop.response import Outcome, StepReport
from drr.loop.scoring import Scorer
from server import metrics
from server.admission.branches import BRANCHES, FLAG
from server.admission.shares import USING
from server.endpoints import CHAT_PATH, HEADER, OUTCOME_HEADER
from server.plan import ResponsePlan
from server.refusals import Refusal, bad_request
from server.report import announcement, short_account
from server.schema import DrrError
from server.upstream_chat.answers import Account, Chunks, Head, Whole
from server.upstream_chat.asking import Asking, NoModelError, Upstream, read_asking
from server.upstream_chat.failures import refusal_of

logger = logging.getLogger("drr")

_SILENCE = 15.0
"""Seconds after which a stream in which nothing happens says that it is alive: proxies cut connections that do not."""
_ALIVE = b": keep-alive\n\n"


@dataclass(slots=True)
class ChatServer:
    """Serves one upstream. `scorers` judge, by name; those that ask the Reasoner itself are made for each response."""

    client: ChatClient
    upstream: Upstream
    scorers: Mapping[str, Scorer]
    prices: Prices | None = None
    reasoning_key: str = "reasoning"

    async def __call__(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        try:
            body = await request.json()
        except (ValueError, RecursionError) as error:
            return bad_request("body", f"is not JSON: {error}").response(CHAT_PATH)
        try:
            asking = read_asking(body, request.headers.getlist(HEADER), self.upstream)
            _check_branches(asking)
        except DrrError as error:
            return bad_request(error.param, error.why).response(CHAT_PATH)
        except NoModelError as error:
            told = f"The model `{error}` does not exist."
            return Refusal(404, told, kind="NotFoundError", code=404, param="model").response(CHAT_PATH)
        made = _Made(self, asking)
        if asking.streams:
            return await _unless_gone(request, made.streamed())
        return await _unless_gone(request, made.whole())


def _check_branches(asking: Asking) -> None:
    """DrrError where the request may have more attempts made than one request may."""
    branches, attempts = BRANCHES.get(), 1 + asking.loop.max_rethinks
    if branches is not None and attempts > branches.most:
        raise DrrError("drr.max_rethinks", f"at most {branches.most} attempts may be made for one request ({FLAG})")


class _Made:
    """One response while it is made."""

    def __init__(self, server: ChatServer, asking: Asking) -> None:
        self._server, self._asking = server, asking
        self._chat = UpstreamChat(server.client, server.upstream.abilities, asking.request)
        scorer = asking.settings.scorer
        name = scorer if scorer is None or scorer in FOLLOWING_UP else asking.settings.judge
        self._judge = ChatJudge(self._chat, server.scorers, name, asking.question)
        self._account = Account(asking, self._judge.id, self._chat.cost, server.prices, server.upstream.abilities.tier)
        self._response = ChatResponse(
            self._chat, self._judge.session, str(self._judge.id), asking.loop, (UpstreamError,), broken_off
        )
        self._events = self._response.run()
        self._head = Head(asking.name)
        self._counted = False

    async def whole(self) -> Response:
        """The response at once."""
        whole, end = Whole(), None
        try:
            async with contextlib.aclosing(self._events) as events:
                async for event in events:
                    if isinstance(event, Shown):
                        whole.add(event)
                    elif isinstance(event, StepReport):
                        self._observe(event)
                    else:
                        end = event
        except UpstreamError as error:
            self._count("failed")
            return refusal_of(error).response(CHAT_PATH)
        except BaseException:
            self._count("aborted")
            raise
        assert end is not None
        outcome, drr = self._ended(end)
        usage = self._account.usage(outcome, tells_thinking=self._response.tells_thinking)
        told = None if self._asking.settings.report == "none" else drr
        headers = _outcome_header(short_account([drr]))
        return JSONResponse(whole.body(self._head, end, told, usage, self._server.reasoning_key), headers=headers)

    async def streamed(self) -> Response:
        """The response as it is made. A failure before anything was said is an HTTP error, unless it comes so late that
        the stream has begun."""
        first = asyncio.ensure_future(anext(self._events))  # type: ignore[arg-type]
        try:
            await asyncio.wait({first}, timeout=_SILENCE)
            if first.done():
                first.result()
        except UpstreamError as error:
            self._count("failed")
            return refusal_of(error).response(CHAT_PATH)
        except BaseException:
            await to_the_end(_closed(first, self._events))
            self._count("aborted")
            raise
        plan = ResponsePlan(self._asking.settings, "", self._account.scorer_id)
        return ClosedStream(
            with_signs_of_life(self._chunks(first)),
            media_type="text/event-stream",
            headers=_outcome_header(announcement(plan)),
        )

    async def _chunks(self, first: "asyncio.Future[ChatEvent]") -> AsyncGenerator[bytes, None]:
        settings = self._asking.settings
        chunks = Chunks(self._head, self._server.reasoning_key, self._asking.tells_usage)
        tells_steps = settings.explicit and settings.report == "steps"
        try:
            yield chunks.first()
            async with contextlib.aclosing(_with_first(first, self._events)) as events:
                async for event in events:
                    if isinstance(event, Shown):
                        yield chunks.shown(event)
                    elif isinstance(event, StepReport):
                        self._observe(event)
                        if tells_steps:
                            yield chunks.step(event)
                    else:
                        outcome, drr = self._ended(event)
                        usage = self._account.usage(outcome, tells_thinking=self._response.tells_thinking)
                        for chunk in chunks.last(event, None if settings.report == "none" else drr, usage):
                            yield chunk
        except UpstreamError as error:
            self._count("failed")
            yield refusal_of(error).event(CHAT_PATH)
        finally:
            try:
                await to_the_end(_closed(first, self._events))
            finally:
                self._count("aborted")

    def _outcome(self, outcome: Outcome) -> Outcome:
        return replace(outcome, probe_tokens=self._judge.tokens)

    def _ended(self, end: ChatFinished) -> tuple[Outcome, dict[str, Any]]:
        """The response is complete: its account."""
        settings, outcome = self._asking.settings, self._outcome(end.outcome)
        if not settings.loops and outcome.stop_cause.value == "natural":
            outcome.stop_cause = settings.unjudged_cause
        self._count(None, outcome)
        return outcome, self._account.drr_object(outcome, tells_thinking=self._response.tells_thinking)

    def _observe(self, step: StepReport) -> None:
        metrics.observe_step(step, self._asking.loop.deadline)

    def _count(self, ended: metrics.Ended | None, outcome: Outcome | None = None) -> None:
        """Count the response, once."""
        if not self._counted:
            self._counted = True
            found = outcome or self._outcome(self._response.outcome)
            metrics.observe_outcome(self._asking.settings.mode, found, ended)
            cost = self._chat.cost
            cached = cost.cached_prompt_tokens or 0
            share = USING.get()
            if share is not None:
                share.use(cost.prompt_tokens_sent + cost.completion_tokens)
            metrics.observe_upstream_tokens(cost.prompt_tokens_sent, cached, cost.completion_tokens)


class ClosedStream(StreamingResponse):
    """A streamed response that closes what makes it, whatever becomes of its client."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self.body_iterator, "aclose", None)
            if close is not None:
                await to_the_end(close())


async def with_signs_of_life(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same, with a comment wherever nothing comes for so many seconds."""
    coming: asyncio.Task[bytes] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(chunks))  # type: ignore[arg-type]
            while not coming.done():
                await asyncio.wait({coming}, timeout=_SILENCE)
                if not coming.done():
                    yield _ALIVE
            try:
                chunk = coming.result()
            except StopAsyncIteration:
                return
            yield chunk
    finally:
        await to_the_end(_closed(coming, chunks))


_ENDING = set[asyncio.Future[Any]]()


async def to_the_end(closing: Awaitable[Any]) -> None:
    """Have something closed, to the end: whoever waits for it may be cancelled, and again and again (which is what a
    response's task group does when its client leaves), but not what it does. An HTTP connection that is interrupted
    while it closes stays open for good."""
    task = asyncio.ensure_future(closing)
    _ENDING.add(task)
    task.add_done_callback(_ENDING.discard)
    await asyncio.shield(task)


async def _closed(coming: "asyncio.Future[Any] | None", events: AsyncGenerator[Any, None]) -> None:
    """Cancel the task that reads from `events`, once, and close them."""
    if coming is not None:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
    await events.aclose()


async def _with_first(
    first: "asyncio.Future[ChatEvent]", events: AsyncGenerator[ChatEvent, None]
) -> AsyncGenerator[ChatEvent, None]:
    yield await first
    async for event in events:
        yield event


async def _unless_gone(request: Request, making: Awaitable[Response]) -> Response:
    """The response, unless its client leaves before it is there; then whatever was being done for it is ended."""
    task = asyncio.ensure_future(making)
    left = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return Response(status_code=499)
    finally:
        left.cancel()
        if not task.done():
            task.cancel()
        await to_the_end(asyncio.gather(task, left, return_exceptions=True))


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _outcome_header(account: str) -> dict[str, str]:
    return {OUTCOME_HEADER: account, "access-control-expose-headers": OUTCOME_HEADER}

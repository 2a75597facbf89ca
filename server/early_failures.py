"""Failures that are known before a stream has said anything are HTTP errors, later ones are its last event; and no
error repeats much of a request.

vLLM begins a stream with status 200 and only then asks its engine, which may refuse: a grammar that cannot be compiled,
a token id that the vocabulary does not have. Here the status waits for the first word.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from server.admission.under_way import App, Message, Receive, Send
from server.endpoints import path_of
from server.refusals import Refusal, unavailable
from server.vllm_api import EngineDeadError, create_error_response

logger = logging.getLogger("drr")

_PRELUDE = (b"event: response.created\n", b"event: response.in_progress\n")
"""How events begin that vLLM sends before it has asked its engine."""

_FAILURES = (b'data: {"error"', b"event: error\n")
"""How an event begins that tells of a failure."""

_LONGEST_ERROR = 2_000
"""Bytes of an error that is passed on as it is."""

_LONGEST_TEXT = 500
"""Characters of a text in any longer error."""

_STATUSES = {"BadRequestError": 400, "invalid_request_error": 400, "NotFoundError": 404}
"""The status of an error whose event does not tell it, by its type."""


class EarlyFailures:
    """ASGI middleware. The first event of a stream that tells of a failure, or an exception before the first event,
    becomes an HTTP error, a later exception an event; long errors are shortened; FastAPI's own get the shape of all
    others."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, receive, send)
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:
            if not await answer.failed(error):
                raise


class _Answer:
    """One response, held back until it is known whether it tells of a failure."""

    def __init__(self, scope: Any, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send_on = scope, receive, send
        self._held: list[Message] = []
        self._is_stream = self._is_error = self._is_over = False

    async def send(self, message: Message) -> None:
        if self._is_over:
            return
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            self._is_stream = message["status"] == 200 and kind.startswith(b"text/event-stream")
            self._is_error = message["status"] >= 400 and kind.startswith(b"application/json")
            if self._is_stream or self._is_error:
                self._held = [message]
                return
        if not self._held:
            self._is_over = message["type"] == "http.response.body" and not message.get("more_body")
            await self._send_on(message)
            return
        self._held.append(message)
        if self._is_stream:
            await self._begun(message)
        elif not message.get("more_body"):
            await self._end_error()

    async def failed(self, error: Exception) -> bool:
        """The application has raised this. Returns whether that could still be told, and was no fault of ours."""
        if not self._is_stream or self._is_over:
            return False
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        refusal, is_ours = _told_of(cause)
        if self._held:
            await self._refuse(refusal)
        else:
            await self._break_off(refusal)
        return not is_ours

    async def _break_off(self, refusal: Refusal) -> None:
        """The stream has begun: its last event says why it ends."""
        self._is_over = True
        logger.warning("A stream at %s is broken off: %s", path_of(self._scope), refusal.kind)
        event = _shortened(refusal).event(path_of(self._scope))
        await self._send_on({"type": "http.response.body", "body": event, "more_body": False})

    async def _begun(self, message: Message) -> None:
        body = message.get("body", b"")
        if message.get("more_body") and (not body.strip() or body.startswith(_PRELUDE)):
            return
        failure = _failure_in(body) if body.startswith(_FAILURES) else None
        if failure is not None:
            await self._refuse(failure)
        else:
            await self._let_go()

    async def _end_error(self) -> None:
        start, *parts = self._held
        body = b"".join(part.get("body", b"") for part in parts)
        bounded = _bounded(body, start["status"])
        if bounded is body:
            await self._let_go()
            return
        self._held = []
        headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        headers.append((b"content-length", str(len(bounded)).encode()))
        await self._send_on({**start, "headers": headers})
        await self._send_on({"type": "http.response.body", "body": bounded, "more_body": False})

    async def _let_go(self) -> None:
        held, self._held = self._held, []
        self._is_over = not held[-1].get("more_body")
        for message in held:
            await self._send_on(message)

    async def _refuse(self, refusal: Refusal) -> None:
        self._held, self._is_over = [], True
        await _shortened(refusal).response(path_of(self._scope))(self._scope, self._receive, self._send_on)


def _told_of(error: Exception) -> tuple[Refusal, bool]:
    """What clients are told of an exception, and whether it is a fault of ours."""
    if isinstance(error, EngineDeadError):
        return unavailable("The Reasoner's engine has died; the server is going down."), False
    told = create_error_response(error).error
    return Refusal(told.code, told.message, kind=told.type, code=told.code, param=told.param), told.code >= 500


def _failure_in(event: bytes) -> Refusal | None:
    """The failure that an event tells of, in OpenAI's or Anthropic's words."""
    data = next((line[len(b"data: ") :] for line in event.splitlines() if line.startswith(b"data: ")), b"")
    try:
        error = json.loads(data)["error"]
        kind, message, code = str(error["type"]), str(error["message"]), error.get("code")
    except (ValueError, KeyError, TypeError):
        return None
    status = code if isinstance(code, int) and 400 <= code < 600 else _STATUSES.get(kind, 500)
    headers = {"retry-after": "5"} if status == 503 else {}
    return Refusal(status, message, kind=kind, code=code, param=error.get("param"), headers=headers)


def _bounded(body: bytes, status: int) -> bytes:
    """An error's body, no text of it longer than need be; the same object where nothing has to be changed."""
    is_fastapis = body.startswith(b'{"detail"')
    if len(body) <= _LONGEST_ERROR and not is_fastapis:
        return body
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return body[:_LONGEST_ERROR]
    if is_fastapis and isinstance(told.get("detail"), str):
        return _of_fastapi(told["detail"], status)
    return json.dumps(_short(told)).encode()


def _of_fastapi(detail: str, status: int) -> bytes:
    """What FastAPI says where no endpoint has seen the request, as everything else is said."""
    param = "body" if status == 400 else None
    message = f"{param}: {detail}" if param else detail
    kind = "Bad Request" if status == 400 else "invalid_request_error"
    response = Refusal(status, message[:_LONGEST_TEXT], kind=kind, code=status, param=param).response("")
    assert isinstance(response, JSONResponse)
    return bytes(response.body)


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else f"{value[:_LONGEST_TEXT]} ... ({len(value):,} characters)"
    if isinstance(value, Mapping):
        return {str(key)[:_LONGEST_TEXT]: _short(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_short(part) for part in value[:10]]
    return value


def _shortened(refusal: Refusal) -> Refusal:
    param = refusal.param if isinstance(refusal.param, str) else None
    return Refusal(
        refusal.status,
        _short(refusal.message),
        refusal.kind,
        refusal.code,
        None if param is None else param[:_LONGEST_TEXT],
        refusal.headers,
    )

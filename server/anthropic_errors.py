"""Errors on Anthropic's endpoints in Anthropic's shape, whoever makes them: vLLM's have its own words for their types,
no word of the field at fault, and OpenAI's shape where a request cannot be read at all."""

import json
from typing import Any

from server.endpoints import MESSAGES_PATH, path_of
from server.planning import PARAM_STATE
from server.refusals import Refusal


class AnthropicErrors:
    """ASGI middleware. Whole JSON bodies of a status from 400 on are told anew; streams are left alone."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and path_of(scope).startswith(MESSAGES_PATH):
            send = _Retelling(scope.setdefault("state", {}), path_of(scope), send).send
        await self._app(scope, receive, send)


class _Retelling:
    """`send` that holds an error back until it is whole."""

    def __init__(self, state: Any, path: str, send: Any) -> None:
        self._state, self._path, self._send = state, path, send
        self._start: Any = None
        self._parts: list[bytes] = []

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._parts.append(message.get("body", b""))
            if not message.get("more_body"):
                await self._retell(b"".join(self._parts))

    async def _retell(self, body: bytes) -> None:
        start, self._start = self._start, None
        told = self._told(start["status"], body)
        if told is not None:
            body = told
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            start = {**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    def _told(self, status: int, body: bytes) -> bytes | None:
        """The body in Anthropic's shape; None where it holds no error."""
        try:
            error = json.loads(body)["error"]
            message = str(error["message"])
        except (ValueError, KeyError, TypeError):
            return None
        param = error.get("param") or self._state.get(PARAM_STATE)
        named = None if param is None else str(param).removeprefix("body.")
        return bytes(Refusal(status, message, param=named).response(self._path).body)

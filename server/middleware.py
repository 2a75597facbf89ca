"""What DRR refuses on endpoints that would ignore it."""

import json
from typing import Any

from fastapi.responses import JSONResponse

from server.chat import CHAT_PATH, HEADER

_OBJECT = "drr"


class RefuseDrrElsewhere:
    """ASGI middleware: a `drr` object or an X-DRR header on an endpoint that would ignore it is HTTP 400.

    Reading requests (GET) may carry the header: clients send their default headers with everything.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        elsewhere = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] != CHAT_PATH
        if not elsewhere:
            await self._app(scope, receive, send)
            return
        if any(name == HEADER.encode() for name, _ in scope["headers"]):
            await _refusal("X-DRR", f"only {CHAT_PATH} takes this header")(scope, receive, send)
            return
        messages, body = await _whole_body(receive)
        if f'"{_OBJECT}"'.encode() in body and _OBJECT in _keys(body):
            await _refusal(_OBJECT, f"only {CHAT_PATH} takes a drr object")(scope, receive, send)
            return

        async def replay() -> Any:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replay, send)


async def _whole_body(receive: Any) -> tuple[list[Any], bytes]:
    """The messages that bring a request's body, and the body."""
    messages, body = [], b""
    while True:
        message = await receive()
        messages.append(message)
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            return messages, body


def _keys(body: bytes) -> set[str]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return set()
    return set(parsed) if isinstance(parsed, dict) else set()


def _refusal(param: str, why: str) -> JSONResponse:
    error = {"message": f"{param}: {why}", "type": "BadRequestError", "param": param, "code": 400}
    return JSONResponse({"error": error}, status_code=400)

"""Errors in the shape that the client of an endpoint expects: OpenAI's, or Anthropic's where that is spoken."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.responses import JSONResponse

from server.endpoints import MESSAGES_PATH, RESPONSES_PATH

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served, or not to its end. `kind` and `code` are OpenAI's `type` and `code`; `headers` go
    with it where the response has not begun."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | int | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, path: str) -> JSONResponse:
        """The whole response."""
        sayable = replace(self, message=_sayable(self.message), param=self.param and _sayable(self.param))
        return JSONResponse(sayable._body(path), status_code=self.status, headers=dict(self.headers))

    def closing(self) -> "Refusal":
        """The same, after which the connection is closed."""
        return replace(self, headers={**self.headers, "connection": "close"})

    def event(self, path: str) -> bytes:
        """The last event of a stream that has begun."""
        if path.startswith(MESSAGES_PATH):
            return f"event: error\ndata: {json.dumps(self._body(path))}\n\n".encode()
        if path.startswith(RESPONSES_PATH):
            error: dict[str, Any] = {"type": "error", "code": self.code, "message": self.message, "param": self.param}
            return f"event: error\ndata: {json.dumps(error)}\n\n".encode()
        return f"data: {json.dumps(self._body(path))}\n\ndata: [DONE]\n\n".encode()

    def _body(self, path: str) -> dict[str, Any]:
        if path.startswith(MESSAGES_PATH):
            error = {"type": _ANTHROPIC_TYPES.get(self.status, "api_error"), "message": self.message}
            named = {} if self.param is None else {"param": self.param}
            return {"type": "error", "error": {**error, **named}}
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def _sayable(text: str) -> str:
    """A text with halves of characters, which a client has sent and no response can hold, written out."""
    return text.encode(errors="backslashreplace").decode()


def bad_request(param: str, why: str) -> Refusal:
    """HTTP 400 for an option, as vLLM words it."""
    return Refusal(400, f"{param}: {why}", kind="BadRequestError", code=400, param=param)


def busy(message: str, seconds: float, kind: str = "requests") -> Refusal:
    """HTTP 429: to be tried again after this many seconds. `retry-after` tells them in whole ones, at least one;
    `retry-after-ms`, which the clients of OpenAI and Anthropic prefer, keeps them from coming back all at once."""
    after = {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(max(1, math.ceil(1000 * seconds)))}
    return Refusal(429, message, kind=kind, code="rate_limit_exceeded", headers=after)


def unavailable(message: str, seconds: float = 5.0) -> Refusal:
    """HTTP 503: another server may be able to."""
    after = {"retry-after": str(max(1, math.ceil(seconds)))}
    return Refusal(503, message, kind="server_error", code="service_unavailable", headers=after)

"""What an upstream did instead of answering."""

from dataclasses import dataclass
from typing import Any, Literal

UpstreamFault = Literal["refused", "busy", "unavailable", "malformed", "cut", "timeout"]
"""`refused`: it will not serve this request (HTTP 3xx, 4xx). `busy`: not now (429). `unavailable`: it is away or
failing (5xx, no connection). `malformed`: what it sent cannot be read. `cut`: its answer ended in the middle.
`timeout`: it was silent for too long."""


@dataclass(eq=False)
class UpstreamError(Exception):
    """`status` is the upstream's HTTP status, if there was one; `param` the field that it complains about;
    `retry_after` the seconds after which it asks to be tried again."""

    kind: UpstreamFault
    message: str
    status: int | None = None
    param: str | None = None
    retry_after: float | None = None

    def __str__(self) -> str:
        return self.message


def broken_off(error: Exception) -> bool:
    """Whether an answer broke off or cannot be read: the same request may succeed. What else may pass, the client has
    tried again by itself."""
    return isinstance(error, UpstreamError) and error.kind in ("cut", "malformed")


def error_from(status: int | None, body: Any, retry_after: float | None = None) -> UpstreamError:
    """What an error's body says: OpenAI's shape, or any other. `status` None: it came inside a stream, and the body's
    own `code` counts."""
    told = body.get("error", body) if isinstance(body, dict) else body
    message, param = told, None
    if isinstance(told, dict):
        message, param = told.get("message") or told.get("detail") or told.get("type"), told.get("param")
        if status is None and isinstance(told.get("code"), int):
            status = told["code"]
    text = message if isinstance(message, str) else "" if message is None else str(message)
    said = " ".join(text.split())[:_LONGEST_MESSAGE] or "it gave no reason"
    kind = kind_of(status)
    answered = "failed in mid-stream" if status is None else f"answered {status}"
    return UpstreamError(
        kind, f"the upstream {answered}: {said}", status, param if isinstance(param, str) else None, retry_after
    )


def kind_of(status: int | None) -> UpstreamFault:
    """What a status other than 200 says; None: the upstream failed without one."""
    if status == 429:
        return "busy"
    return "unavailable" if status is None or status >= 500 else "refused"


_LONGEST_MESSAGE = 500

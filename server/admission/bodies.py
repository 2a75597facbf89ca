"""A request's body, read before anything is made of it: not more of it than is allowed, and not for longer."""

import asyncio
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.admission.under_way import Message, Receive
from server.refusals import Refusal, bad_request, unavailable

_ROLE = b'"role"'
"""Stands in every message of a conversation, and in no text: there its quotation marks are escaped."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """`size` and `together` in bytes: of one body, and of all whose requests are not done. `messages` in
    a conversation. `seconds` to send a body in."""

    size: int
    messages: int
    seconds: float
    together: int


class LeftError(Exception):
    """The client went away before it had sent all of it."""


class RefusedError(Exception):
    """The body is not read, or not to its end."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Bodies:
    """Reads bodies within limits. `held` is the size of all that are held."""

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self.held = 0

    async def read(self, scope: Any, receive: Receive, held: "Held") -> list[Message]:
        """The messages that bring a body, to be given to the application once more. What they hold is counted in
        `held`. RefusedError or LeftError if there is no whole body."""
        announced = _announced(scope["headers"])
        if announced is not None and announced > self._limits.size:
            raise RefusedError(self._too_large())
        messages = list[Message]()
        try:
            async with asyncio.timeout(self._limits.seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise LeftError
                    held.add(len(message.get("body", b"")))
                    if held.size > self._limits.size:
                        raise RefusedError(self._too_large())
                    if self.held > self._limits.together:
                        raise RefusedError(unavailable("The server holds as many requests as it has memory for."))
                    messages.append(message)
                    more = bool(message.get("more_body"))
        except TimeoutError:
            seconds = self._limits.seconds
            refusal = Refusal(408, f"The body was not sent within {seconds:g} seconds.", code="request_timeout")
            raise RefusedError(refusal) from None
        self._check_messages(messages)
        return messages

    def holding(self) -> "Held":
        """Counts one request's body, until it is let go."""
        return Held(self)

    def _check_messages(self, messages: Sequence[MutableMapping[str, Any]]) -> None:
        if b"\0" in b"".join(message.get("body", b"")[:4] for message in messages[:4])[:4]:
            raise RefusedError(
                bad_request("body", "must be UTF-8")
            )  # JSON in UTF-16 would pass by what looks for bytes
        most = self._limits.messages
        if sum(message.get("body", b"").count(_ROLE) for message in messages) > most:
            raise RefusedError(bad_request("messages", f"has more than {most} entries (--drr-max-messages)"))

    def _too_large(self) -> Refusal:
        message = f"The body is larger than {self._limits.size:,} bytes (--drr-max-body-bytes)."
        return Refusal(413, message, code="request_too_large", headers={"connection": "close"})


class Held:
    """What one request holds of the memory for bodies."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.size = 0

    def add(self, size: int) -> None:
        self.size += size
        self._bodies.held += size

    def let_go(self) -> None:
        self._bodies.held -= self.size
        self.size = 0


def _announced(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None

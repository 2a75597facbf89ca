"""Responses that end before they are complete: why, in one line of the log."""

import asyncio
import logging

from server.admission.under_way import CURRENT
from server.metrics import Ended
from server.vllm_api import GracefulHTTPError, VLLMClientError

logger = logging.getLogger("drr")

_CLIENTS_FAULT = (VLLMClientError, GracefulHTTPError, ValueError, TypeError, OverflowError, NotImplementedError)
"""What vLLM answers with HTTP 4xx, and its full queue."""

_BROKEN_OFF = frozenset({"abort", "error"})
"""Reasons with which an engine finishes what it has not completed."""


def broken_off(reason: str) -> Ended | None:
    """The end that a finish reason is; None where nothing is missing."""
    return None if reason not in _BROKEN_OFF else "failed" if reason == "error" else "aborted"


class Exit:
    """How one request's making ends. To be made where the request is being answered, and closed in the end."""

    def __init__(self, request_id: str) -> None:
        self._request_id, self._exchange = request_id, CURRENT.get()
        if self._exchange is not None:
            self._exchange.request_id = request_id
            self._exchange.makers += 1

    def close(self) -> None:
        """The making is over, and the log knows how."""
        if self._exchange is not None:
            self._exchange.makers -= 1

    def finished(self, reason: str, tokens: int) -> Ended | None:
        """The end that a finish reason is, which the log is told; None where nothing is missing."""
        ended = broken_off(reason)
        if ended is not None:
            self._tell(ended, tokens, self._cut("the engine broke it off"))
        return ended

    def left(self, error: BaseException | None, tokens: int) -> Ended:
        """The end that an error is which leaves the making, after so many tokens; the log is told."""
        if error is None or isinstance(error, GeneratorExit | asyncio.CancelledError):
            self._tell("aborted", tokens, self._cut("the client left"))
            return "aborted"
        if isinstance(error, _CLIENTS_FAULT):
            return "refused"  # which the client is told
        because = "" if error.__cause__ is None else f" because of {type(error.__cause__).__name__}"
        self._tell("failed", tokens, f"{type(error).__name__}{because}: {error}")
        return "failed"

    def fault(self, error: BaseException | None) -> str | None:
        """What went wrong, as a word; None where the client left."""
        if self._cut_by is not None:
            return self._cut_by
        left = error is None or isinstance(error, GeneratorExit | asyncio.CancelledError)
        return None if left else type(error).__name__

    @property
    def _cut_by(self) -> str | None:
        return None if self._exchange is None else self._exchange.cut_by

    def _cut(self, otherwise: str) -> str:
        return otherwise if self._cut_by is None else f"cut off by {self._cut_by}"

    def _tell(self, ended: Ended, tokens: int, why: str) -> None:
        if self._exchange is not None:
            self._exchange.logged = True
        level = logging.INFO if why == "the client left" else logging.WARNING
        told = self._request_id, ended, tokens, why
        logger.log(level, "Response %s %s after %d tokens: %s", *told, extra={"request_id": self._request_id})

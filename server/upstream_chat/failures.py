"""What a client is told when the upstream fails."""

from drr.engine.upstream.errors import UpstreamError
from server.refusals import Refusal, busy, unavailable

_OURS = (401, 402, 403, 407)
"""Statuses that are about the key of this server, and nothing that a client could mend."""

_HANDED_ON = (400, 404, 408, 409, 413, 415, 422)
_WAIT = 5.0


def refusal_of(error: UpstreamError) -> Refusal:
    """The error, in OpenAI's shape. What the upstream has against a request is told with its status and its field; what
    it has against this server, as a failure of the gateway."""
    if error.kind == "busy":
        return busy(f"The upstream is busy: {error.message}", error.retry_after or _WAIT)
    if error.kind == "unavailable":
        return unavailable(f"The upstream is not available: {error.message}", error.retry_after or _WAIT)
    if error.kind == "timeout":
        return Refusal(504, f"The upstream did not answer: {error.message}", kind="timeout", code="upstream_timeout")
    if error.kind == "refused" and error.status in _HANDED_ON:
        return Refusal(error.status, error.message, code=error.status, param=error.param)
    if error.kind == "refused" and error.status in _OURS:
        told = f"The upstream refuses this server's key (HTTP {error.status}); its operator has to mend that."
        return Refusal(502, told, kind="server_error", code="upstream_refused")
    return Refusal(502, f"The upstream failed: {error.message}", kind="server_error", code=f"upstream_{error.kind}")

"""Requests made from the server's own OpenAPI document, and from its faults: no 5xx, no hang."""

import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from tests.server.running import Server

_GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
_PATHS = (*_GENERATING, "/v1/messages/count_tokens", "/tokenize", "/detokenize", "/v1/models", "/health", "/version")
_MOST = {"max_tokens": 8, "max_completion_tokens": 8, "max_output_tokens": 8, "min_tokens": 8, "n": 2, "best_of": 2}
"""The most that a request may ask for: one that is right and asks for a million choices is no fault."""
_LIMIT = 60.0
"""Seconds after which a request counts as hanging."""

VLLMS_FAULTS: dict[tuple[str, str], str] = {}
"""5xx of vLLM's own, by path and words of the message, with the reason."""


@pytest.fixture(scope="session")
def document(server: Server) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


DOCUMENT = schemathesis.pytest.from_fixture("document").include(path=list(_PATHS))
BOUNDED = settings(
    derandomize=True,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


def check(case: Any) -> None:
    """Ask, and look at the status."""
    if isinstance(case.body, dict):
        for name, most in _MOST.items():
            value = case.body.get(name)
            if isinstance(value, int) and value > most:
                case.body[name] = most
        if case.path in _GENERATING and "max_output_tokens" not in case.body:
            case.body.setdefault("max_output_tokens" if case.path == "/v1/responses" else "max_tokens", 8)
    response = case.call(timeout=_LIMIT)
    if response.status_code >= 500:
        known = [
            reason
            for (path, words), reason in VLLMS_FAULTS.items()
            if path == case.path and re.search(words, response.text)
        ]
        assert known, f"{case.as_curl_command()}\n{response.status_code} {response.text[:1000]}"


@DOCUMENT.parametrize()
@settings(BOUNDED, max_examples=8)
def test_no_request_of_the_document_breaks_the_server(case: Any) -> None:
    check(case)


@pytest.mark.slow
@DOCUMENT.parametrize()
@settings(BOUNDED, max_examples=300)
def test_hundreds_of_requests_of_the_document_do_not_break_the_server(case: Any) -> None:
    check(case)

"""Requests made from the server's own OpenAPI document, and from its faults: no 5xx, no hang."""

import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation.modes import GenerationMode

from tests.server.running import Server

_GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
_MOST = {"max_tokens": 8, "max_completion_tokens": 8, "max_output_tokens": 8, "min_tokens": 8, "n": 2, "best_of": 2}
"""The most that a request may ask for: one that is right and asks for a million choices is no fault."""
_LIMIT = 60.0
"""Seconds after which a request counts as hanging."""

VLLMS_FAULTS: dict[tuple[str, str], str] = {}
"""5xx of vLLM's own, by path and words of the message, with the reason."""


OPERATIONS = [
    *(("POST", path) for path in _GENERATING),
    *(("POST", path) for path in ("/v1/messages/count_tokens", "/tokenize", "/detokenize")),
    *(("GET", path) for path in ("/v1/models", "/health", "/version")),
]
FITTING, UNFIT = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.fixture(scope="session")
def document(server: Server) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


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


def try_many(operation: Any, mode: GenerationMode, count: int) -> None:
    """Ask `count` requests that the document describes, or that it does not."""

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        check(case)

    ask()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_breaks_the_server(document: Any, method: str, path: str) -> None:
    try_many(document[path][method], FITTING, 10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", [FITTING, UNFIT])
@pytest.mark.parametrize(("method", "path"), [one for one in OPERATIONS if one[0] == "POST"])
def test_hundreds_of_requests_do_not_break_the_server(
    document: Any, method: str, path: str, mode: GenerationMode
) -> None:
    try_many(document[path][method], mode, 200)

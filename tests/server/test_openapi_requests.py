"""Requests made from the server's own OpenAPI document, and from its faults: no 5xx, no hang."""

from typing import Any

import pytest
from schemathesis.generation.modes import GenerationMode

from tests.fuzz.document import FITTING, GENERATING, UNFIT, load, run, shares, try_many
from tests.fuzz.watch import wait_until_idle
from tests.server.running import Server

OPERATIONS = [
    *(("POST", path) for path in GENERATING),
    *(("POST", path) for path in ("/v1/messages/count_tokens", "/tokenize", "/detokenize")),
    *(("GET", path) for path in ("/v1/models", "/health", "/version")),
]


@pytest.fixture(scope="session")
def document(server: Server) -> Any:
    return load(server.url)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_breaks_the_server(document: Any, method: str, path: str) -> None:
    faults: list[str] = []
    try_many(document[path][method], FITTING, 10, faults.append)
    assert faults == []


def test_examples_are_shared_by_all_operations(document: Any) -> None:
    made = shares(document, 2000)
    assert {operation.label for operation in (share.operation for share in made)} == {
        f"{method.upper()} {path}" for path, operations in document.raw_schema["paths"].items() for method in operations
    }
    assert abs(sum(share.count for share in made) - 2000) < len(made)
    assert min(share.count for share in made) >= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", [FITTING, UNFIT])
@pytest.mark.parametrize(("method", "path"), [one for one in OPERATIONS if one[0] == "POST"])
def test_hundreds_of_requests_do_not_break_the_server(
    document: Any, method: str, path: str, mode: GenerationMode
) -> None:
    faults: list[str] = []
    try_many(document[path][method], mode, 200, faults.append)
    assert faults == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_thousands_of_requests_by_seed_leave_nothing_behind(server: Server) -> None:
    assert {label: faults for label, faults in run(server.url, 0, 2000) if faults} == {}
    assert await wait_until_idle(server.url) == []

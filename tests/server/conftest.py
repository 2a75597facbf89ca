"""One running server for all tests that need no other: starting one takes half a minute."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.running import Server, start, stop


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # Machines that stand still for seconds must not change verdicts here; lateness has tests of its own.
    running = start(
        tmp_path_factory.mktemp("server") / "log", "--dm-deadline-ms", "60000", "--allowed-origins", '["*"]'
    )
    yield running
    stop(running)


@pytest.fixture(scope="session")
def greedy(server: Server) -> Any:
    """A response that nobody judged."""
    return server.ask(temperature=0, drr={"mode": "off"})

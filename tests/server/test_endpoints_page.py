"""Every example of docs/endpoints.md is asked, and gives what the page says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.server.played_app import THOUGHT, played_server

PAGE = Path(__file__).parents[2] / "docs" / "endpoints.md"
BLOCKS = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)]
EXAMPLES = list(zip(BLOCKS[::2], BLOCKS[1::2], strict=True))


def test_there_is_one_for_each_endpoint() -> None:
    assert [asked["path"] for asked, _ in EXAMPLES] == ["/v1/chat/completions", "/v1/responses", "/v1/messages"]


def holds(told: Any, given: Any) -> None:
    """Whether `given` has all that the page tells of it."""
    if isinstance(told, dict):
        for key, value in told.items():
            holds(value, given[key])
    elif isinstance(told, list):
        assert len(told) == len(given)
        for one, other in zip(told, given, strict=True):
            holds(one, other)
    else:
        assert told == given


@pytest.mark.parametrize(("asked", "told"), EXAMPLES, ids=lambda own: own.get("path"))
async def test_an_example_gives_what_the_page_says(
    asked: dict[str, Any], told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await played_server(monkeypatch)
    served.play(THOUGHT, scores=[0.1, 0.95])
    response = await served.post(asked["path"], asked["body"])
    assert response.status_code == 200, response.text
    holds(told, response.json())

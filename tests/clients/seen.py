"""What a client saw, for tests."""

from typing import Any


def seen(**fields: Any) -> dict[str, Any]:
    """A right answer, and what else arrived."""
    return {"content": "The answer is 36.", "right": True, **fields}

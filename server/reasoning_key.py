"""The name under which chat completions show reasoning: vLLM's `reasoning`, `reasoning_content` as DeepSeek's clients
read it, or both."""

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any, Literal

ReasoningKey = Literal["reasoning", "reasoning_content", "both"]

_OWN, _OTHER = "reasoning", "reasoning_content"


def name_reasoning(message: Any, key: ReasoningKey) -> None:
    """Let a whole response's message show its reasoning under this name."""
    if key == _OWN:
        return
    setattr(message, _OTHER, message.reasoning)
    if key == _OTHER:
        message.reasoning = None


def with_reasoning_named(stream: AsyncGenerator[str, None], key: ReasoningKey) -> AsyncGenerator[str, None]:
    """A stream of chunks whose deltas show their reasoning under this name."""
    return stream if key == _OWN else _renamed(stream, key)


async def _renamed(stream: AsyncGenerator[str, None], key: ReasoningKey) -> AsyncGenerator[str, None]:
    async with contextlib.aclosing(stream):
        async for event in stream:
            yield _renamed_event(event, key) if f'"{_OWN}":' in event else event


def _renamed_event(event: str, key: ReasoningKey) -> str:
    chunk: dict[str, Any] = json.loads(event.removeprefix("data: "))
    for choice in chunk.get("choices", []):
        delta = choice["delta"]
        if _OWN in delta:
            text = delta[_OWN] if key == "both" else delta.pop(_OWN)
            delta[_OTHER] = text
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

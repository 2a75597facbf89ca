"""What became of a request, told by its client: a complete answer, an error that says why, or neither."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

_QUESTIONS = tuple(
    f"Tom has {first} apples. He buys {second} bags of {third} apples each. He loses 7 of them. How many apples does "
    "Tom have now?"
    for first in range(11, 40)
    for second, third in ((3, 8), (4, 9), (2, 12), (6, 5))
)


@dataclass(frozen=True, slots=True)
class Answer:
    """`fate` is "complete", "error" (with its HTTP `status` or, in a stream, its `code`), or "broken", which `code`
    explains. Times in seconds from the request: `first` to the response's beginning, `seconds` to its end."""

    fate: str
    code: str
    first: float
    seconds: float
    account: dict[str, Any] = field(default_factory=dict)
    retry_after: float = 0.0


def question(number: int) -> str:
    """One of many questions, always the same for the same number."""
    return _QUESTIONS[number % len(_QUESTIONS)]


def asked(number: int, *, stream: bool, **fields: Any) -> dict[str, Any]:
    """The body of a request for question `number`."""
    messages = [{"role": "user", "content": question(number)}]
    return {"model": "drr-reference", "messages": messages, "seed": number, "stream": stream, **fields}


async def ask(client: httpx.AsyncClient, url: str, number: int, *, stream: bool, **fields: Any) -> Answer:
    """Ask question `number`; what becomes of it is never an exception."""
    body = asked(number, stream=stream, **fields)
    begun = time.perf_counter()
    first = 0.0
    try:
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            first = time.perf_counter() - begun
            text = (await response.aread()).decode()
    except httpx.HTTPError as error:
        return Answer("broken", type(error).__name__, first, time.perf_counter() - begun)
    seconds = time.perf_counter() - begun
    after = float(response.headers.get("retry-after", 0))
    return judged(response.status_code, text, first, seconds, stream=stream, retry_after=after)


def judged(status: int, text: str, first: float, seconds: float, *, stream: bool, retry_after: float = 0.0) -> Answer:
    """What became of a request that was answered with this text."""
    if status != 200:
        return Answer(*_error(text, str(status)), first, seconds, retry_after=retry_after)
    fate, code, account = _streamed(text) if stream else _whole(text)
    return Answer(fate, code, first, seconds, account)


def _error(text: str, status: str) -> tuple[str, str]:
    try:
        said = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return "broken", f"{status} without a reason"
    return ("error", status) if said else ("broken", f"{status} without a reason")


def _whole(text: str) -> tuple[str, str, dict[str, Any]]:
    try:
        choice, account = (told := json.loads(text))["choices"][0], told.get("drr") or {}
    except (ValueError, KeyError, IndexError, TypeError):
        return "broken", "no completion", {}
    return (*_fate(choice["finish_reason"], choice["message"].get("content")), account)


def _streamed(text: str) -> tuple[str, str, dict[str, Any]]:
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        return "broken", "the stream has no end", {}
    content, reason = "", None
    account: dict[str, Any] = {}
    for event in map(json.loads, events[:-1]):
        if "error" in event:
            return "error", str(event["error"].get("code")), account
        for choice in event.get("choices", ()):
            content += choice["delta"].get("content") or ""
            reason = choice.get("finish_reason") or reason
        account = event.get("drr", account)
    return (*_fate(reason, content), account)


def _fate(reason: str | None, content: str | None) -> tuple[str, str]:
    if reason in ("stop", "length") and content:
        return "complete", reason
    return "broken", f"finish reason {reason} with {'some' if content else 'no'} content"


def tally(answers: Sequence[Answer]) -> str:
    """How many met which fate."""
    counts = Counter(f"{answer.fate} ({answer.code})" for answer in answers)
    return ", ".join(f"{count} {fate}" for fate, count in sorted(counts.items()))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

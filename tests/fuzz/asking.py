"""Ask a server a drawn request, whole or streamed, and put what it says into one shape."""

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from server.endpoints import CHAT_PATH
from tests.fuzz.draw import Drawn

LIMIT = 120.0
"""Seconds after which a request counts as hanging."""


@dataclass
class Choice:
    """What was said of one choice. `entries` are its log-probabilities."""

    reasoning: str = ""
    content: str | None = None
    refusal: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    ends: int = 0
    """Chunks with a finish_reason."""

    @property
    def text(self) -> tuple[Any, ...]:
        """What a client reads."""
        return self.reasoning, self.content or "", self.refusal or "", self.finish_reason, self.stop_reason


@dataclass
class Answer:
    """A response. `usages` are those of all chunks, `steps` the step chunks, `broken` what is wrong with its shape."""

    status: int = 0
    streamed: bool = False
    error: dict[str, Any] | None = None
    choices: dict[int, Choice] = field(default_factory=dict)
    usages: list[dict[str, Any]] = field(default_factory=list)
    drr: dict[str, Any] | None = None
    delta_reports: dict[int, dict[str, Any]] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    outcome_header: str | None = None
    prompt_token_ids: list[int] | None = None
    cancelled: bool = False
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether it is a whole answer."""
        return self.status == 200 and self.error is None and not self.cancelled and not self.broken

    @property
    def accounts(self) -> list[dict[str, Any]]:
        """The accounts of its choices, in order; none where the report was refused."""
        if self.drr is None:
            return []
        accounts: list[dict[str, Any]] = self.drr.get("choices", [self.drr])
        return accounts

    @property
    def text(self) -> list[tuple[Any, ...]]:
        """What a client reads, and why each choice ended."""
        causes = [account["stop_cause"] for account in self.accounts] or [None] * len(self.choices)
        return [(*self.choices[index].text, cause) for index, cause in zip(sorted(self.choices), causes, strict=False)]


async def ask(client: httpx.AsyncClient, url: str, drawn: Drawn) -> Answer:
    """The server's answer."""
    answer, started = Answer(), time.perf_counter()
    try:
        async with asyncio.timeout(LIMIT if drawn.cancel_after is None else drawn.cancel_after):
            await _read(client, url, drawn, answer)
    except TimeoutError:
        if drawn.cancel_after is None:
            answer.broken.append(f"no end within {LIMIT:g} s")
        answer.cancelled = True
    except httpx.TransportError as error:
        answer.broken.append(f"the connection broke: {error!r}")
    answer.seconds = time.perf_counter() - started
    return answer


async def _read(client: httpx.AsyncClient, url: str, drawn: Drawn, answer: Answer) -> None:
    headers = {"content-type": "application/json", **drawn.headers}
    request = client.stream("POST", f"{url}{CHAT_PATH}", content=drawn.content(), headers=headers)
    async with request as response:
        answer.status = response.status_code
        answer.outcome_header = response.headers.get("x-drr-outcome")
        answer.streamed = response.headers.get("content-type", "").startswith("text/event-stream")
        if answer.streamed:
            await _read_events(response, answer)
            return
        await response.aread()
        try:
            whole = response.json()
        except ValueError:
            answer.broken.append(f"no JSON: {response.text[:200]!r}")
            return
        if answer.status == 200:
            take_whole(answer, whole)
        else:
            answer.error = whole


async def _read_events(response: httpx.Response, answer: Answer) -> None:
    done = False
    async for line in response.aiter_lines():
        if not line:
            continue
        if done:
            answer.broken.append(f"something behind [DONE]: {line[:100]!r}")
        if line == "data: [DONE]":
            done = True
            continue
        if not line.startswith("data: "):
            answer.broken.append(f"no event: {line[:100]!r}")
            continue
        chunk = json.loads(line.removeprefix("data: "))
        with contextlib.suppress(KeyError):
            answer.error = {"error": chunk["error"]}
            continue
        take_chunk(answer, chunk)
    if not done:
        answer.broken.append("the stream ended without [DONE]")


def take_whole(answer: Answer, body: dict[str, Any]) -> None:
    """Take a response that came at once."""
    answer.drr, answer.prompt_token_ids = body.get("drr"), body.get("prompt_token_ids")
    answer.usages.append(body["usage"])
    for told in body["choices"]:
        choice = answer.choices[told["index"]] = Choice()
        _take(choice, told, told["message"])
        choice.content = told["message"]["content"]


def take_chunk(answer: Answer, chunk: dict[str, Any]) -> None:
    """Take what comes next of a stream."""
    own = chunk.get("drr")
    if own is not None and "step" in own:
        answer.steps.append(own["step"])
        if chunk["choices"]:
            answer.broken.append("a step came with choices")
    elif own is not None:
        if answer.drr is not None:
            answer.broken.append("the account came twice")
        answer.drr = own
    if chunk.get("usage"):
        answer.usages.append(chunk["usage"])
    answer.prompt_token_ids = chunk.get("prompt_token_ids") or answer.prompt_token_ids
    for told in chunk["choices"]:
        choice = answer.choices.setdefault(told["index"], Choice())
        if choice.ends:
            answer.broken.append(f"choice {told['index']} went on behind its end")
        _take(choice, told, told["delta"])
        if told["delta"].get("drr") is not None:
            answer.delta_reports[told["index"]] = told["delta"]["drr"]


def _take(choice: Choice, told: dict[str, Any], message: dict[str, Any]) -> None:
    choice.reasoning += message.get("reasoning") or ""
    if message.get("content") is not None:
        choice.content = (choice.content or "") + message["content"]
    if message.get("refusal") is not None:
        choice.refusal = (choice.refusal or "") + message["refusal"]
    choice.tool_calls += message.get("tool_calls") or []
    choice.token_ids += told.get("token_ids") or []
    choice.entries += (told.get("logprobs") or {}).get("content") or []
    if told.get("finish_reason") is not None:
        choice.ends += 1
        choice.finish_reason, choice.stop_reason = told["finish_reason"], told.get("stop_reason")

"""A response in OpenAI's shape, whole or streamed, with the account of every request that it took."""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drr.engine.upstream.cost import Cost, Prices
from drr.loop.chat.response import ChatFinished
from drr.loop.chat.said import Field, Shown
from drr.loop.response import Outcome, StepReport
from server.plan import ResponsePlan
from server.report import outcome_object, step_object
from server.upstream_chat.asking import Asking


@dataclass(slots=True)
class Account:
    """What a response comes to. `cost` are all upstream requests, `probes` the tokens of those that a judge sent;
    `tells_thinking` is whether the upstream counts thinking apart."""

    asking: Asking
    scorer_id: str | None
    cost: Cost
    prices: Prices | None
    tier: str

    def drr_object(self, outcome: Outcome, *, tells_thinking: bool) -> dict[str, Any]:
        """The `drr` object. Thinking and answer are null where the upstream does not tell them apart."""
        report = outcome_object(ResponsePlan(self.asking.settings, "", self.scorer_id), outcome)
        if not tells_thinking:
            report["thinking_tokens"] = report["answer_tokens"] = None
        report["cost"] = self.cost.to_json(self.prices)
        return report

    def usage(self, outcome: Outcome, *, tells_thinking: bool) -> dict[str, Any]:
        """The sum over all upstream requests."""
        completion = outcome.generated_tokens + outcome.probe_tokens
        beside = outcome.discarded_tokens + outcome.probe_tokens
        details: dict[str, Any] = {
            "reasoning_tokens": outcome.thinking_tokens + beside if tells_thinking else None,
            "discarded_tokens": outcome.discarded_tokens,
            "probe_tokens": outcome.probe_tokens,
        }
        usage: dict[str, Any] = {
            "prompt_tokens": self.cost.prompt_tokens_sent,
            "completion_tokens": completion,
            "total_tokens": self.cost.prompt_tokens_sent + completion,
            "completion_tokens_details": details,
        }
        if self.cost.cached_prompt_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cost.cached_prompt_tokens}
        return usage


@dataclass(slots=True)
class Head:
    """What all parts of one response begin with."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def of(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass(slots=True)
class Whole:
    """Puts a whole response together."""

    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)

    def add(self, shown: Shown) -> None:
        """What came next."""
        (self.reasoning if shown.field is Field.REASONING else self.content).append(shown.text)

    def body(
        self, head: Head, end: ChatFinished, drr: dict[str, Any] | None, usage: Mapping[str, Any], reasoning_key: str
    ) -> dict[str, Any]:
        """The response."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.content), "refusal": None}
        if self.reasoning:
            message[reasoning_key] = "".join(self.reasoning)
        message.update(end.message)
        if end.refused is not None:
            message["refusal"] = end.refused
        if end.refused is not None or end.message.get("tool_calls") or end.message.get("refusal"):
            message["content"] = message["content"] or None
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end.finish_reason}
        body = {**head.of("chat.completion"), "choices": [choice], "usage": dict(usage)}
        return body if drr is None else {**body, "drr": drr}


@dataclass(slots=True)
class Chunks:
    """Makes the chunks of a streamed response."""

    head: Head
    reasoning_key: str
    tells_usage: bool

    def first(self) -> bytes:
        """The chunk that opens the message."""
        return self._chunk({"role": "assistant", "content": ""})

    def shown(self, shown: Shown) -> bytes:
        """A bit of the message."""
        name = self.reasoning_key if shown.field is Field.REASONING else "content"
        return self._chunk({name: shown.text})

    def step(self, step: StepReport) -> bytes:
        """A step that has closed, for clients that asked for such."""
        told = {"step": {"choice": 0, **step_object(step)}}
        return _event({**self.head.of("chat.completion.chunk"), "choices": [], "drr": told})

    def last(self, end: ChatFinished, drr: dict[str, Any] | None, usage: Mapping[str, Any]) -> list[bytes]:
        """What ends the stream."""
        chunks = []
        message = dict(end.message)
        if end.refused is not None:
            message["refusal"] = end.refused
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            message["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
        if message:
            chunks.append(self._chunk(message))
        told = {} if drr is None else {"drr": drr}
        chunks.append(self._chunk(dict(told), end.finish_reason, told))
        if self.tells_usage:
            chunks.append(_event({**self.head.of("chat.completion.chunk"), "choices": [], "usage": dict(usage)}))
        return [*chunks, b"data: [DONE]\n\n"]

    def _chunk(
        self, delta: dict[str, Any], reason: str | None = None, beside: Mapping[str, Any] | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**self.head.of("chat.completion.chunk"), "choices": [choice], **(beside or {})})


def _event(chunk: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()

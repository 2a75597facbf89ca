"""A Reasoner of which only chat completions are served, for one response: requests out, pieces of text in, all of it
counted."""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from drr.engine.upstream.cost import Cost, Usage
from drr.engine.upstream.errors import UpstreamError
from drr.loop.chat.said import Answered, Ask, Field, Piece, Tier

CHAT_PATH = "chat/completions"

LimitField = Literal["max_completion_tokens", "max_tokens"]
PrefixStyle = Literal["reasoning_content", "continue_final_message"]

REASONING_FIELDS = ("reasoning_content", "reasoning")
"""What upstreams call the thinking that they show."""

_RAISED = ("low", "medium", "high")
"""Efforts, each of which a later attempt raises to the next."""

_KEPT = ("refusal", "annotations", "audio")
"""Fields of a message that are handed on as they are."""


class ChatClient(Protocol):
    """What is needed of an upstream's client."""

    def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]: ...


@dataclass(frozen=True, slots=True)
class ChatAbilities:
    """What an upstream's chat completions allow. `prefix` is how a thought is handed back (None: it cannot be), and
    `answer_cue` the text that has to follow it for the answer to begin. `limit_field` bounds what is generated,
    `stream_usage` tells whether streams can be asked for their usage, `effort` whether `reasoning_effort` is taken, and
    `shows` which field thinking is shown in."""

    tier: Tier
    prefix: PrefixStyle | None = None
    answer_cue: str = ""
    limit_field: LimitField = "max_completion_tokens"
    stream_usage: bool = True
    effort: bool = True
    shows: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def forced(self, tier: Tier) -> "ChatAbilities":
        """The same with this tier. ValueError where the upstream does not have it."""
        if tier == "prefix" and self.prefix is None:
            raise ValueError("the upstream takes no partial thought")
        return replace(self, tier=tier)


@dataclass(slots=True)
class ChatRequest:
    """What one response asks of its upstream: the client's own fields, with the upstream's name of the model.
    `later_temperature` is that of attempts after a greedy one."""

    body: dict[str, Any]
    later_temperature: float | None = None
    text: str = field(init=False, default="", repr=False)
    """All that is sent, for an estimate of its tokens."""

    def __post_init__(self) -> None:
        self.text = "\n".join(_text(message) for message in self.body["messages"])


class UpstreamChat:
    """The Reasoner of one response. `cost` is the sum over all its requests."""

    def __init__(self, client: ChatClient, abilities: ChatAbilities, request: ChatRequest) -> None:
        self.client, self.abilities, self.request = client, abilities, request
        self.cost = Cost()

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece | Answered, None]:
        """As ChatReasoner. UpstreamError for whatever the upstream does instead."""
        body = self._body(ask)
        cue = self.abilities.answer_cue if ask.thought is not None else ""
        if cue:
            yield Piece(Field.CONTENT, cue, injected=True)
        prompt = self.request.text + (ask.thought or "") + cue
        async with contextlib.aclosing(counted_stream(self.client, body, prompt, self.cost)) as items:
            async for item in items:
                yield item

    def _body(self, ask: Ask) -> dict[str, Any]:
        body = streamed(self.request.body, self.abilities)
        if ask.room is not None:
            body[self.abilities.limit_field] = ask.room
        if ask.attempt:
            self._vary(body, ask.attempt)
        if ask.thought is not None:
            self._hand_back(body, ask.thought)
        return body

    def _vary(self, body: dict[str, Any], attempt: int) -> None:
        """A later attempt must not repeat the first."""
        if self.request.later_temperature is not None:
            body["temperature"] = self.request.later_temperature
        if body.get("seed") is not None:
            body["seed"] += attempt
        effort = body.get("reasoning_effort")
        if effort in _RAISED:
            body["reasoning_effort"] = _RAISED[min(_RAISED.index(effort) + attempt, len(_RAISED) - 1)]

    def _hand_back(self, body: dict[str, Any], thought: str) -> None:
        cue = self.abilities.answer_cue
        if self.abilities.prefix == "reasoning_content":
            last = {"role": "assistant", "content": cue, "reasoning_content": thought, "prefix": True}
        else:
            last = {"role": "assistant", "content": f"<think>\n{thought.strip()}\n</think>\n\n{cue}"}
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        body["messages"] = [*body["messages"], last]


def streamed(body: Mapping[str, Any], abilities: ChatAbilities) -> dict[str, Any]:
    """A request's body, streamed, its usage asked for where that is understood."""
    asked = {**body, "stream": True}
    if abilities.stream_usage:
        asked["stream_options"] = {"include_usage": True}
    return asked


async def counted_stream(
    client: ChatClient, body: Mapping[str, Any], prompt: str, cost: Cost
) -> AsyncGenerator[Piece | Answered, None]:
    """One request's pieces, and its end. It is put into `cost` however it ends, unless the upstream did not take it;
    `prompt` is what it sends, for an estimate where the upstream does not count."""
    reading = _Reading()
    taken = True
    try:
        async with contextlib.aclosing(client.events(CHAT_PATH, body)) as events:
            async for event in events:
                for piece in reading.feed(event):
                    yield piece
        yield reading.end()
    except UpstreamError:
        taken = reading.begun
        raise
    finally:
        if reading.usage is not None:
            cost.add(reading.usage)
        elif taken:
            cost.add_estimate(prompt, reading.pieces)


class _Reading:
    """Reads the chunks of one stream."""

    def __init__(self) -> None:
        self.begun = False
        self.usage: Usage | None = None
        self.pieces = 0
        self._thought = 0
        self._finish_reason: str | None = None
        self._message: dict[str, Any] = {}
        self._calls: dict[int, dict[str, Any]] = {}

    def feed(self, chunk: Mapping[str, Any]) -> list[Piece]:
        """The next chunk; UpstreamError where it is none."""
        self.begun = True
        self.usage = Usage.read(chunk.get("usage")) or self.usage
        choices = chunk.get("choices")
        if choices is None or choices == []:
            return []
        try:
            (choice,) = choices
            delta, reason = choice.get("delta") or {}, choice.get("finish_reason")
            found = self._pieces(delta)
            self._note(delta)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise UpstreamError("malformed", "the upstream sent a chunk that is none of chat completions'") from error
        if reason is not None:
            self._finish_reason = str(reason)
        return found

    def end(self) -> Answered:
        """What the stream amounts to; UpstreamError where it came to no end."""
        if self._finish_reason is None:
            raise UpstreamError("cut", "the upstream's stream ended in the middle")
        message = dict(self._message)
        if self._calls:
            message["tool_calls"] = [call for _, call in sorted(self._calls.items())]
        if self.usage is None:
            hidden = None if self._thought == 0 else self._thought
            return Answered(self._finish_reason, self.pieces, hidden, message)
        told = self.usage.reasoning
        if told is None and self._thought:
            told = min(self._thought, self.usage.completion)
        return Answered(self._finish_reason, self.usage.completion, told, message)

    def _pieces(self, delta: Mapping[str, Any]) -> list[Piece]:
        found = []
        for name in REASONING_FIELDS:
            if delta.get(name):
                found.append(Piece(Field.REASONING, _of_text(delta[name])))
                break
        if delta.get("content"):
            found.append(Piece(Field.CONTENT, _of_text(delta["content"])))
        self.pieces += len(found)
        self._thought += sum(piece.field is Field.REASONING for piece in found)
        return found

    def _note(self, delta: Mapping[str, Any]) -> None:
        """What a delta says beside its texts."""
        for name in _KEPT:
            value = delta.get(name)
            if isinstance(value, str):
                self._message[name] = self._message.get(name, "") + value
            elif value is not None:
                self._message[name] = value
        for call in delta.get("tool_calls") or ():
            known = self._calls.setdefault(
                call["index"], {"type": "function", "function": {"name": "", "arguments": ""}}
            )
            if call.get("id"):
                known["id"] = call["id"]
            told = call.get("function") or {}
            for name in ("name", "arguments"):
                known["function"][name] += told.get(name) or ""


def _of_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _text(message: Any) -> str:
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "\n".join(str(part["text"]) for part in parts if isinstance(part, Mapping) and part.get("text"))

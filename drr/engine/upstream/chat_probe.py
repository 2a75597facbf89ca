"""Finds out what an upstream's chat completions allow: a few short requests at start, each of which asks for what only
an upstream with that ability answers."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from drr.engine.upstream.chat import (
    CHAT_PATH,
    REASONING_FIELDS,
    ChatAbilities,
    ChatClient,
    ChatRequest,
    LimitField,
    PrefixStyle,
    UpstreamChat,
)
from drr.engine.upstream.cost import Usage
from drr.engine.upstream.errors import UpstreamError
from drr.loop.chat.said import Answered, Ask, Field, Tier

_LIMIT = 16
_LONG = "Write the numbers from 1 to 60 in words, separated by commas."
"""An answer that is longer than the limit."""

_WORD = "quartzite"
_QUESTION = "Think of a stone. Which one was it? Answer with its name only."
_THOUGHT = f"The stone that I think of is {_WORD}. I have nothing else to think about, and I answer with its name.\n\n"
_ROOM = 400
_CUES = ("", "The stone is")
_STYLES: tuple[PrefixStyle, ...] = ("reasoning_content", "continue_final_message")


async def probe_chat(client: ChatClient, model: str, tier: Tier | None = None) -> ChatAbilities:
    """What the upstream's chat completions allow for this model. `tier` is one that is to be served whatever else would
    be possible; with `opaque`, partial thoughts are not even tried. UpstreamError where the upstream answers no plain
    question."""
    found = await _limits(client, model)
    found = replace(found, effort=await _takes_effort(client, model, found))
    if tier == "opaque":
        return found
    for style in _STYLES:
        for cue in _CUES:
            tried = replace(found, tier="prefix", prefix=style, answer_cue=cue)
            said = await _continued(client, model, tried)
            if said is None:
                break  # it refuses this style, whatever the cue
            if said:
                # The probe's own cue fits its own question only.
                return replace(tried, answer_cue="" if not cue else "The answer is")
    return found


@dataclass(slots=True)
class _Plain:
    """What came for a plain question."""

    usage: Usage | None = None
    finish_reason: str | None = None
    shows: str | None = None
    pieces: int = 0


async def _limits(client: ChatClient, model: str) -> ChatAbilities:
    """Which field bounds an output, and whether streams tell their usage."""
    fields: tuple[LimitField, ...] = ("max_completion_tokens", "max_tokens")
    refused: UpstreamError | None = None
    stream_usage = True
    for name in fields:
        for usage in (True, False):
            try:
                plain = await _plain(client, model, {name: _LIMIT}, usage=usage)
            except UpstreamError as error:
                if error.kind != "refused":
                    raise
                refused = error
                continue
            stream_usage = usage
            generated = plain.pieces if plain.usage is None else plain.usage.completion
            if plain.finish_reason == "length" or generated <= _LIMIT:
                return ChatAbilities("opaque", limit_field=name, stream_usage=stream_usage, shows=plain.shows)
            refused = None
            break
    if refused is not None:
        raise refused
    return ChatAbilities("opaque", limit_field="max_tokens", stream_usage=stream_usage)


async def _plain(client: ChatClient, model: str, options: Mapping[str, Any], *, usage: bool) -> _Plain:
    body = {"model": model, "messages": [{"role": "user", "content": _LONG}], "stream": True, **options}
    if usage:
        body["stream_options"] = {"include_usage": True}
    found = _Plain()
    async with contextlib.aclosing(client.events(CHAT_PATH, body)) as events:
        async for event in events:
            found.usage = Usage.read(event.get("usage")) or found.usage
            for choice in event.get("choices") or ():
                delta = choice.get("delta") or {}
                found.finish_reason = choice.get("finish_reason") or found.finish_reason
                found.shows = next((name for name in REASONING_FIELDS if delta.get(name)), found.shows)
                found.pieces += any(delta.get(name) for name in (*REASONING_FIELDS, "content"))
    return found


async def _takes_effort(client: ChatClient, model: str, found: ChatAbilities) -> bool:
    try:
        await _plain(client, model, {found.limit_field: _LIMIT, "reasoning_effort": "low"}, usage=found.stream_usage)
    except UpstreamError as error:
        if error.kind != "refused":
            raise
        return False
    return True


async def _continued(client: ChatClient, model: str, tried: ChatAbilities) -> bool | None:
    """Whether the answer comes at once behind a thought that is handed back, and rests on it; None where the upstream
    refuses it."""
    request = ChatRequest({"model": model, "messages": [{"role": "user", "content": _QUESTION}]})
    chat = UpstreamChat(client, tried, request)
    answer = ""
    try:
        async with contextlib.aclosing(chat.stream(Ask(0, _ROOM, _THOUGHT))) as items:
            async for item in items:
                if isinstance(item, Answered):
                    if item.thinking_tokens:  # hidden, and so a fresh turn
                        return False
                elif item.field is Field.REASONING:
                    return False
                elif not item.injected:
                    answer += item.text
    except UpstreamError as error:
        if error.kind != "refused":
            raise
        return None
    return _WORD in answer.casefold()

"""Bodies that hold more than any request needs of something that costs the server time for each: messages, parts of
their content, tools, stop texts. Such a list of a megabyte would keep the event loop busy for a minute. And stop texts
with half of a surrogate pair, which no engine can compare with anything: vLLM answers them with HTTP 500."""

import json
import re
from collections.abc import Mapping
from typing import Any

from server.admission.under_way import App, Message, Receive, Send
from server.endpoints import path_of
from server.refusals import Refusal, bad_request

_SMALL = 16 << 10
"""Bytes of a body in which there is no room for too many of anything."""

_MOST_STOPS = 1_000
"""Texts that every token's text is compared with."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How JSON says one; whole pairs are found, too."""

_STOPS = ("stop", "stop_sequences", "bad_words")
_CONVERSATIONS = ("messages", "input")
_PARTS = ("content", "tool_calls", "output", "summary")
"""Where an entry of a conversation has entries of its own."""


class WideBodies:
    """ASGI middleware that refuses them. `most` are the entries of a conversation, their parts included, and of any
    other list at the top of a body that does not hold token ids."""

    def __init__(self, app: App, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        messages = list[Message]()
        more = True
        while more:
            messages.append(await receive())
            more = messages[-1]["type"] == "http.request" and bool(messages[-1].get("more_body"))
        refusal = self._refusal(b"".join(message.get("body", b"") for message in messages))
        if refusal is not None:
            await refusal.response(path_of(scope))(scope, receive, send)
            return

        async def replayed() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replayed, send)

    def _refusal(self, body: bytes) -> Refusal | None:
        if len(body) < _SMALL and _SURROGATE.search(body) is None:
            return None
        try:
            parsed = json.loads(body)
        except (ValueError, RecursionError):
            return None  # whoever reads it next says what is wrong with it
        if not isinstance(parsed, dict):
            return None
        for field, value in parsed.items():
            most = _MOST_STOPS if field in _STOPS else self._most
            if isinstance(value, list) and _entries(field, value) > most:
                return bad_request(field[:_SMALL], f"has more than {most:,} entries")
            if field in _STOPS and _has_half_a_character(value):
                return bad_request(field, "must be Unicode, without lone surrogates")
        return None


def _has_half_a_character(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return any("\ud800" <= character <= "\udfff" for text in texts if isinstance(text, str) for character in text)


def _entries(field: str, values: list[Any]) -> int:
    """How many entries a list has that count."""
    if field in _CONVERSATIONS:
        return sum(1 + _parts(value) for value in values)
    holds_ids = field not in _STOPS and set(map(type, values)) == {int}
    return 0 if holds_ids else len(values)


def _parts(entry: Any) -> int:
    if isinstance(entry, list):  # several conversations in one request
        return sum(1 + _parts(inner) for inner in entry if not isinstance(inner, list)) + len(entry)
    if not isinstance(entry, Mapping):
        return 0
    return sum(len(entry[name]) for name in _PARTS if isinstance(entry.get(name), list))

"""DRR's options on endpoints that do not take them, and the short account in the headers of those that do."""

import json
from typing import Any

from server.chat_templates import FIELD, KWARGS, UNTRUSTED, brings_template
from server.endpoints import (
    ALIAS_STATE,
    CHAT_PATH,
    HEADER,
    MESSAGES_PATH,
    OUTCOME_HEADER,
    RESPONSES_PATH,
    Endpoint,
    endpoint_of,
    path_of,
    served_names,
    split_alias,
)
from server.plan import PLAN_KEY
from server.refusals import bad_request

_OBJECT, _XARGS = "drr", "vllm_xargs"
_TAKERS = "/v1/chat/completions, /v1/responses and /v1/messages"


class GuardOptions:
    """ASGI middleware. A `drr` object on an endpoint that would ignore it is HTTP 400, and so is an X-DRR header where
    something is generated; reading requests may carry the header, which clients send with everything. Model aliases
    are taken wherever that is no lie. Responses with an account have it, in short, as a header.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        endpoint = endpoint_of(path_of(scope))
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif endpoint.path in (CHAT_PATH, MESSAGES_PATH):
            await self._app(scope, receive, _with_account(scope, send))
        elif endpoint.path == RESPONSES_PATH:
            await self._response(scope, receive, _with_account(scope, send))
        else:
            await self._elsewhere(endpoint, scope, receive, send)

    async def _response(self, scope: Any, receive: Any, send: Any) -> None:
        """Refuse what vLLM would break on."""
        messages, body = await _whole_body(receive)
        refusal = _without_content(_parsed(body).get("input"))
        if refusal is not None:
            await bad_request(*refusal).response(RESPONSES_PATH)(scope, receive, send)
            return
        await self._app(scope, _replayed(messages, receive), send)

    async def _elsewhere(self, endpoint: Endpoint, scope: Any, receive: Any, send: Any) -> None:
        messages, body = await _whole_body(receive)
        parsed = _parsed(body)
        served = served_names(scope["app"].state.openai_serving_models) if "model" in parsed else set()
        found = split_alias(str(parsed.get("model", "")), served)
        aliased = found if found is not None and found[0] in served else None
        if endpoint.takes_drr and "messages" in parsed:  # a chat completion by a path on which the model's name is lost
            if aliased is not None:
                scope.setdefault("state", {})[ALIAS_STATE] = aliased[1]
            await self._app(scope, _replayed(messages, receive), _with_account(scope, send))
            return
        has_header = any(name == HEADER.encode() for name, _ in scope["headers"])
        refusal = _refused(endpoint, parsed, has_header=has_header) or _template(scope, parsed)
        if refusal is None and aliased is not None:
            name, mode = aliased
            if endpoint.thinks and mode != "off":
                why = f"only {_TAKERS} judge thinking; here {name} and {name}:full think in full"
                refusal = ("model", why)
            else:
                messages, scope = _with_model(name, parsed, scope)
        if refusal is not None:
            await bad_request(*refusal).response(endpoint.path)(scope, receive, send)
            return
        await self._app(scope, _replayed(messages, receive), send)


def _refused(endpoint: Endpoint, body: dict[str, Any], *, has_header: bool) -> tuple[str, str] | None:
    """What is at fault, and why; None where nothing is."""
    if has_header and endpoint.thinks:
        return "X-DRR", f"only {_TAKERS} take this header"
    if body.get(_OBJECT) is not None:
        return _OBJECT, f"only {_TAKERS} take a drr object"
    xargs = body.get(_XARGS)
    if isinstance(xargs, dict) and PLAN_KEY in xargs:
        return _XARGS, f"the key {PLAN_KEY!r} is taken"
    return _not_unicode(body) or (
        _without_content(body.get("input")) if endpoint.path.startswith(RESPONSES_PATH) else None
    )


def _not_unicode(body: dict[str, Any]) -> tuple[str, str] | None:
    """Text with half of a surrogate pair, which no engine can be sent: vLLM answers it with HTTP 500 in some fields."""
    for name, value in body.items():
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            return name, "must be Unicode, without lone surrogates"
    return None


def _template(scope: Any, body: dict[str, Any]) -> tuple[str, str] | None:
    """A chat template that comes with a request, also where vLLM would not look at it."""
    if scope["app"].state.args.trust_request_chat_template:
        return None
    named = brings_template(body.get(FIELD), body.get(KWARGS))
    return None if named is None else (named, UNTRUSTED)


def _without_content(items: Any) -> tuple[str, str] | None:
    """An assistant's own message without content among the items of a response's input: vLLM answers it with HTTP 500.
    One without an id, which a client has written, it takes."""
    for number, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and "id" in item and item.get("role") == "assistant" and item.get("content") == []:
            return f"input[{number}].content", "must not be empty: the message says nothing"
    return None


def _with_model(name: str, body: dict[str, Any], scope: Any) -> tuple[list[Any], Any]:
    """The request with another model's name."""
    content = json.dumps({**body, "model": name}).encode()
    headers = [(key, value) for key, value in scope["headers"] if key != b"content-length"]
    headers.append((b"content-length", str(len(content)).encode()))
    return [{"type": "http.request", "body": content, "more_body": False}], {**scope, "headers": headers}


def _with_account(scope: Any, send: Any) -> Any:
    """`send` that puts what a handler has left in the request's state into the response's headers."""
    state = scope.setdefault("state", {})

    async def sent(message: Any) -> None:
        account = state.get(OUTCOME_HEADER)
        if message["type"] == "http.response.start" and account is not None:
            own = [
                (OUTCOME_HEADER.encode(), account.encode()),
                (b"access-control-expose-headers", OUTCOME_HEADER.encode()),
            ]
            message = {**message, "headers": [*message["headers"], *own]}
        await send(message)

    return sent


def _replayed(messages: list[Any], receive: Any) -> Any:
    """`receive` that gives these messages once more."""
    left = list(messages)

    async def replay() -> Any:
        return left.pop(0) if left else await receive()

    return replay


async def _whole_body(receive: Any) -> tuple[list[Any], bytes]:
    """The messages that bring a request's body, and the body."""
    messages, parts = [], []
    while True:
        message = await receive()
        messages.append(message)
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return messages, b"".join(parts)


def _parsed(body: bytes) -> dict[str, Any]:
    """A body's JSON object; empty where it is none, or holds nothing that could matter here."""
    names = (b"drr", b"full", b"messages", b"assistant", b"chat_template", b"\\u")
    if not any(name in body for name in names):
        return {}
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}

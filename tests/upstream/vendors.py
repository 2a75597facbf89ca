"""Chat servers that behave as their vendors' public references say, with a script in place of a model.

Every one is strict: what its vendor refuses is refused here with the vendor's words, and so is every field that it does
not document. What a vendor documents as ignored is ignored. Pieces of a stream are words, and each is one token.
"""

import asyncio
import contextlib
import json
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import uvicorn

Message = MutableMapping[str, Any]
Body = dict[str, Any]

MODEL = "reasoner-1"


@dataclass(frozen=True, slots=True)
class Said:
    """What the scripted model does with one request."""

    thinking: str = ""
    answer: str = ""
    tool: tuple[str, str] | None = None
    """A call in place of an answer: name, and arguments as JSON."""
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request. With a `status` nothing else is said; `after` pieces of a stream the connection
    ends (`cut`), a line comes that is no JSON (`malformed`), or the server says that it has failed (`error`)."""

    status: int | None = None
    retry_after: str | None = None
    cut: bool = False
    malformed: bool = False
    error: bool = False
    after: int = 2
    no_usage: bool = False
    slow: float = 0.0
    """Seconds before every piece."""


class RefusedError(Exception):
    """The vendor refuses a request."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


def pieces(text: str) -> list[str]:
    """A text in words, the blank behind each included."""
    return re.findall(r"\S+\s*|\s+", text)


def text_of(message: Any) -> str:
    """What a message says."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    return f"{message.get('reasoning_content') or ''} {content}"


@dataclass
class Vendor:
    """A server. `script` says what the model does with a request, given the request's number among those for the same
    messages, counted from 0."""

    script: Callable[[Body, int], Said]
    faults: deque[Fault] = field(default_factory=deque)
    always: Fault | None = None
    """What is wrong with every request."""
    bodies: list[Body] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    open: int = 0
    """Requests that are being answered."""
    words_sent: int = 0
    """Pieces of all streams."""
    keys: list[str | None] = field(default_factory=list)
    _asked: dict[str, int] = field(default_factory=dict)
    _prompts: list[list[str]] = field(default_factory=list)

    path: ClassVar[str] = "/v1/chat/completions"
    known: ClassVar[frozenset[str]] = frozenset()
    shows_thinking: ClassVar[str | None] = None
    """The field in which thinking is shown; None where it is not."""

    # What vendors differ in ---------------------------------------------------------------------------------

    def check(self, body: Body) -> None:
        """RefusedError where the vendor would refuse."""

    def continued(self, body: Body, said: Said) -> Said:
        """What is generated where the conversation ends in an assistant's message."""
        return said

    def limit(self, body: Body) -> int | None:
        """The most tokens that may be generated."""
        return body.get("max_completion_tokens") or body.get("max_tokens")

    def usage(self, prompt: list[str], thinking: int, answer: int) -> dict[str, Any]:
        raise NotImplementedError

    def usage_in_stream(self, body: Body) -> bool:
        return bool((body.get("stream_options") or {}).get("include_usage"))

    # HTTP -----------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is served")
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        raw = b""
        while True:
            message = await receive()
            raw += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.open += 1
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await self._answer(scope, headers, raw, send, gone)
        finally:
            gone.cancel()
            self.open -= 1

    async def _answer(
        self, scope: Any, headers: dict[str, str], raw: bytes, send: Any, gone: "asyncio.Future[None]"
    ) -> None:
        if scope["method"] == "GET" and scope["path"].endswith("/models"):
            await self._json(send, 200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
            return
        if not scope["path"].endswith("/chat/completions"):
            await self._json(send, 404, _error("Not Found", None, None))
            return
        self.keys.append(headers.get("authorization"))
        body = json.loads(raw)
        self.bodies.append(body)
        fault = self.faults.popleft() if self.faults else self.always or Fault()
        if fault.status is not None:
            more = {} if fault.retry_after is None else {"retry-after": fault.retry_after}
            await self._json(send, fault.status, _error("try again later", None, None), more)
            return
        try:
            self._check(body)
        except RefusedError as error:
            await self._json(send, error.status, _error(error.message, error.param, error.code))
            return
        said, number = self._said(body)
        if body.get("stream"):
            await self._stream(body, said, number, fault, send, gone)
        else:
            await self._whole(body, said, number, fault, send, gone)

    def _check(self, body: Body) -> None:
        if body.get("model") != MODEL:
            raise RefusedError(404, f"The model `{body.get('model')}` does not exist", "model", "model_not_found")
        if not body.get("messages"):
            raise RefusedError(400, "messages: must not be empty", "messages")
        self.check(body)
        for name in body:
            if name not in self.known:
                raise RefusedError(400, f"Unknown parameter: '{name}'.", name, "unknown_parameter")

    def _said(self, body: Body) -> tuple[Said, int]:
        messages = body["messages"]
        key = json.dumps([message for message in messages if message["role"] != "assistant" or "prefix" not in message])
        number = self._asked.get(key, 0)
        self._asked[key] = number + 1
        said = self.script(body, number)
        if messages[-1]["role"] == "assistant":
            said = self.continued(body, said)
        return said, number

    def _prompt(self, body: Body) -> list[str]:
        return [word for message in body["messages"] for word in pieces(text_of(message))]

    def _cut(self, body: Body, said: Said) -> tuple[list[str], list[str], str]:
        """The words of thinking and of answer that the limit leaves, and why the generation ends."""
        thinking, answer = pieces(said.thinking), pieces(said.answer)
        most = self.limit(body)
        if most is None or len(thinking) + len(answer) <= most:
            return thinking, answer, "tool_calls" if said.tool is not None else "stop"
        return thinking[:most], answer[: max(0, most - len(thinking))], "length"

    async def _whole(
        self, body: Body, said: Said, number: int, fault: Fault, send: Any, gone: "asyncio.Future[None]"
    ) -> None:
        thinking, answer, why = self._cut(body, said)
        if fault.slow:
            await asyncio.wait({gone}, timeout=fault.slow * (len(thinking) + len(answer)))
            if gone.done():
                return
        if fault.malformed:
            await self._raw(send, 200, b'{"choices": [')
            return
        if fault.cut:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9999")]})
            await send({"type": "http.response.body", "body": b'{"choi', "more_body": True})
            raise CutError
        message: dict[str, Any] = {"role": "assistant", "content": "".join(answer)}
        if self.shows_thinking is not None:
            message[self.shows_thinking] = "".join(thinking)
        if said.tool is not None and why != "length":
            message["tool_calls"], message["content"] = [_call(said.tool)], None
        if said.refusal is not None:
            message["refusal"], message["content"] = said.refusal, None
        reply = {
            **_head(number, "chat.completion"),
            "choices": [{"index": 0, "message": message, "finish_reason": why}],
        }
        if not fault.no_usage:
            reply["usage"] = self._counted(body, len(thinking), len(answer))
        self.words_sent += len(thinking) + len(answer)
        await self._json(send, 200, reply)

    def _counted(self, body: Body, thinking: int, answer: int) -> dict[str, Any]:
        prompt = self._prompt(body)
        usage = self.usage(prompt, thinking, answer)
        self._prompts.append(prompt)
        return usage

    def cached(self, prompt: Sequence[str]) -> int:
        """How many tokens of a prompt are those that an earlier one began with."""
        return max((_common(prompt, earlier) for earlier in self._prompts), default=0)

    async def _stream(
        self, body: Body, said: Said, number: int, fault: Fault, send: Any, gone: "asyncio.Future[None]"
    ) -> None:
        self.statuses.append(200)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        async with contextlib.aclosing(self._events(body, said, number, fault)) as events:
            async for event in events:
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": event, "more_body": True})
                if fault.slow:
                    await asyncio.wait({gone}, timeout=fault.slow)
                else:
                    await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self, body: Body, said: Said, number: int, fault: Fault) -> AsyncGenerator[bytes, None]:
        head = _head(number, "chat.completion.chunk")
        thinking, answer, why = self._cut(body, said)
        yield b": keep-alive\n\n"
        yield _event({**head, "choices": [_delta({"role": "assistant", "content": ""})]})
        parts = [(self.shows_thinking, word) for word in thinking] + [("content", word) for word in answer]
        for shown, (name, word) in enumerate(parts):
            if shown == fault.after:
                if fault.cut:
                    raise CutError
                if fault.malformed:
                    yield b'data: {"choices": [{"delta": \n\n'
                if fault.error:
                    yield _event(_error("the server had an error", None, "server_error"))
                    return
            self.words_sent += 1
            if name is not None:
                yield _event({**head, "choices": [_delta({name: word})]})
        if fault.cut or fault.malformed or fault.error:  # the stream was shorter than that
            raise CutError
        if said.tool is not None and why != "length":
            yield _event({**head, "choices": [_delta({"tool_calls": [{"index": 0, **_call(said.tool)}]})]})
        if said.refusal is not None:
            yield _event({**head, "choices": [_delta({"refusal": said.refusal})]})
        yield _event({**head, "choices": [{**_delta({}), "finish_reason": why}]})
        if self.usage_in_stream(body) and not fault.no_usage:
            yield _event({**head, "choices": [], "usage": self._counted(body, len(thinking), len(answer))})
        yield b"data: [DONE]\n\n"

    async def _json(self, send: Any, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        await self._raw(send, status, json.dumps(body).encode(), headers)

    async def _raw(self, send: Any, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.statuses.append(status)
        every = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        told = [(name.encode(), value.encode()) for name, value in every.items()]
        await send({"type": "http.response.start", "status": status, "headers": told})
        await send({"type": "http.response.body", "body": body, "more_body": False})


_OPENAI_FIELDS = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature"),
        *("top_p", "n", "stop", "seed", "user", "tools", "tool_choice", "response_format", "reasoning_effort"),
        *("logprobs", "top_logprobs", "presence_penalty", "frequency_penalty", "logit_bias", "parallel_tool_calls"),
        *("metadata", "store", "service_tier", "verbosity", "safety_identifier", "prompt_cache_key", "modalities"),
    }
)


class OpenAI(Vendor):
    """A reasoning model behind OpenAI's chat completions: its thinking is hidden, an assistant's message at the end is
    history (a fresh turn answers it), sampling cannot be changed, and only `max_completion_tokens` is taken."""

    known = _OPENAI_FIELDS
    efforts = ("none", "minimal", "low", "medium", "high", "xhigh")

    def check(self, body: Body) -> None:
        if "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens' is not supported with this model. "
            message += "Use 'max_completion_tokens' instead."
            raise RefusedError(400, message, "max_tokens", "unsupported_parameter")
        for name in ("temperature", "top_p", "n", "presence_penalty", "frequency_penalty"):
            usual = 0 if name.endswith("penalty") else 1
            if body.get(name, usual) not in (usual, None):
                message = f"Unsupported value: '{name}' does not support {body[name]} with this model. "
                message += f"Only the default ({usual}) value is supported."
                raise RefusedError(400, message, name, "unsupported_value")
        for name in ("logprobs", "top_logprobs", "logit_bias"):
            if body.get(name):
                raise RefusedError(
                    400,
                    f"Unsupported parameter: '{name}' is not supported with this model.",
                    name,
                    "unsupported_parameter",
                )
        if body.get("reasoning_effort", "medium") not in self.efforts:
            message = f"Unsupported value: 'reasoning_effort' does not support '{body['reasoning_effort']}'."
            raise RefusedError(400, message, "reasoning_effort", "unsupported_value")
        for message in body["messages"]:
            for name in message:
                if name not in ("role", "content", "name", "tool_calls", "tool_call_id", "refusal"):
                    raise RefusedError(400, f"Unknown parameter: 'messages[0].{name}'.", f"messages[0].{name}")

    def usage(self, prompt: list[str], thinking: int, answer: int) -> dict[str, Any]:
        return {
            "prompt_tokens": len(prompt),
            "completion_tokens": thinking + answer,
            "total_tokens": len(prompt) + thinking + answer,
            "prompt_tokens_details": {"cached_tokens": self.cached(prompt), "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": thinking, "audio_tokens": 0},
        }


class Anthropic(Vendor):
    """The endpoint that speaks OpenAI's protocol in front of Claude: thinking is never shown nor counted apart, many
    fields are ignored, and a conversation has to end with the user."""

    known = frozenset({*_OPENAI_FIELDS, "thinking", "audio", "prediction", "functions", "extra_headers"})

    def check(self, body: Body) -> None:
        if body.get("n", 1) != 1:
            raise RefusedError(400, "n: must be 1", "n")
        if not 0 <= body.get("temperature", 1) <= 2:
            raise RefusedError(400, "temperature: must be between 0 and 2", "temperature")
        if body["messages"][-1]["role"] == "assistant":
            message = "This model does not support assistant message prefill. "
            message += "The conversation must end with a user message."
            raise RefusedError(400, message)
        for message in body["messages"]:
            for name in message:
                if name not in ("role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio"):
                    raise RefusedError(400, f"messages.0.{name}: Extra inputs are not permitted")

    def usage(self, prompt: list[str], thinking: int, answer: int) -> dict[str, Any]:
        return {
            "prompt_tokens": len(prompt),
            "completion_tokens": thinking + answer,
            "total_tokens": len(prompt) + thinking + answer,
        }


class DeepSeek(Vendor):
    """The reasoner behind DeepSeek's beta path: thinking is shown in `reasoning_content`, which may come back only in
    a last assistant's message with `prefix`. Then that thought is taken as it is, and the answer goes on behind
    `content`. Sampling parameters are taken and have no effect; log-probabilities are refused."""

    path = "/beta/chat/completions"
    known = frozenset(
        {
            *("model", "messages", "stream", "stream_options", "max_tokens", "temperature", "top_p", "stop", "user"),
            *("presence_penalty", "frequency_penalty", "response_format", "tools", "tool_choice", "logprobs"),
            *("top_logprobs", "thinking", "reasoning_effort"),
        }
    )
    shows_thinking = "reasoning_content"
    goes_on_thinking = False
    """Whether a partial thought without any content is thought on."""

    def check(self, body: Body) -> None:
        for name in ("logprobs", "top_logprobs"):
            if body.get(name):
                raise RefusedError(400, f"deepseek-reasoner does not support the parameter `{name}`", name)
        *earlier, last = body["messages"]
        prefix = last.get("prefix")
        if prefix and last["role"] != "assistant":
            raise RefusedError(400, "Invalid prefix: the role of the last message must be assistant")
        if last["role"] == "assistant" and not prefix:
            raise RefusedError(
                400,
                "The last message of deepseek-reasoner must be a user message, or an assistant "
                "message with prefix mode on",
            )
        for message in [*earlier, *([] if prefix else [last])]:
            if "reasoning_content" in message:
                raise RefusedError(400, "The reasoning_content field is not allowed in the input messages")
            if message.get("prefix"):
                raise RefusedError(400, "The prefix is only allowed in the last message")

    def continued(self, body: Body, said: Said) -> Said:
        last = body["messages"][-1]
        thought = last.get("reasoning_content") or ""
        if self.goes_on_thinking and not last.get("content") and said.thinking.startswith(thought):
            return Said(said.thinking[len(thought) :], said.answer, said.tool)
        return Said("", said.answer, said.tool)

    def usage_in_stream(self, body: Body) -> bool:
        return True

    def usage(self, prompt: list[str], thinking: int, answer: int) -> dict[str, Any]:
        hit = self.cached(prompt)
        return {
            "prompt_tokens": len(prompt),
            "completion_tokens": thinking + answer,
            "total_tokens": len(prompt) + thinking + answer,
            "prompt_tokens_details": {"cached_tokens": hit},
            "completion_tokens_details": {"reasoning_tokens": thinking},
            "prompt_cache_hit_tokens": hit,
            "prompt_cache_miss_tokens": len(prompt) - hit,
        }


class OpenEngine(Vendor):
    """An engine's own chat completions, as vLLM and SGLang serve them, of which raw completions are closed off: the
    last message may be continued as it stands, thinking is shown in `reasoning` and not counted apart."""

    known = frozenset(
        {
            *(_OPENAI_FIELDS - {"store", "metadata", "service_tier"}),
            *("continue_final_message", "add_generation_prompt", "chat_template_kwargs", "top_k"),
        }
    )
    shows_thinking = "reasoning"

    def check(self, body: Body) -> None:
        continues, prompts = body.get("continue_final_message", False), body.get("add_generation_prompt", True)
        if continues and prompts:
            raise RefusedError(400, "Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
        if continues and body["messages"][-1]["role"] != "assistant":
            raise RefusedError(400, "continue_final_message is set but the final message is not from the assistant")
        for name in body["messages"][-1]:
            if name == "prefix":
                raise RefusedError(400, "Extra inputs are not permitted", name)

    def continued(self, body: Body, said: Said) -> Said:
        closed = "</think>" in body["messages"][-1]["content"]
        return Said("", said.answer) if body.get("continue_final_message") and closed else said

    def usage(self, prompt: list[str], thinking: int, answer: int) -> dict[str, Any]:
        completion = thinking + answer
        return {
            "prompt_tokens": len(prompt),
            "completion_tokens": completion,
            "total_tokens": len(prompt) + completion,
            "prompt_tokens_details": None,
        }


class CutError(Exception):
    """The connection is to end here, in the middle of a response."""


async def _disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _head(number: int, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{number}", "object": kind, "created": 1700000000, "model": f"{MODEL}-2026"}


def _delta(delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": None}


def _call(tool: tuple[str, str]) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": tool[0], "arguments": tool[1]}}


def _event(data: Any) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _error(message: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


@contextlib.asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """An app on a real socket, whose failures are not logged: vendors drop connections on purpose."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    (socket,) = server.servers[0].sockets
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


def in_turn(*said: Said) -> Callable[[Body, int], Said]:
    """A script: the first attempt at a question says the first, and so on; the last is said again and again. Asked
    whether an answer is right, it says yes where the answer proposed is the last one's."""

    def script(body: Body, number: int) -> Said:
        asked = text_of([message for message in body["messages"] if message["role"] == "user"][-1])
        if "Answer with its name only" in asked:
            thought = re.search(r"think of is (\w+)", text_of(body["messages"][-1]))
            return Said("A stone. Granite will do.", f"{thought[1] if thought else 'granite'}.")
        if "Proposed answer:" in asked:
            proposed = asked.split("Proposed answer:")[1]
            return Said("Let me check.", "Yes." if said[-1].answer.split()[-1].strip(".") in proposed else "No.")
        return said[min(number, len(said) - 1)]

    return script


def every(kinds: Sequence[type[Vendor]] = (OpenAI, Anthropic, DeepSeek)) -> Iterator[type[Vendor]]:
    """All vendors."""
    yield from kinds

"""Upstreams that are played: completions of a script in a tokenizer's ids, in the dialects of several servers."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from drr.engine.upstream.http import UpstreamClient

Dialect = Literal["vllm", "llamacpp", "openai"]


class _Stream(httpx.AsyncByteStream):
    """A response's body that ends when it is closed, as a connection does."""

    def __init__(self, parts: AsyncGenerator[bytes, None]) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._parts:
            yield part

    async def aclose(self) -> None:
        await self._parts.aclose()


@dataclass
class PlayedUpstream:
    """Answers `POST /v1/completions` with what `script` says comes behind a prompt's text. `asked` are the bodies,
    `open` the streams that have begun and not ended. `pause` is awaited before each token."""

    tokenizer: Any
    script: Callable[[str], str]
    dialect: Dialect = "vllm"
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "played", "max_model_len": 512}])
    asked: list[dict[str, Any]] = field(default_factory=list)
    open: int = 0
    pause: float = 0.0
    away: bool = False
    ends: bool = True

    def client(self, **options: Any) -> UpstreamClient:
        return UpstreamClient("http://upstream", transport=httpx.MockTransport(self.handle), **options)

    async def handle(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("connection refused")
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": self.models})
        if request.url.path != "/v1/completions":
            return httpx.Response(404, json={"error": {"message": "no such path"}})
        body = json.loads(request.content)
        self.asked.append(body)
        refusal = self._refusal(body)
        if refusal is not None:
            return httpx.Response(400, json={"error": {"message": refusal, "param": refusal.split()[0]}})
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=_Stream(self._stream(body)))

    def _refusal(self, body: dict[str, Any]) -> str | None:
        own = ("return_token_ids", "return_tokens_as_token_ids", "structured_outputs", "top_k")
        if self.dialect == "openai":
            if not isinstance(body["prompt"], str):
                return "prompt must be a string"
            return next((f"{name} is unknown" for name in own if name in body), None)
        return None

    async def _stream(self, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        self.open += 1
        try:
            async for event in self._events(body):
                yield f"data: {json.dumps(event)}\n\n".encode()
            if self.ends:
                yield b"data: [DONE]\n\n"
        finally:
            self.open -= 1

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        prompt = body["prompt"]
        text = prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)
        prompt_ids = self.tokenizer.encode(prompt, add_special_tokens=False) if isinstance(prompt, str) else prompt
        grammar = (body.get("structured_outputs") or {}).get("choice")
        said = grammar[0] if grammar and self.dialect == "vllm" else self.script(text)
        ids = [*self.tokenizer.encode(said, add_special_tokens=False), self.tokenizer.eos_token_id]
        played = ids[: body["max_tokens"]]
        for place, token in enumerate(played):
            await asyncio.sleep(self.pause)
            last = place == len(played) - 1
            reason = ("stop" if token == ids[-1] else "length") if last and self.ends else None
            choice: dict[str, Any] = {"index": 0, "text": self._text(token), "finish_reason": reason}
            if body.get("logprobs") is not None:
                choice["logprobs"] = self._logprobs(token, body)
            if self.dialect == "vllm" and body.get("return_token_ids"):
                choice |= {"token_ids": [token], **({} if place else {"prompt_token_ids": prompt_ids})}
            yield {"choices": [choice]}
        if (body.get("stream_options") or {}).get("include_usage") and self.ends:
            usage = {"prompt_tokens": len(prompt_ids), "completion_tokens": len(played)}
            yield {"choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": len(prompt_ids) // 2}}}

    def _text(self, token: int) -> str:
        return "" if token == self.tokenizer.eos_token_id else str(self.tokenizer.decode([token]))

    def _logprobs(self, token: int, body: dict[str, Any]) -> dict[str, Any]:
        other = token + 1
        if self.dialect == "llamacpp":
            likely = [{"id": one, "token": "", "logprob": -0.5 - (one != token)} for one in (token, other)]
            return {"content": [{"id": token, "logprob": -0.5, "top_logprobs": likely[: body["logprobs"]]}]}
        as_ids = body.get("return_tokens_as_token_ids")
        name, beside = (f"token_id:{one}" if as_ids else self._text(one) for one in (token, other))
        tops = {name: -0.5, **({beside: -1.5} if body["logprobs"] > 1 else {})}
        return {"tokens": [name], "token_logprobs": [-0.5], "top_logprobs": [tops]}

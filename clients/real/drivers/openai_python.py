"""openai-python: plain, streamed, with its helpers, and asynchronous."""

import asyncio
from collections.abc import Mapping
from typing import Any

import openai
from pydantic import BaseModel, Field

from clients.real.drivers.common import (
    LISTING,
    NO_USAGE_ASKED,
    OUTCOME_HEADER,
    SENTENCE,
    Call,
    Job,
    Seen,
    Variant,
    drive,
    says,
)


class Answer(BaseModel):
    answer: str = Field(pattern=SENTENCE)


def _dumped(value: BaseModel) -> dict[str, Any]:
    return value.model_dump(exclude_unset=True)


def _note(seen: Seen, chunk: Any) -> None:
    seen.add(_dumped(chunk), "chunk")
    if chunk.usage:
        seen.count(_dumped(chunk.usage))


class OpenAiPython:
    """Every call of the SDK that answers a chat."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def _client(self, variant: Variant) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=self._job.url, api_key="none", default_headers=variant.headers or None, max_retries=0
        )

    def _async_client(self, variant: Variant) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self._job.url, api_key="none", default_headers=variant.headers or None, max_retries=0
        )

    def _fields(self, variant: Variant) -> dict[str, Any]:
        return {
            "model": variant.model,
            "messages": self._job.messages,
            "temperature": 0,
            "max_tokens": self._job.max_tokens,
            "extra_body": variant.extra_body,
        }

    def create(self, variant: Variant) -> Seen:
        with self._client(variant) as client:
            raw = client.chat.completions.with_raw_response.create(**self._fields(variant))
            return self._whole(raw.parse(), raw.headers.get(OUTCOME_HEADER))

    @staticmethod
    def _whole(response: Any, header: str | None = None) -> Seen:
        seen = Seen(content=response.choices[0].message.content, header=header)
        seen.add(_dumped(response))
        seen.count(_dumped(response.usage) if response.usage else None)
        return seen

    def stream(self, variant: Variant) -> Seen:
        """As most programs read a stream: the first choice of every chunk."""
        seen = Seen(facts=NO_USAGE_ASKED.copy())
        with self._client(variant) as client:
            stream = client.chat.completions.create(**self._fields(variant), stream=True)
            seen.header = stream.response.headers.get(OUTCOME_HEADER)
            for chunk in stream:
                seen.add_text(chunk.choices[0].delta.content)
                _note(seen, chunk)
        return seen

    def stream_with_usage(self, variant: Variant) -> Seen:
        seen = Seen()
        with self._client(variant) as client:
            asked: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
            for chunk in client.chat.completions.create(**self._fields(variant), **asked):
                for choice in chunk.choices:
                    seen.add_text(choice.delta.content)
                _note(seen, chunk)
        return seen

    def _helped(self, variant: Variant, **more: Any) -> tuple[Any, list[Any]]:
        """The final object of the `.stream()` helper, and the chunks that it was made of."""
        asked = {**self._fields(variant), "stream_options": {"include_usage": True}, **more}
        with self._client(variant) as client, client.chat.completions.stream(**asked) as stream:
            chunks = [_dumped(event.chunk) for event in stream if event.type == "chunk"]
            return stream.get_final_completion(), chunks

    def stream_helper(self, variant: Variant) -> Seen:
        response, chunks = self._helped(variant)
        seen = self._whole(response)
        seen.add_chunks(chunks)
        return seen

    def parse(self, variant: Variant) -> Seen:
        with self._client(variant) as client:
            response = client.chat.completions.parse(**self._fields(variant), response_format=Answer)
            return self._parsed(response)

    def _parsed(self, response: Any) -> Seen:
        seen = self._whole(response)
        parsed = response.choices[0].message.parsed
        seen.facts["parsed"] = None if parsed is None else parsed.model_dump()
        seen.right = parsed is not None and says(parsed.answer, self._job.questions[0][1])
        return seen

    def stream_helper_parse(self, variant: Variant) -> Seen:
        response, chunks = self._helped(variant, response_format=Answer)
        seen = self._parsed(response)
        seen.add_chunks(chunks)
        return seen

    def async_create(self, variant: Variant) -> Seen:
        async def ask() -> Seen:
            async with self._async_client(variant) as client:
                return self._whole(await client.chat.completions.create(**self._fields(variant)))

        return asyncio.run(ask())

    def async_stream(self, variant: Variant) -> Seen:
        async def ask() -> Seen:
            seen = Seen(facts=NO_USAGE_ASKED.copy())
            async with self._async_client(variant) as client:
                async for chunk in await client.chat.completions.create(**self._fields(variant), stream=True):
                    seen.add_text(chunk.choices[0].delta.content)
                    _note(seen, chunk)
            return seen

        return asyncio.run(ask())

    def models(self, variant: Variant) -> Seen:
        with self._client(variant) as client:
            return Seen(facts={"models": [model.id for model in client.models.list()]})

    def calls(self) -> Mapping[str, Call]:
        return {
            "create": self.create,
            "create, stream": self.stream,
            "create, stream, usage": self.stream_with_usage,
            ".stream()": self.stream_helper,
            ".parse()": self.parse,
            ".stream(), parsed": self.stream_helper_parse,
            "async create": self.async_create,
            "async create, stream": self.async_stream,
            LISTING: self.models,
        }


if __name__ == "__main__":
    drive("openai-python", openai.__version__, lambda job: OpenAiPython(job).calls())

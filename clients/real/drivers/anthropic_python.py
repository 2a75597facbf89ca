"""Anthropic's SDK, at the messages endpoint."""

from collections.abc import Mapping
from typing import Any

import anthropic

from clients.real.drivers.common import LISTING, OUTCOME_HEADER, Call, Job, Seen, Variant, drive


class AnthropicPython:
    def __init__(self, job: Job) -> None:
        self._job = job

    def _client(self, variant: Variant) -> anthropic.Anthropic:
        return anthropic.Anthropic(
            base_url=self._job.root, api_key="none", default_headers=variant.headers or None, max_retries=0
        )

    def _fields(self, variant: Variant) -> dict[str, Any]:
        return {
            "model": variant.model,
            "messages": self._job.messages,
            "max_tokens": self._job.max_tokens,
            "extra_body": {"temperature": 0, **variant.extra_body},  # the SDK has no argument for a temperature
        }

    @staticmethod
    def _whole(message: Any) -> Seen:
        seen = Seen(content="".join(block.text for block in message.content if block.type == "text"))
        seen.add(message.model_dump())
        # The messages format counts thinking among the output tokens and does not tell it apart.
        seen.usage = {"completion": message.usage.output_tokens, "reasoning": None}
        return seen

    def create(self, variant: Variant) -> Seen:
        with self._client(variant) as client:
            raw = client.messages.with_raw_response.create(**self._fields(variant))
            seen = self._whole(raw.parse())
            seen.header = raw.headers.get(OUTCOME_HEADER)
            return seen

    def stream(self, variant: Variant) -> Seen:
        seen = Seen()
        with self._client(variant) as client:
            for event in client.messages.create(**self._fields(variant), stream=True):
                seen.add(event.model_dump(), event.type)
                if event.type == "content_block_delta" and event.delta.type == "text_delta":
                    seen.add_text(event.delta.text)
                if event.type == "message_delta":
                    seen.usage = {"completion": event.usage.output_tokens, "reasoning": None}
        return seen

    def stream_helper(self, variant: Variant) -> Seen:
        with self._client(variant) as client, client.messages.stream(**self._fields(variant)) as stream:
            return self._whole(stream.get_final_message())

    def count_tokens(self, variant: Variant) -> Seen:
        with self._client(variant) as client:
            counted = client.messages.count_tokens(
                model=variant.model, messages=self._job.messages, extra_body=variant.extra_body
            )
            return Seen(facts={"input_tokens": counted.input_tokens})

    def models(self, variant: Variant) -> Seen:
        with self._client(variant) as client:
            return Seen(facts={"models": [model.id for model in client.models.list()]})

    def calls(self) -> Mapping[str, Call]:
        return {
            "messages.create": self.create,
            "messages.create, stream": self.stream,
            "messages.stream()": self.stream_helper,
            "count_tokens": self.count_tokens,
            LISTING: self.models,
        }


if __name__ == "__main__":
    drive("anthropic", anthropic.__version__, lambda job: AnthropicPython(job).calls())

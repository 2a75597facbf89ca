"""LiteLLM, told that the server is OpenAI's."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import litellm

from clients.real.drivers.common import NO_USAGE_ASKED, OUTCOME_HEADER, Call, Job, Seen, Variant, drive


class LiteLlm:
    def __init__(self, job: Job) -> None:
        litellm.suppress_debug_info = True
        self._job = job

    def _ask(self, variant: Variant, **more: Any) -> Any:
        return litellm.completion(
            model=f"openai/{variant.model}",
            api_base=self._job.url,
            api_key="none",
            messages=self._job.messages,
            temperature=0,
            max_tokens=self._job.max_tokens,
            extra_body=variant.extra_body,
            extra_headers=variant.headers or None,
            max_retries=0,
            **more,
        )

    def completion(self, variant: Variant) -> Seen:
        response = self._ask(variant)
        seen = self._whole(response)
        seen.header = self._header(response)
        return seen

    @staticmethod
    def _whole(response: Any) -> Seen:
        dumped = response.model_dump()
        seen = Seen(content=response.choices[0].message.content)
        seen.add(dumped)
        seen.count(dumped.get("usage"))
        return seen

    @staticmethod
    def _header(response: Any) -> str | None:
        headers = response._hidden_params.get("additional_headers") or {}
        return headers.get(f"llm_provider-{OUTCOME_HEADER}")

    def stream(self, variant: Variant) -> Seen:
        """As most programs read a stream: the first choice of every chunk."""
        seen = Seen(facts=NO_USAGE_ASKED.copy())
        response = self._ask(variant, stream=True)
        seen.header = self._header(response)
        for chunk in response:
            seen.add_text(chunk.choices[0].delta.content)
            seen.add(chunk.model_dump(), "chunk")
        return seen

    def rebuilt(self, variant: Variant) -> Seen:
        """What LiteLLM makes of the chunks afterwards."""
        chunks = list(self._ask(variant, stream=True, stream_options={"include_usage": True}))
        seen = self._whole(litellm.stream_chunk_builder(chunks, messages=self._job.messages))
        seen.add_chunks(chunk.model_dump() for chunk in chunks)
        return seen

    def calls(self) -> Mapping[str, Call]:
        return {
            "completion": self.completion,
            "completion, stream": self.stream,
            "stream_chunk_builder": self.rebuilt,
        }


if __name__ == "__main__":
    drive("litellm", version("litellm"), lambda job: LiteLlm(job).calls())

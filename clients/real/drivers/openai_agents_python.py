"""OpenAI's Agents SDK, over chat completions and over Responses."""

import asyncio
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

from clients.real.drivers.common import Call, Job, Seen, Variant, drive


class OpenAiAgents:
    """One agent without tools, asked once."""

    def __init__(self, job: Job) -> None:
        set_tracing_disabled(True)  # traces would go to OpenAI
        self._job = job

    def _agent(self, variant: Variant, client: AsyncOpenAI, model: Any) -> Any:
        settings = ModelSettings(
            temperature=0,
            max_tokens=self._job.max_tokens,
            extra_body=variant.extra_body or None,
            extra_headers=variant.headers or None,
            include_usage=True,
        )
        return Agent(name="one", model=model(variant.model, openai_client=client), model_settings=settings)

    def _client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=self._job.url, api_key="none", max_retries=0)

    @staticmethod
    def _whole(result: Any) -> Seen:
        seen = Seen(content=str(result.final_output))
        for response in result.raw_responses:
            for item in response.output:
                dumped = item.model_dump(exclude_unset=True)
                seen.add(dumped, dumped["type"])
                if dumped["type"] == "reasoning":
                    _note_reasoning(seen, dumped)
        usage = result.context_wrapper.usage
        seen.usage = {
            "completion": usage.output_tokens or None,
            "reasoning": usage.output_tokens_details.reasoning_tokens or None,
        }
        return seen

    def _run(self, variant: Variant, model: Any) -> Seen:
        async def ask() -> Seen:
            async with self._client() as client:
                return self._whole(await Runner.run(self._agent(variant, client, model), self._job.question))

        return asyncio.run(ask())

    def chat(self, variant: Variant) -> Seen:
        return self._run(variant, OpenAIChatCompletionsModel)

    def responses(self, variant: Variant) -> Seen:
        return self._run(variant, OpenAIResponsesModel)

    def streamed(self, variant: Variant) -> Seen:
        async def ask() -> Seen:
            async with self._client() as client:
                agent = self._agent(variant, client, OpenAIChatCompletionsModel)
                result = Runner.run_streamed(agent, self._job.question)
                async for _ in result.stream_events():
                    pass
                return self._whole(result)

        return asyncio.run(ask())

    def calls(self) -> Mapping[str, Call]:
        return {
            "Runner.run, chat": self.chat,
            "Runner.run_streamed, chat": self.streamed,
            "Runner.run, responses": self.responses,
        }


def _note_reasoning(seen: Seen, item: dict[str, Any]) -> None:
    """The text of a reasoning item, wherever the SDK keeps it."""
    for place in ("content", "summary"):
        text = "".join(part["text"] for part in item.get(place) or [])
        if text:
            seen.thinking[f"reasoning.{place}"] = text


if __name__ == "__main__":
    drive("openai-agents", version("openai-agents"), lambda job: OpenAiAgents(job).calls())

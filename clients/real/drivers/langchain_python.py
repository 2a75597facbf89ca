"""LangChain's ChatOpenAI."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import OpenAIRefusalError
from pydantic import BaseModel, Field

from clients.real.drivers.common import OUTCOME_HEADER, SENTENCE, Call, Job, Seen, Variant, drive, says


class Answer(BaseModel):
    answer: str = Field(pattern=SENTENCE)


class LangChain:
    def __init__(self, job: Job) -> None:
        self._job = job

    def _model(self, variant: Variant, **more: Any) -> Any:
        return ChatOpenAI(
            model=variant.model,
            base_url=self._job.url,
            api_key="none",
            temperature=0,
            max_tokens=self._job.max_tokens,
            extra_body=variant.extra_body or None,
            default_headers=variant.headers or None,
            include_response_headers=True,
            max_retries=0,
            **more,
        )

    @staticmethod
    def _whole(message: Any) -> Seen:
        dumped = message.model_dump()
        seen = Seen(content=message.text)
        headers = message.response_metadata.get("headers") or {}
        seen.header = headers.get(OUTCOME_HEADER)
        seen.add(dumped)
        if message.usage_metadata:
            details = message.usage_metadata.get("output_token_details") or {}
            seen.usage = {
                "completion": message.usage_metadata["output_tokens"],
                "reasoning": details.get("reasoning"),
            }
        return seen

    def invoke(self, variant: Variant) -> Seen:
        return self._whole(self._model(variant).invoke(self._job.question))

    def stream(self, variant: Variant) -> Seen:
        whole = None
        for chunk in self._model(variant, stream_usage=True).stream(self._job.question):
            whole = chunk if whole is None else whole + chunk
        return self._whole(whole)

    def structured(self, variant: Variant) -> Seen:
        model = self._model(variant).with_structured_output(Answer, include_raw=True)
        result = model.invoke(self._job.question)
        seen = self._whole(result["raw"])
        if isinstance(result["parsing_error"], OpenAIRefusalError):
            seen.refusal["OpenAIRefusalError"] = str(result["parsing_error"])
            return seen
        if result["parsing_error"] is not None:
            raise result["parsing_error"]
        seen.facts["parsed"] = result["parsed"].model_dump()
        seen.right = says(result["parsed"].answer, self._job.questions[0][1])
        return seen

    def calls(self) -> Mapping[str, Call]:
        return {
            "invoke": self.invoke,
            "stream": self.stream,
            "with_structured_output": self.structured,
        }


if __name__ == "__main__":
    drive("langchain-openai", version("langchain-openai"), lambda job: LangChain(job).calls())

"""`llm`, which learns of a server from extra-openai-models.yaml in its own folder."""

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from clients.real.drivers.common import Call, CannotSendError, Job, Seen, Variant, drive


def _write_models(job: Job) -> None:
    """One model per variant; JSON is YAML."""
    models = [
        {
            "model_id": f"variant-{index}",
            "model_name": variant.model,
            "api_base": job.url,
            **({"headers": variant.headers} if variant.headers else {}),
        }
        for index, variant in enumerate(job.variants)
    ]
    folder = Path(job.work)
    (folder / "extra-openai-models.yaml").write_text(json.dumps(models))
    os.environ["LLM_USER_PATH"] = str(folder)


class Llm:
    def __init__(self, job: Job) -> None:
        self._job = job
        _write_models(job)

    def _ask(self, variant: Variant, *, stream: bool) -> Seen:
        import llm  # it reads its folder when it is imported

        if variant.drr is not None:
            raise CannotSendError("llm has no option for extra fields")
        model = llm.get_model(f"variant-{self._job.variants.index(variant)}")
        response = model.prompt(
            self._job.question, stream=stream, temperature=0, max_tokens=self._job.max_tokens, key="none"
        )
        seen = Seen(content=response.text())
        seen.add(response.response_json, "response_json")
        usage = response.usage()
        details = (usage.details or {}).get("completion_tokens_details") or {}
        seen.usage = {"completion": usage.output, "reasoning": details.get("reasoning_tokens")}
        return seen

    def prompt(self, variant: Variant) -> Seen:
        return self._ask(variant, stream=False)

    def stream(self, variant: Variant) -> Seen:
        return self._ask(variant, stream=True)

    def calls(self) -> Mapping[str, Call]:
        return {"prompt, no stream": self.prompt, "prompt": self.stream}


if __name__ == "__main__":
    drive("llm", version("llm"), lambda job: Llm(job).calls())

"""lm-eval-harness, local-chat-completions, on a task of a few questions with the stop text that it sends by default."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from clients.real.drivers.common import Call, Job, Seen, Variant, drive, says

TASK = "a_few_questions"


def _write_task(job: Job) -> Path:
    """The task's folder: questions, and how they are asked. JSON is YAML."""
    folder = Path(job.work) / "task"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"question": question, "answer": answer}) for question, answer in job.questions]
    (folder / "questions.jsonl").write_text("\n".join(rows) + "\n")
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "questions.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "exact_match"}],
        "filter_list": [
            {
                "name": "last number",
                "filter": [
                    {"function": "regex", "regex_pattern": "(-?[0-9]+)", "group_select": -1},
                    {"function": "take_first"},
                ],
            }
        ],
    }
    (folder / f"{TASK}.yaml").write_text(json.dumps(task))
    return folder


class LmEval:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._tasks = TaskManager(include_path=str(_write_task(job)), include_defaults=False)

    def evaluate(self, variant: Variant) -> Seen:
        model: dict[str, Any] = {
            "model": variant.model,
            "base_url": f"{self._job.url}/chat/completions",
            "num_concurrent": 1,
            "max_retries": 1,
            **({"header": variant.headers} if variant.headers else {}),
        }
        more = {"gen_kwargs": {"until": ["\n\n"], **variant.extra_body}} if variant.extra_body else {}
        results = simple_evaluate(
            model="local-chat-completions",
            model_args=model,
            tasks=[TASK],
            task_manager=self._tasks,
            apply_chat_template=True,
            log_samples=True,
            bootstrap_iters=0,
            **more,
        )
        answers = [sample["resps"][0][0] for sample in results["samples"][TASK]]
        found = results["results"][TASK]["exact_match,last number"]
        wanted = [answer for _, answer in self._job.questions]
        return Seen(
            content=answers[0],
            right=all(says(text, answer) for text, answer in zip(answers, wanted, strict=True)),
            facts={"answers": answers, "exact_match": found},
        )

    def calls(self) -> Mapping[str, Call]:
        return {"simple_evaluate": self.evaluate}


if __name__ == "__main__":
    drive("lm-eval", version("lm-eval"), lambda job: LmEval(job).calls())

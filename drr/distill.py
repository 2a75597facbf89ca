"""Distillation: the Reasoner's own behaviour, graded.

Every question is thought through several times by the serving loop itself (judging nothing), then at every step
boundary an answer is forced, sampled as a served one would be, and graded: that is the label `now`. The rollout's
own answer, graded, is the label `later`. No human labels a step.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams

from drr.grading import is_correct
from drr.policy import PolicySettings, Score
from drr.progress import Progress
from drr.reasoner import ThinkingFormat, Token
from drr.response import Emit, Finished, LoopSettings
from drr.scorers import Boundary
from drr.steps import StepRule
from drr.tasks import Question
from drr.thinking import ThinkingLoop
from drr.vllm_reasoner import VllmReasoner

_FORCED_ANSWER_TOKENS = 32


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """How behaviour is sampled. `concurrency` bounds the rollouts under way at once."""

    rollouts: int = 8
    temperature: float = 0.8
    max_tokens: int = 1024
    seed: int = 0
    step_rule: StepRule = field(default_factory=StepRule)
    concurrency: int = 96


@dataclass(slots=True)
class Rollout:
    """One graded attempt. `steps`, `step_tokens`, `features` and `now` have one entry per boundary."""

    question: str
    gold: str
    family: str
    difficulty: int
    split: str
    sample: int
    later: bool
    thinking_tokens: int
    total_tokens: int
    answer: str
    steps: list[str]
    step_tokens: list[int]
    features: list[list[float]]
    now: list[bool]


class _Recorder:
    """A scorer that judges nothing and keeps what it is shown."""

    id = "recorder"

    def __init__(self) -> None:
        self.boundaries: list[Boundary] = []

    def session(self, question: str) -> "_Recorder":
        return self

    async def score(self, boundary: Boundary) -> Score:
        self.boundaries.append(boundary)
        return Score(0.0, 0.0)


class Distiller:
    """Rolls questions out on an AsyncLLM engine and grades every boundary."""

    def __init__(self, engine: Any, form: ThinkingFormat, config: DistillConfig) -> None:
        self._engine, self._form, self._config = engine, form, config
        self._tokenizer = engine.renderer.tokenizer
        self._slots = asyncio.Semaphore(config.concurrency)
        self._forced: dict[tuple[tuple[int, ...], int], asyncio.Task[str]] = {}

    async def rollouts(self, questions: Sequence[Question]) -> AsyncIterator[list[Rollout]]:
        """The rollouts of each question, question by question as they are complete."""
        tasks = [asyncio.create_task(self._question(question)) for question in questions]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()

    async def _question(self, question: Question) -> list[Rollout]:
        prompt = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": question.text}], add_generation_prompt=True, tokenize=False
        )
        ids = self._tokenizer.encode(prompt, add_special_tokens=False)
        samples = range(self._config.rollouts)
        result = await asyncio.gather(*(self._rollout(question, ids, sample) for sample in samples))
        return list(result)

    async def _rollout(self, question: Question, prompt_ids: list[int], sample: int) -> Rollout:
        async with self._slots:
            params = SamplingParams(
                temperature=self._config.temperature,
                seed=self._seed(sample) if self._config.temperature else None,
                max_tokens=self._config.max_tokens,
            )
            reasoner = VllmReasoner(
                self._engine.generate, self._tokenizer, tokens_input(prompt_ids), params, f"rollout-{id(question)}", {}
            )
            recorder = _Recorder()
            settings = LoopSettings(
                policy=PolicySettings(acts=False), max_tokens=self._config.max_tokens, answer_tokens=64, deadline=60.0
            )
            loop = ThinkingLoop(
                reasoner, recorder, self._form, self._config.step_rule, settings, prompt_ids, question.text
            )
            tokens: list[Token] = []
            finished: Finished | None = None
            text = ""
            async for event in loop.run():
                if isinstance(event, Emit):
                    tokens.extend(event.tokens)
                    text += event.text
                elif isinstance(event, Finished):
                    finished = event
            assert finished is not None
            return await self._graded(question, sample, prompt_ids, tokens, text, finished, recorder.boundaries)

    async def _graded(
        self,
        question: Question,
        sample: int,
        prompt_ids: list[int],
        tokens: list[Token],
        text: str,
        finished: Finished,
        boundaries: list[Boundary],
    ) -> Rollout:
        outcome = finished.outcome
        ends, end = [], 0
        for step in outcome.steps:
            end += step.tokens
            ends.append(end)
        contexts = [(*prompt_ids, *(token.id for token in tokens[:end])) for end in ends]
        forced = await asyncio.gather(*(self.forced_answer(context, sample) for context in contexts))
        answer = text.split(self._form.close_text)[-1].strip()
        return Rollout(
            question=question.text,
            gold=question.answer,
            family=question.family,
            difficulty=question.difficulty,
            split=question.split.value,
            sample=sample,
            later=is_correct(answer, question.answer),
            thinking_tokens=outcome.thinking_tokens,
            total_tokens=outcome.generated_tokens,
            answer=answer,
            steps=[boundary.text for boundary in boundaries],
            step_tokens=[step.tokens for step in outcome.steps],
            features=[boundary.features or [] for boundary in boundaries],
            now=[is_correct(answer, question.answer) for answer in forced],
        )

    async def forced_answer(self, context: tuple[int, ...], sample: int) -> str:
        """The answer after this context, closed here, drawn for this sample; the same draw is made once."""
        key = (context, sample if self._config.temperature else 0)
        task = self._forced.get(key)
        if task is None:
            task = asyncio.create_task(self._answer(*key))
            self._forced[key] = task
        return await asyncio.shield(task)

    async def _answer(self, context: tuple[int, ...], sample: int) -> str:
        params = SamplingParams(
            temperature=self._config.temperature,
            seed=self._seed(sample) + len(context) if self._config.temperature else None,
            max_tokens=_FORCED_ANSWER_TOKENS,
        )
        params.output_kind = RequestOutputKind.FINAL_ONLY
        text = ""
        ids = [*context, *self._form.close_ids]
        async for output in self._engine.generate(tokens_input(ids), params, f"forced-{len(self._forced)}"):
            text = output.outputs[0].text
        return text.strip()

    def _seed(self, sample: int) -> int:
        return self._config.seed * 1_000_003 + sample


def write_shard(path: Path, rollouts: Sequence[Rollout], metadata: Mapping[str, str]) -> None:
    """Write rollouts as one Parquet file, whole or not at all."""
    columns = {name: [getattr(rollout, name) for rollout in rollouts] for name in Rollout.__slots__}
    table = pa.table(columns).replace_schema_metadata(dict(metadata))
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


def read_rollouts(folder: Path) -> list[Rollout]:
    """All rollouts in a folder of shards, in the order of the shards' names."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.parquet")):
        rows.extend(pq.read_table(path).to_pylist())
    return [Rollout(**row) for row in rows]


def _missing_shards(out: Path, starts: Sequence[int]) -> list[int]:
    out.mkdir(parents=True, exist_ok=True)
    return [start for start in starts if not _shard(out, start).exists()]


def _shard(out: Path, start: int) -> Path:
    return out / f"{start:06d}.parquet"


async def distill(
    engine: Any,
    form: ThinkingFormat,
    questions: Sequence[Question],
    out: Path,
    config: DistillConfig,
    *,
    shard_questions: int = 50,
    name: str = "Rollouts",
) -> int:
    """Roll out and grade `questions` into Parquet shards in `out`; shards already there are kept.

    Returns the number of shards written now.
    """
    starts = range(0, len(questions), shard_questions)
    todo = _missing_shards(out, starts)
    written = 0
    done = sum(min(shard_questions, len(questions) - start) for start in starts if start not in todo)
    with Progress(name, len(questions), done) as progress:
        for start in todo:
            distiller = Distiller(engine, form, config)
            rollouts: list[Rollout] = []
            async for group in distiller.rollouts(questions[start : start + shard_questions]):
                rollouts.extend(group)
                progress.advance()
            rollouts.sort(key=lambda rollout: (rollout.question, rollout.sample))
            write_shard(_shard(out, start), rollouts, {"seed": str(config.seed)})
            written += 1
    return written

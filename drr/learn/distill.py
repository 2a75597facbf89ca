"""Distillation: roll out the Reasoner on questions and grade its behaviour.

The serving loop itself thinks every question through several times, without a judge. Then an answer is forced at every
step boundary, sampled as in serving, and graded: the label `now`. The grade of the rollout's own answer is the label
`later`. No human labels a step. Questions with both right and wrong outcomes get more rollouts, because only they teach
what tells a right attempt from a wrong one.
"""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from drr.engine.open_reasoner import OpenReasoner
from drr.engine.sampling import SamplingParams, sampling
from drr.learn.distill_config import DistillConfig
from drr.learn.distill_folder import folder_settings
from drr.learn.from_log import Drawn, End, Logged, LoggedAttempt
from drr.learn.logged_reasoner import LoggedReasoner
from drr.learn.records import Manifest, Rollout, question_key
from drr.learn.rolling import Attempt, Fault, QuestionRoller, named, write_rollouts
from drr.loop.attempt import ThinkingLoop
from drr.loop.policy import PolicySettings, Score
from drr.loop.probing import Probe
from drr.loop.reasoner import Reasoner, user_prompt
from drr.loop.response import Emit, Finished, LoopSettings, Transcript
from drr.loop.scoring import Boundary
from drr.loop.stated import answer_in
from drr.tasks import Question
from drr.tasks.grading_pool import Grading
from drr.tasks.questions import folded
from drr.tasks.rows import Reject

LEAST_ROOM = 64
"""Tokens that must be left in the context after a question."""


class _Recorder:
    """A scorer that records the boundaries and gives every one the score 0."""

    id = "recorder"

    def __init__(self) -> None:
        self.boundaries: list[Boundary] = []

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "_Recorder":
        return self

    async def score(self, boundary: Boundary) -> Score:
        self.boundaries.append(boundary)
        return Score(0.0, 0.0)


class Distiller(QuestionRoller):
    """Rolls questions out on a Reasoner and grades every boundary. The first rollouts of a question are its attempts in
    `logged`."""

    def __init__(
        self, reasoner: OpenReasoner, config: DistillConfig, grading: Grading, logged: Logged | None = None
    ) -> None:
        super().__init__(config, grading)
        self._reasoner = reasoner
        self._logged = {} if logged is None else logged.attempts
        self._drawn = Drawn(config.temperature, config.top_p, config.top_k)

    def _prompt(self, question: Question) -> list[int] | Fault:
        logged = self._logged_of(question)
        ids = list(logged[0].prompt_ids) if logged else user_prompt(self._reasoner.tokenizer, question.text)
        if len(ids) + LEAST_ROOM >= self._reasoner.max_model_len:
            reason = f"is {len(ids)} tokens long, the Reasoner's context {self._reasoner.max_model_len}"
            return Fault("question", reason)
        return ids

    def _first_rollouts(self, question: Question) -> int:
        return max(self._config.rollouts, len(self._logged_of(question)))

    def _logged_of(self, question: Question) -> Sequence[LoggedAttempt]:
        return self._logged.get(folded(question.text), ()) if self._logged else ()

    async def _attempt(self, question: Question, prompt_ids: list[int], sample: int) -> Attempt:
        async with self._slots:
            logged = next(iter(self._logged_of(question)[sample : sample + 1]), None)
            prompt_ids = prompt_ids if logged is None else list(logged.prompt_ids)
            drawn = self._drawn if logged is None else logged.drawn
            max_tokens = self._room(prompt_ids, logged)
            params = _sampling(drawn, max_tokens, self._seed(question, f"{sample}"))
            request_id = f"rollout-{question_key(question.text)}-{sample}"
            reasoner: Reasoner = self._reasoner.reasoner(prompt_ids, params, request_id)
            if logged is not None:
                reasoner = LoggedReasoner(reasoner, logged, self._reasoner.form, self._reasoner.tokenizer)
            recorder = _Recorder()
            settings = LoopSettings(
                policy=PolicySettings(acts=False),
                max_tokens=max_tokens,
                answer_tokens=self._config.answer_tokens,
                deadline=60.0,
            )
            loop = ThinkingLoop(
                reasoner, recorder, self._reasoner.form, self._config.step_rule, settings, prompt_ids, question.text
            )
            transcript = Transcript()
            finished: Finished | None = None
            async for event in loop.run():
                if isinstance(event, Emit):
                    transcript.add(event)
                elif isinstance(event, Finished):
                    finished = event
            assert finished is not None
            attempt = self._trace(sample, drawn, prompt_ids, transcript, finished, recorder.boundaries)
            if logged is not None and None in attempt.logprobs:
                await self._find_logprobs(attempt, request_id)
        return attempt

    def _room(self, prompt_ids: Sequence[int], logged: LoggedAttempt | None) -> int:
        """How many tokens an attempt may have. What was served is never cut, whatever may be thought anew."""
        most = min(self._config.max_tokens, self._reasoner.max_model_len - len(prompt_ids) - 1)
        if logged is None:
            return most
        played = len(logged.ids) + self._config.answer_tokens + LEAST_ROOM
        if logged.end is End.ANSWER:
            return played
        return max(most, min(played, self._reasoner.max_model_len - len(prompt_ids) - 1))

    async def _find_logprobs(self, attempt: Attempt, request_id: str) -> None:
        """Ask the Reasoner how likely the tokens of an attempt were that nobody asked it about when it made them."""
        ids = [*attempt.prompt_ids, *attempt.thought_ids]
        found = await self._reasoner.logprobs(ids, f"logprobs-{request_id}")
        if found is not None:
            known = iter(found[len(attempt.prompt_ids) :])
            attempt.logprobs = [list(itertools.islice(known, tokens)) for tokens in attempt.step_tokens]

    def _trace(
        self,
        sample: int,
        drawn: Drawn,
        prompt_ids: list[int],
        transcript: Transcript,
        finished: Finished,
        boundaries: list[Boundary],
    ) -> Attempt:
        outcome, tokens, end = finished.outcome, transcript.tokens, transcript.thinking_from or 0
        before = [*prompt_ids, *(token.id for token in tokens[:end])]
        logprobs: list[list[float] | None] = []
        for step in outcome.steps:
            step_logprobs = [token.logprob for token in tokens[end : end + step.tokens] if not token.injected]
            known = [value for value in step_logprobs if value is not None]
            logprobs.append(known if len(known) == len(step_logprobs) else None)
            end += step.tokens
        return Attempt(
            sample=sample,
            drawn=drawn,
            answer=transcript.answer(self._reasoner.form),
            steps=[boundary.text for boundary in boundaries],
            step_tokens=[step.tokens for step in outcome.steps],
            logprobs=logprobs,
            prompt_ids=before,
            thought_ids=[token.id for token in tokens[transcript.thinking_from or 0 : end]],
            thinking_tokens=outcome.thinking_tokens,
            total_tokens=outcome.generated_tokens,
        )

    async def _graded(self, question: Question, gold: str, attempt: Attempt) -> Rollout:
        async with self._slots:
            sample = attempt.sample
            forced = await asyncio.gather(
                *(self._forced(question, attempt, index, ids) for index, ids in enumerate(attempt.contexts()))
            )
        where = f"{named(question)}, rollout {sample}, boundary"
        now = [await self._grading.right_soon(answer, gold, f"{where} {index}") for index, answer in enumerate(forced)]
        return Rollout(
            question=question.text,
            gold=gold,
            family=question.family,
            difficulty=question.difficulty,
            sample=sample,
            later=await self._is_right(question, attempt, gold),
            thinking_tokens=attempt.thinking_tokens,
            total_tokens=attempt.total_tokens,
            answer=answer_in(attempt.answer),
            steps=attempt.steps,
            step_tokens=attempt.step_tokens,
            logprobs=attempt.logprobs,
            forced=[answer_in(answer) for answer in forced],
            now=list(now),
            prompt_ids=attempt.prompt_ids,
            thought_ids=attempt.thought_ids,
        )

    async def _forced(self, question: Question, attempt: Attempt, index: int, context: list[int]) -> str:
        """The answer after `context` with the thinking closed there, with a seed for this sample and boundary."""
        prompt = [*context, *self._reasoner.form.close_behind(context)[0]]
        room = max(1, min(self._config.answer_tokens, self._reasoner.max_model_len - len(prompt) - 1))
        params = _sampling(attempt.drawn, room, self._seed(question, f"{attempt.sample}/{index}"))
        request_id = f"forced-{question_key(question.text)}-{attempt.sample}-{index}"
        answer = await self._reasoner.complete(prompt, params, request_id)
        return (self._reasoner.form.answer_prefix + answer).strip()

    def _seed(self, question: Question, draw: str) -> int:
        return draw_seed(self._config.seed, question.text, draw)


def _sampling(drawn: Drawn, max_tokens: int, seed: int) -> SamplingParams:
    """vLLM's parameters of one draw; a greedy one needs no seed."""
    own = {**asdict(drawn), "seed": seed if drawn.temperature else None}
    return sampling(**own, max_tokens=max_tokens)


def draw_seed(seed: int, question: str, draw: str) -> int:
    """The seed of one draw. It does not depend on what else is rolled out, or in which order.

    `draw` is the rollout's number, followed by `/` and the boundary's index for a forced answer.
    """
    return int(question_key(f"{seed}/{question}/{draw}"), 16)


async def distill(
    reasoner: OpenReasoner,
    questions: Sequence[Question],
    out: Path,
    config: DistillConfig,
    *,
    rejects: Sequence[Reject] = (),
    name: str = "Rollouts",
    source: str = "questions",
    logged: Logged | None = None,
) -> Manifest:
    """Roll out and grade `questions` into Parquet shards in `out`, batch by batch.

    A run that is killed at any moment can be started again: batches that are already in `out` are kept and not
    repeated. InputError, which names the difference, if `out` was begun with other settings or questions. `source` is
    recorded as the source of questions that are set aside: those that cannot be rolled out, and those with a gold
    answer that nothing can be graded against. An answer whose grading exceeds a limit counts as wrong, and the manifest
    names it. `logged` are attempts at the questions that a server has made already.
    """
    settings = folder_settings(config, questions, reasoner.name, reasoner.fingerprint, logged)
    return await write_rollouts(
        lambda grading: Distiller(reasoner, config, grading, logged),
        questions,
        out,
        config,
        settings,
        rejects=rejects,
        name=name,
        source=source,
    )

"""Distillation through chat completions: attempts at a Reasoner that gives neither token ids nor log-probabilities.

Where a thought can be handed back (tier prefix), an answer is forced at every boundary. Where only whole answers can be
had (tier opaque), only the attempt as a whole is labelled; its answer is its last step, as in serving.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from drr.engine.upstream.chat import ChatAbilities, ChatClient, ChatRequest, UpstreamChat
from drr.engine.upstream.cost import Cost
from drr.engine.upstream.errors import UpstreamError, broken_off
from drr.errors import InputError
from drr.learn.distill_config import DistillConfig
from drr.learn.distill_folder import folder_settings
from drr.learn.from_log import Drawn
from drr.learn.recorded import split_text, words_of
from drr.learn.records import Manifest, Rollout
from drr.learn.rolling import Attempt, Fault, QuestionRoller, named, write_rollouts
from drr.loop.chat.said import Answered, Ask, Field
from drr.loop.stated import answer_in
from drr.tasks import Question
from drr.tasks.grading_pool import Grading
from drr.tasks.rows import Reject

_TRIES = 3
"""Of a request whose answer is cut off or cannot be read."""


class _Said(NamedTuple):
    """What came for one request, and how many tokens it took; `thinking_tokens` is None where the server does not count
    them apart."""

    thought: str
    answer: str
    tokens: int
    thinking_tokens: int | None


class ChatDistiller(QuestionRoller):
    """Rolls questions out through chat completions. `sampling` are the fields that say how; what is not in it is the
    server's own choice. `cost` is the sum over all requests."""

    def __init__(
        self,
        client: ChatClient,
        abilities: ChatAbilities,
        model: str,
        config: DistillConfig,
        grading: Grading,
        sampling: dict[str, Any],
    ) -> None:
        super().__init__(config, grading)
        self._client, self._abilities, self._model, self._sampling = client, abilities, model, sampling
        self.cost = Cost()

    def _prompt(self, question: Question) -> list[int] | Fault:
        return []

    async def _attempt(self, question: Question, prompt_ids: list[int], sample: int) -> Attempt:
        async with self._slots:
            said = await self._said(question, self._config.max_tokens, None)
        thought, answer = said.thought, said.answer
        steps = split_text(thought, self._config.step_rule)
        if self._abilities.tier == "opaque" and answer.strip():
            steps.append(answer)
        lengths = [len(words_of(step)) for step in steps]
        return Attempt(
            sample=sample,
            drawn=Drawn(self._config.temperature, self._config.top_p, self._config.top_k),
            answer=answer,
            steps=steps,
            step_tokens=lengths,
            logprobs=[None] * len(steps),
            prompt_ids=[],
            thought_ids=[],
            thinking_tokens=len(words_of(thought)) if said.thinking_tokens is None else said.thinking_tokens,
            total_tokens=said.tokens,
        )

    async def _graded(self, question: Question, gold: str, attempt: Attempt) -> Rollout:
        right = await self._is_right(question, attempt, gold)
        forced: list[str | None] = [None] * len(attempt.steps)
        now: list[bool | None] = [None] * len(attempt.steps)
        if self._abilities.tier == "prefix":
            texts = list(itertools.accumulate(attempt.steps))[:-1]
            answers = await asyncio.gather(*(self._forced(question, text) for text in texts))
            where = f"{named(question)}, rollout {attempt.sample}, boundary"
            for index, answer in enumerate(answers):
                forced[index] = answer_in(answer)
                now[index] = await self._grading.right_soon(answer, gold, f"{where} {index}")
        if attempt.steps:
            forced[-1], now[-1] = answer_in(attempt.answer), right
        return Rollout(
            question=question.text,
            gold=gold,
            family=question.family,
            difficulty=question.difficulty,
            sample=attempt.sample,
            later=right,
            thinking_tokens=attempt.thinking_tokens,
            total_tokens=attempt.total_tokens,
            answer=answer_in(attempt.answer),
            steps=attempt.steps,
            step_tokens=attempt.step_tokens,
            logprobs=attempt.logprobs,
            forced=forced,
            now=now,
        )

    async def _forced(self, question: Question, thought: str) -> str:
        """The answer behind a thought that is over."""
        async with self._slots:
            said = await self._said(question, self._config.answer_tokens, thought)
        return said.answer

    async def _said(self, question: Question, room: int, thought: str | None) -> "_Said":
        """What comes for a question. InputError where the server does not answer."""
        for tries in range(1, _TRIES + 1):
            try:
                return await self._once(question, room, thought)
            except UpstreamError as error:
                if not broken_off(error) or tries == _TRIES:
                    raise InputError("--server", f"{error}; start again to go on") from error
        raise AssertionError("the last try returns or raises")

    async def _once(self, question: Question, room: int, thought: str | None) -> "_Said":
        messages = [{"role": "user", "content": question.text}]
        request = ChatRequest({"model": self._model, "messages": messages, **self._sampling})
        chat = UpstreamChat(self._client, self._abilities, request)
        texts: dict[Field, str] = {Field.REASONING: "", Field.CONTENT: ""}
        end = Answered("", 0, None)
        try:
            async with contextlib.aclosing(chat.stream(Ask(0, room, thought))) as items:
                async for item in items:
                    if isinstance(item, Answered):
                        end = item
                    else:
                        texts[item.field] += item.text
        finally:
            self.cost.include(chat.cost)
        return _Said(texts[Field.REASONING], texts[Field.CONTENT], end.generated_tokens, end.thinking_tokens)


def chat_settings(
    config: DistillConfig,
    questions: Sequence[Question],
    model: str,
    abilities: ChatAbilities,
    sampling: dict[str, Any],
) -> dict[str, Any]:
    """All settings that records through chat completions depend on; they say which boundaries are labelled, and that
    tokens of steps are words."""
    settings = folder_settings(config, questions, model, "")
    for name in ("temperature", "top_p"):
        settings[name] = sampling.get(name)
    for name in ("seed", "top_k"):
        settings.pop(name, None)
    labelled = "boundaries" if abilities.tier == "prefix" else "attempts"
    return {**settings, "chat": {"tier": abilities.tier, "labels_at": labelled, "step_tokens": "words"}}


async def distill_chat(
    client: ChatClient,
    abilities: ChatAbilities,
    model: str,
    questions: Sequence[Question],
    out: Path,
    config: DistillConfig,
    sampling: dict[str, Any],
    *,
    rejects: Sequence[Reject] = (),
    source: str = "questions",
) -> Manifest:
    """As `drr.learn.distill.distill`, through chat completions. InputError where the server stops answering."""
    return await write_rollouts(
        lambda grading: ChatDistiller(client, abilities, model, config, grading, sampling),
        questions,
        out,
        config,
        chat_settings(config, questions, model, abilities, sampling),
        rejects=rejects,
        source=source,
    )

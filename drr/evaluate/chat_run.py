"""Run strategies through chat completions: the loop over texts that serves such a Reasoner, with every token counted.

Nothing is seeded: a server draws as it likes, so that strategies are compared by question, never on the same attempt.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from drr.engine.upstream.chat import ChatAbilities, ChatClient, ChatRequest, UpstreamChat
from drr.engine.upstream.cost import Cost
from drr.engine.upstream.errors import UpstreamError, broken_off
from drr.engine.upstream.judging import CRITIQUE_DEADLINE, FOLLOWING_UP, SCORERS, ChatJudge
from drr.errors import InputError
from drr.evaluate.eval_config import EvalConfig
from drr.evaluate.run import SCORE_DEADLINE, Row, all_rows, row_of
from drr.evaluate.strategies import Strategy
from drr.loop.chat.response import ChatFinished, ChatResponse
from drr.loop.chat.said import NEVER_ENDS, ChatSettings, Field, Shown, Tier
from drr.loop.policy import PolicySettings
from drr.loop.scoring import Scorer
from drr.tasks import Question
from drr.tasks.grading_pool import Grading


def possible(strategies: Sequence[Strategy], tier: Tier, *, greedy: bool) -> list[Strategy]:
    """Those of the strategies that chat completions of a tier allow. Without `greedy` the temperature is the server's
    own, so that there is no greedy decoding."""
    return [one for one in strategies if _possible(one, tier) and (greedy or not one.greedy)]


def _possible(strategy: Strategy, tier: Tier) -> bool:
    if strategy.scorer is not None and strategy.scorer not in SCORERS[tier]:
        return False
    if strategy.policy.nudge or (strategy.rethink is not None and strategy.rethink.kind == "in_context"):
        return False
    return tier == "prefix" or not strategy.family.removeprefix("greedy, ").startswith("stop")


class ChatEvaluator:
    """Runs strategies on a Reasoner behind chat completions. `sampling` are the fields that say how attempts are drawn;
    what is not in it is the server's own choice. `cost` is the sum over all requests, `spared` always 0."""

    def __init__(
        self,
        client: ChatClient,
        abilities: ChatAbilities,
        model: str,
        scorers: Mapping[str, Scorer],
        grading: Grading,
        config: EvalConfig,
        sampling: Mapping[str, Any],
    ) -> None:
        self._client, self._abilities, self._model = client, abilities, model
        self._scorers, self.grading, self._config, self._sampling = scorers, grading, config, sampling
        self.cost, self.spared = Cost(), 0

    async def run(self, strategy: Strategy, questions: Sequence[Question]) -> list[Row]:
        """The strategy's answers to all questions, in order. InputError where the server stops answering."""

        async def answer(number: int, sample: int) -> Row:
            return await self._answer(strategy, questions[number], number, sample)

        return await all_rows(strategy, questions, self._config.concurrency, answer)

    async def _answer(self, strategy: Strategy, question: Question, number: int, sample: int) -> Row:
        sampling = {**self._sampling, **({"temperature": 0.0} if strategy.greedy else {})}
        messages = [{"role": "user", "content": question.text}]
        request = ChatRequest(
            {"model": self._model, "messages": messages, **sampling},
            self._sampling.get("temperature") if strategy.greedy else None,
        )
        chat = UpstreamChat(self._client, self._abilities, request)
        judge = ChatJudge(chat, self._scorers, strategy.scorer, question.text)
        response = ChatResponse(
            chat, judge.session, str(judge.id), self._settings(strategy), (UpstreamError,), broken_off
        )
        text, end = "", None
        try:
            async with contextlib.aclosing(response.run()) as events:
                async for event in events:
                    if isinstance(event, Shown):
                        text += event.text if event.field is Field.CONTENT else ""
                    elif isinstance(event, ChatFinished):
                        end = event
        except UpstreamError as error:
            raise InputError("--server", f"{error}; start again to go on") from error
        finally:
            self.cost.include(chat.cost)
        assert end is not None
        outcome = replace(end.outcome, probe_tokens=judge.tokens)
        where = f"{strategy.name}: question {number}, sample {sample}"
        right = await self.grading.right_soon(text, question.answer, where)
        return row_of(question, number, sample, text, outcome, right=right)

    def _settings(self, strategy: Strategy) -> ChatSettings:
        config, rethink = self._config, strategy.rethink
        looped = strategy.scorer is not None or strategy.max_thinking_tokens is not None
        tier: Tier = self._abilities.tier if looped else "opaque"  # what nobody judges or limits is taken as it comes
        policy: PolicySettings = strategy.policy
        if tier == "opaque":
            policy = replace(policy, **NEVER_ENDS)
        return ChatSettings(
            tier=tier,
            policy=policy,
            rule=strategy.step_rule or config.step_rule,
            max_tokens=config.max_tokens * (1 if rethink is None else 1 + rethink.max_rethinks),
            attempt_tokens=config.max_tokens,
            max_thinking_tokens=strategy.max_thinking_tokens,
            answer_tokens=config.answer_tokens if tier == "prefix" else 0,
            deadline=CRITIQUE_DEADLINE if strategy.scorer in FOLLOWING_UP else SCORE_DEADLINE,
            max_rethinks=0 if rethink is None else rethink.max_rethinks,
            on_exhausted="best" if rethink is None else rethink.on_exhausted,
        )

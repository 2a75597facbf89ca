"""A server that judges the other way: one engine request per step, the next begun when the judge has spoken.

    python -m benchmarks.stepwise --model ... --dm ... --drr-step-rule tokens:20

Takes `drr serve`'s options. It is here to be measured against: same models, same engines, same process, scoring as in
mode shadow, only that every step is a request of its own and waits for its verdict. Step rule `tokens:N` only; an
answer ends when its tokens are spent.
"""

import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from drr.features import BehaviourFeatures
from drr.policy import Verdict
from drr.reasoner import Phase, Reasoner, Segment
from drr.response import Event, Finished, LoopSettings, Outcome, Spent, StepReport
from drr.scorers import Boundary, Scorer
from drr.steps import StepRule
from drr.trace import Trace
from server import launch
from server.engine import Choice, ThinkingEngine


class StepwiseLoop:
    """One response, step by step."""

    def __init__(
        self,
        reasoner: Reasoner,
        scorer: Scorer,
        rule: StepRule,
        settings: LoopSettings,
        prompt_ids: Sequence[int],
        question: str,
    ) -> None:
        assert rule.kind == "tokens", "only steps of a fixed length are asked for step by step"
        self._reasoner, self._session, self._rule = reasoner, scorer.session(question), rule
        self._prompt_ids, self._max_tokens = list(prompt_ids), settings.max_tokens
        self._outcome = Outcome()
        self._trace = Trace(prompt_ids, rule, Spent())
        self._features = BehaviourFeatures()

    async def run(self) -> AsyncGenerator[Event, None]:
        trace = self._trace
        trace.start_thinking()
        number = 0
        while len(trace) < self._max_tokens:
            wanted = min(self._rule.every, self._max_tokens - len(trace))
            carried = trace.carried
            segment = Segment(Phase.THINK, number, [*self._prompt_ids, *carried], carried, wanted)
            async for delta in self._reasoner.stream(segment):
                for token in delta.tokens:
                    trace.tokens.append(token)
                    step = trace.think()
                emit = trace.release(len(trace))
                if emit is not None:
                    yield emit
            if step is not None:
                yield await self._judged(number, step.text, step.start, step.end)
            number += 1
        self._outcome.generated_tokens = self._outcome.thinking_tokens = len(trace)
        yield Finished(self._outcome, "length", None)

    async def _judged(self, number: int, text: str, start: int, end: int) -> StepReport:
        logprobs = [token.logprob for token in self._trace.tokens[start:end]]
        score = await self._session.score(Boundary(number, text, self._features.close_step(text, logprobs), logprobs))
        report = StepReport(number, end - start, score.p_now, score.p_later, Verdict.CONTINUE, None, False)
        self._outcome.steps.append(report)
        return report


class StepwiseEngine(ThinkingEngine):
    """vLLM's engine with `StepwiseLoop` where requests are judged."""

    def choice(self, plan: Any, *request: Any) -> Choice:
        choice = super().choice(plan, *request)
        drr = self.drr
        assert drr is not None
        prompt, params = request[0], request[1]
        ids = prompt["prompt_token_ids"]
        settings = plan.settings.loop_settings(
            drr.defaults, params.max_tokens or self.model_config.max_model_len - len(ids), separate_answer=False
        )
        scorer = drr.scorers[plan.settings.scorer]
        loop = StepwiseLoop(choice.first, scorer, drr.rule, settings, ids, plan.question)
        return replace(choice, loop=loop)


def main() -> int:
    """Run the server; returns the exit status."""
    return launch.main(sys.argv[1:], StepwiseEngine)


if __name__ == "__main__":
    sys.exit(main())

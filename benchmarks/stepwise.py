"""A server that judges step by step: one engine request per step, and the next one begins after the verdict.

    python -m benchmarks.stepwise --model ... --dm ... --drr-step-rule tokens:20

Takes the options of `drr serve`. DRR is compared with it: it has the same models, engines and processes, and scores as
in mode shadow, but every step is a request of its own and waits for its verdict. It supports the step rule `tokens:N`
only, and an answer ends when its tokens are spent.
"""

import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from drr.loop.features import BehaviourFeatures
from drr.loop.onlookers import Watch
from drr.loop.policy import Verdict
from drr.loop.reasoner import Phase, Reasoner, Segment
from drr.loop.response import AttemptOutput, Event, Finished, LoopSettings, Outcome, StepReport
from drr.loop.scoring import Boundary, Scorer
from drr.loop.steps import StepRule, StepSegmenter
from drr.loop.trace import Trace
from server import launch
from server.choices import Choice, ChoiceMaker
from server.engine import ThinkingEngine


class StepwiseLoop:
    """Makes one response, step by step."""

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
        self.outcome = Outcome()
        self._trace, self._segmenter = Trace(prompt_ids), StepSegmenter(rule)
        self._features = BehaviourFeatures()

    @property
    def outputs(self) -> list[AttemptOutput]:
        """Nothing: it is logged nowhere."""
        return []

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
                    trace.think()
                    step = self._segmenter.feed(token.text)
                for emit in trace.release(len(trace)):
                    yield emit
            if step is not None:
                yield await self._judged(number, step.text, step.start, step.end)
            number += 1
        self.outcome.generated_tokens = self.outcome.thinking_tokens = len(trace)
        yield Finished(self.outcome, "length", None)

    async def _judged(self, number: int, text: str, start: int, end: int) -> StepReport:
        logprobs = [token.logprob for token in self._trace.tokens[start:end]]
        score = await self._session.score(Boundary(number, text, self._features.close_step(text, logprobs), logprobs))
        report = StepReport(number, end - start, score.p_now, score.p_later, Verdict.CONTINUE, None, False)
        self.outcome.steps.append(report)
        return report


class StepwiseMaker(ChoiceMaker):
    """Makes responses with `StepwiseLoop`."""

    def choice(
        self, plan: Any, prompt: Any, params: Any, request_id: str, index: int, watch: Watch | None = None
    ) -> Choice:
        choice = super().choice(plan, prompt, params, request_id, index, watch)
        runtime, ids = self._runtime, prompt["prompt_token_ids"]
        settings = plan.settings.loop_settings(
            runtime.defaults, params.max_tokens or self._max_model_len - len(ids), separate_answer=False
        )
        scorer = runtime.scorers[plan.settings.scorer]
        loop = StepwiseLoop(choice.first, scorer, runtime.rule, settings, ids, plan.question)
        return replace(choice, loop=loop)


class StepwiseEngine(ThinkingEngine):
    """An engine that thinks step by step."""

    maker = StepwiseMaker


def main() -> int:
    """Run the server; returns the exit status."""
    return launch.main(sys.argv[1:], StepwiseEngine)


if __name__ == "__main__":
    sys.exit(main())

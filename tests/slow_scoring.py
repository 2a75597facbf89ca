"""Engine token rate with scoring at its own speed (A) and slowed to 500 ms per boundary (B), as A B B A A B ...

python -m tests.slow_scoring      prints {"ratios": [...], "rates": [...]}, B over A in each pair

A machine that is shared changes its speed between pairs, so only runs next to each other are compared.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncGenerator

from drr import reference
from drr.engine.devices import cpu_engine_defaults, prepare_environment
from drr.loop.attempt import ThinkingLoop
from drr.loop.formats import MarkerTokens, ReasoningFormat
from drr.loop.policy import PolicySettings, Score
from drr.loop.probing import Probe
from drr.loop.reasoner import Delta, Phase, Segment
from drr.loop.response import LoopSettings
from drr.loop.scoring import Boundary
from drr.loop.steps import StepRule
from drr.tasks import Split
from drr.tasks.reference_suite import reference_questions

_DELAY = 0.5
_REQUESTS = 16
_PAIRS = 5


class SlowScorer:
    """Doubts everything, after a while."""

    id = "slow"

    def __init__(self, delay: float) -> None:
        self._delay = delay

    def session(self, question: str, probe: Probe | None = None, cache_salt: str | None = None) -> "SlowScorer":
        return self

    async def score(self, boundary: Boundary) -> Score:
        await asyncio.sleep(self._delay)
        return Score(0.0, 0.0)


class Meter:
    """Passes a Reasoner's stream on and notes when its tokens came."""

    def __init__(self) -> None:
        self.tokens, self.last = 0, 0.0

    async def watch(self, stream: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
        async for delta in stream:
            self.tokens += len(delta.tokens)
            self.last = time.perf_counter()
            yield delta


async def rate(engine: object, form: ReasoningFormat, delay: float) -> float:
    """Tokens per second that the engine generated in thinking, until the last one.

    An answer after thinking that ran out of room waits for the verdicts before it, and is not counted.
    """
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import SamplingParams

    from drr.engine.vllm_reasoner import VllmReasoner

    meter, tokenizer = Meter(), engine.renderer.tokenizer  # type: ignore[attr-defined]
    started = time.perf_counter()

    async def respond(index: int, question: str) -> None:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        reasoner = VllmReasoner(
            engine.generate,  # type: ignore[attr-defined]
            tokenizer,
            tokens_input(ids),
            SamplingParams(temperature=0.8, seed=index, max_tokens=512),
            f"request-{index}",
            {},
        )

        class Watched:
            def stream(self, segment: Segment) -> AsyncGenerator[Delta, None]:
                stream = reasoner.stream(segment)
                return meter.watch(stream) if segment.phase is Phase.THINK else stream

        settings = LoopSettings(PolicySettings(threshold=0.9), max_tokens=512, deadline=5.0)
        async for _ in ThinkingLoop(Watched(), SlowScorer(delay), form, StepRule(), settings, ids, question).run():
            pass

    questions = reference_questions(Split.VALIDATION)[:_REQUESTS]
    await asyncio.gather(*(respond(index, question.text) for index, question in enumerate(questions)))
    return meter.tokens / (meter.last - started)


async def measure() -> dict[str, object]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(model=str(reference.reasoner_folder()), disable_log_stats=True, **cpu_engine_defaults())
    )
    try:
        ids = engine.renderer.tokenizer.convert_tokens_to_ids
        form = MarkerTokens(open_ids=(ids("<think>"),), close_ids=(ids("</think>"),), close_text="</think>")
        await rate(engine, form, 0.0)
        delays = itertools.islice(itertools.cycle((0.0, _DELAY, _DELAY, 0.0)), 2 * _PAIRS)
        rates = [(delay, await rate(engine, form, delay)) for delay in delays]
    finally:
        engine.shutdown()
    pairs = [dict(pair) for pair in zip(rates[0::2], rates[1::2], strict=True)]
    return {
        "ratios": [round(pair[_DELAY] / pair[0.0], 3) for pair in pairs],
        "rates": [round(own) for _, own in rates],
    }


if __name__ == "__main__":
    prepare_environment()
    print(json.dumps(asyncio.run(measure())))

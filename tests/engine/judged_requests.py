"""Seeded requests with every sampling option drawn at random, answered by an engine with and without state heads.

python -m tests.engine.judged_requests MODEL COUNT ALONE     prints what is equal and what is not

COUNT requests are sent all at once. How they share batches is up to chance, and a batch's size moves the last bits of
what comes out: the engine without heads is also compared with itself. The first ALONE requests are sent one by one too.
"""

import asyncio
import contextlib
import gc
import json
import os
import random
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from vllm.inputs.engine import tokens_input
from vllm.model_executor.models import ModelRegistry
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from drr.engine.devices import cpu_engine_defaults, prepare_environment
from drr.engine.judged_plugin import ARCHITECTURE_VARIABLE
from drr.engine.judging_engine import prepare_to_judge
from drr.engine.state_head import StateHead
from drr.engine.state_ids import StateIds
from drr.loop.reasoner import user_prompt

_VARIABLES = (ARCHITECTURE_VARIABLE, "VLLM_PLUGINS", "VLLM_RAY_EXTRA_ENV_VARS_TO_COPY")


Result = TypeVar("Result")

Asked = Sequence[tuple[Sequence[int], SamplingParams]]
"""Prompts, and what is asked of them."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine; `ids` are its spare token ids where it has heads."""

    generate: Any
    tokenizer: Any
    ids: StateIds | None

    async def answer(self, prompt: Sequence[int], params: SamplingParams, request_id: str) -> RequestOutput:
        """The whole output of one request."""
        params = params.clone()
        params.output_kind = RequestOutputKind.FINAL_ONLY
        async for output in self.generate(tokens_input(list(prompt)), params, request_id):
            final = output
        return final  # type: ignore[no-any-return]

    async def answers(self, asked: Asked) -> list[RequestOutput]:
        """The outputs of requests that come all at once, in their order."""
        return await asyncio.gather(*(self.answer(*request, f"request-{n}") for n, request in enumerate(asked)))

    async def one_by_one(self, asked: Asked) -> list[RequestOutput]:
        """The outputs of requests that come one after the other."""
        return [await self.answer(*request, f"alone-{n}") for n, request in enumerate(asked)]


def random_head(path: Path, size: int, seed: int) -> Path:
    """A head with random weights, whose outputs are a few units wide."""
    torch.manual_seed(seed)
    head = StateHead(size, 64)
    nn.init.normal_(head.out.weight, std=1.0)
    head.save(path)
    return path


@contextlib.asynccontextmanager
async def open_judged(model: Path | str, heads: Sequence[Path], **options: Any) -> AsyncIterator[Engine]:
    """An engine of this process that runs the heads. What it needs in the environment goes when it has ended."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    defaults = {"max_num_seqs": 64, "max_model_len": 1024, **cpu_engine_defaults(256 << 20)}
    config = AsyncEngineArgs(model=str(model), **{**defaults, **options}).create_engine_config()
    with environment_kept():
        ids = prepare_to_judge(config, heads) if heads else None
        engine = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
        try:
            yield Engine(engine.generate, engine.renderer.tokenizer, ids)
        finally:
            engine.shutdown()


def run(played: Coroutine[Any, Any, Result]) -> Result:
    """Run what opens engines. vLLM leaves message contexts of theirs to the collector, which would complain of them."""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        try:
            return asyncio.run(played)
        finally:
            gc.collect()


@contextlib.contextmanager
def environment_kept() -> Iterator[None]:
    """What preparing an engine to judge leaves in this process is undone in the end."""
    before, models = {name: os.environ.get(name) for name in _VARIABLES}, dict(ModelRegistry.models)
    try:
        yield
    finally:
        ModelRegistry.models.update(models)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def draw(rng: random.Random, ids: Sequence[int], number: int) -> SamplingParams:
    """The options of a request, at random; `ids` are token ids that it may name."""

    def maybe(share: float, value: Any, otherwise: Any) -> Any:
        return value if rng.random() < share else otherwise

    longest = rng.randint(4, 40)
    temperature = rng.choice([0.0, 0.3, 0.7, 1.0, 1.5, 2.0])
    return SamplingParams(
        seed=number,
        max_tokens=longest,
        n=maybe(0.1, 2, 1) if temperature else 1,
        temperature=temperature,
        top_p=maybe(0.4, rng.uniform(0.05, 1.0), 1.0),
        top_k=maybe(0.4, rng.choice([1, 5, 50, 500]), 0),
        min_p=maybe(0.2, rng.uniform(0.0, 0.3), 0.0),
        presence_penalty=maybe(0.2, rng.uniform(-2.0, 2.0), 0.0),
        frequency_penalty=maybe(0.2, rng.uniform(-2.0, 2.0), 0.0),
        repetition_penalty=maybe(0.2, rng.uniform(0.5, 2.0), 1.0),
        logit_bias=maybe(0.2, {token: rng.uniform(-50.0, 50.0) for token in rng.sample(ids, 4)}, None),
        min_tokens=maybe(0.2, rng.randint(1, longest), 0),
        bad_words=maybe(0.1, ["So", " the answer"], None),
        stop=maybe(0.2, rng.sample([".", "=", "so", "\n\n"], 2), None),
        allowed_token_ids=maybe(0.1, rng.sample(ids, min(len(ids), 200)), None),
        logprobs=maybe(0.7, rng.randint(0, 5), None),
        prompt_logprobs=maybe(0.15, rng.randint(0, 5), None),
        ignore_eos=maybe(0.1, True, False),
    )


def requests(tokenizer: Any, count: int, spare: Sequence[int]) -> list[tuple[list[int], SamplingParams]]:
    """`count` prompts with random options, the same every time; no option names a `spare` id."""
    rng = random.Random(0)
    ids = sorted(set(tokenizer.get_vocab().values()) - set(spare))
    questions = (f"Tom has {n + 3} apples and buys {n % 5 + 2} bags of {n % 7 + 2}. How many?" for n in range(count))
    return [(user_prompt(tokenizer, question), draw(rng, ids, number)) for number, question in enumerate(questions)]


@dataclass(slots=True)
class Compared:
    """What two engines said to the same requests."""

    choices: int = 0
    choices_with_other_tokens: int = 0
    logprobs: int = 0
    logprobs_that_differ: int = 0
    other_alternatives: int = 0
    other_ranks: int = 0
    largest_rise_of_a_rank: int = 0
    largest_fall_of_a_rank: int = 0
    prompt_logprobs: int = 0
    prompt_logprobs_that_differ: int = 0
    largest_difference: float = 0.0
    examples: list[str] = field(default_factory=list)

    def add(self, one: RequestOutput, other: RequestOutput) -> None:
        """Compare two outputs of a request."""
        for left, right in zip(one.outputs, other.outputs, strict=True):
            self.choices += 1
            same = (left.token_ids, left.finish_reason, left.stop_reason) == (
                right.token_ids,
                right.finish_reason,
                right.stop_reason,
            )
            self.choices_with_other_tokens += not same
            if not same:
                self.examples.append(f"{one.request_id}: {list(left.token_ids)} {list(right.token_ids)}")
            for told, again in zip(left.logprobs or (), right.logprobs or (), strict=same):
                self._add_position(told, again, prompt=False)
        for told, again in zip(one.prompt_logprobs or (), other.prompt_logprobs or (), strict=True):
            self._add_position(told or {}, again or {}, prompt=True)

    def _add_position(self, told: Mapping[int, Any], again: Mapping[int, Any], *, prompt: bool) -> None:
        self.other_alternatives += set(told) != set(again)
        for token in set(told) & set(again):
            apart = abs(told[token].logprob - again[token].logprob)
            rise = again[token].rank - told[token].rank
            self.other_ranks += rise != 0
            self.largest_rise_of_a_rank = max(self.largest_rise_of_a_rank, rise)
            self.largest_fall_of_a_rank = max(self.largest_fall_of_a_rank, -rise)
            self.largest_difference = max(self.largest_difference, apart)
            if prompt:
                self.prompt_logprobs += 1
                self.prompt_logprobs_that_differ += apart > 0
            else:
                self.logprobs += 1
                self.logprobs_that_differ += apart > 0


def compared(one: Sequence[RequestOutput], other: Sequence[RequestOutput]) -> Compared:
    """What two engines said to the same requests."""
    found = Compared()
    for left, right in zip(one, other, strict=True):
        found.add(left, right)
    return found


async def compare(
    model: Path | str, count: int, alone: int, size: int, folder: Path, **options: Any
) -> dict[str, Compared]:
    """The answers of `model`, whose states have `size` numbers, without heads and with one."""
    head = random_head(folder / "head.safetensors", size, seed=0)
    options = {"enable_prefix_caching": False, **options}
    async with open_judged(model, [head], **options) as engine:
        assert engine.ids is not None
        asked = requests(engine.tokenizer, count, engine.ids.all)
        judged, judged_alone = await engine.answers(asked), await engine.one_by_one(asked[:alone])
    async with open_judged(model, [], **options) as engine:
        plain, plain_alone = await engine.answers(asked), await engine.one_by_one(asked[:alone])
        again = await engine.answers(asked)
    return {
        "together": compared(plain, judged),
        "without heads, twice": compared(plain, again),
        "one by one": compared(plain_alone, judged_alone),
    }


def main() -> None:
    model, count, alone = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    prepare_environment(quiet=True)
    size = json.loads(Path(model, "config.json").read_text())["hidden_size"]
    with tempfile.TemporaryDirectory() as folder:
        found = run(compare(model, count, alone, size, Path(folder)))
    for name, figures in found.items():
        sys.stdout.write(f"{name}: {figures}\n")


if __name__ == "__main__":
    main()

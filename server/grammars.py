"""Grammars, schemas and expressions that outputs have to follow, found out to be bad before anything is thought.

vLLM looks at them when its engine is asked. The loop asks for the answer last, when the thinking has been shown, so
they are looked at here first. What vLLM's backends can only tell by compiling, the engine is asked to compile.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any

from drr.engine.vllm_reasoner import Generate
from server.vllm_api import (
    AsyncLLM,
    RequestOutput,
    SamplingParams,
    StructuredOutputsParams,
    VLLMValidationError,
    tokens_input,
)

_COMPILED_LATE = ("outlines", "lm-format-enforcer")
"""Backends that vLLM's check tells little of."""


def _is_known_to_compile(outputs: StructuredOutputsParams) -> bool:
    """Whether what vLLM's check has passed will be compiled. Where it chooses the backend itself (`auto`), the engine
    keeps to the one that its first such request was given, whatever later ones were checked for."""
    return outputs._backend not in _COMPILED_LATE and not outputs._backend_was_auto


async def check(
    engine: AsyncLLM, generate: Generate, params: SamplingParams, request_id: str, options: Mapping[str, Any]
) -> None:
    """VLLMValidationError where a whole response cannot be made with these parameters: the loop asks for its parts with
    others. `generate` and `options` are as for the engine requests of the response."""
    whole = params.clone()
    verify = partial(
        whole.verify,
        engine.model_config,
        engine.vllm_config.speculative_config,
        engine.vllm_config.structured_outputs_config,
        engine.renderer.tokenizer,
    )
    if whole.structured_outputs is None:
        verify()
        return
    await asyncio.to_thread(verify)
    if _is_known_to_compile(whole.structured_outputs):
        return
    one = SamplingParams(max_tokens=1, structured_outputs=whole.structured_outputs, detokenize=False)
    trial = generate(tokens_input([0]), one, f"{request_id}-grammar", **{**options, "reasoning_ended": True})
    async with contextlib.aclosing(trial):
        async for _ in trial:
            pass


async def compiled(outputs: AsyncGenerator[RequestOutput, None]) -> AsyncGenerator[RequestOutput, None]:
    """The outputs of a request that has to follow a grammar; VLLMValidationError where the engine cannot compile it,
    which it tells as an error of its own."""
    begun = False
    async with contextlib.aclosing(outputs):
        async for output in outputs:
            failed = any(one.finish_reason == "error" and not one.token_ids for one in output.outputs)
            if failed and not begun:
                raise VLLMValidationError("Grammar error: the engine cannot compile it; it may be too large")
            begun = True
            yield output

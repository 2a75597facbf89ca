"""The tokens that a key's requests use, counted where the engine makes them."""

import contextlib
from collections.abc import AsyncGenerator

from server.admission.shares import Share
from server.vllm_api import RequestOutput, RequestOutputKind


async def counted(
    outputs: AsyncGenerator[RequestOutput, None], share: Share, kind: RequestOutputKind, *, with_prompt: bool
) -> AsyncGenerator[RequestOutput, None]:
    """The outputs of an engine request, of this kind, whose tokens are told to the share when it ends, however it does.
    The prompt counts where it is not one that has been counted already."""
    prompt, generated = 0, dict[int, int]()
    try:
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                prompt = len(output.prompt_token_ids or ())
                for completion in output.outputs:
                    before = generated.get(completion.index, 0) if kind is RequestOutputKind.DELTA else 0
                    generated[completion.index] = before + len(completion.token_ids)
                yield output
    finally:
        share.use((prompt if with_prompt else 0) + sum(generated.values()))

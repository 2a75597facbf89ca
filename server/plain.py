"""Responses in which the loop has no part, counted: completions, beam search, Reasoners of an unknown format."""

import contextlib
import re
from collections.abc import AsyncGenerator

from server import metrics
from server.early_ends import Exit
from server.metrics import Ended
from server.vllm_api import RequestOutput, RequestOutputKind, SamplingParams

_BEAM = re.compile(r"-beam-\d+$")
"""How the ids of engine requests end of which a beam search makes many."""


async def counted(
    outputs: AsyncGenerator[RequestOutput, None], params: SamplingParams, request_id: str
) -> AsyncGenerator[RequestOutput, None]:
    """The outputs of an engine request, counted when it ends, however it does. Of a beam search the tokens count, and
    no response."""
    delta, generated = params.output_kind is RequestOutputKind.DELTA, dict[int, int]()
    exit_, complete = Exit(request_id), False
    ended: Ended | None = None
    error: BaseException | None = None
    try:
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                for completion in output.outputs:
                    before = generated.get(completion.index, 0) if delta else 0
                    generated[completion.index] = before + len(completion.token_ids)
                    if completion.finish_reason is not None:
                        ended = exit_.finished(completion.finish_reason, generated[completion.index]) or ended
                complete = complete or output.finished
                yield output
    except BaseException as caught:
        error = caught
        raise
    finally:
        tokens = sum(generated.values())
        if not complete and ended is None:  # else nothing is missing, whatever becomes of whoever reads it
            ended = exit_.left(error, tokens)
        exit_.close()
        metrics.observe_plain(0 if _BEAM.search(request_id) else params.n, tokens, ended)

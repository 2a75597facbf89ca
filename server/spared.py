"""Keep the spare token ids, through which heads are read, out of what clients send and get."""

import contextlib
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from drr.engine.state_ids import StateIds
from server.vllm_api import RequestOutput, SamplingParams, VLLMValidationError

_ALL = -1


def check_params(params: SamplingParams, ids: StateIds) -> None:
    """VLLMValidationError where a request wants something of a spare id: no tokenizer makes it, and none is sampled."""
    for name in ("allowed_token_ids", "logit_bias", "logprob_token_ids"):
        asked = sorted(set(getattr(params, name) or ()) & set(ids.all))
        if asked:
            raise VLLMValidationError(f"{name}: {asked[0]} is the id of no token", parameter=name, value=asked[0])


def shows_spare(params: SamplingParams, ids: StateIds, vocabulary: int) -> bool:
    """Whether a request wants the log-probabilities of so many tokens that spare ones are among them."""
    most = vocabulary - len(ids.all)
    return any(
        count is not None and (count == _ALL or count > most) for count in (params.logprobs, params.prompt_logprobs)
    )


async def without_spare(
    outputs: AsyncGenerator[RequestOutput, None], ids: StateIds, params: SamplingParams
) -> AsyncGenerator[RequestOutput, None]:
    """The outputs of a request, without the spare ids among the tokens whose log-probabilities they tell. Those that
    the request names itself, which only the loop's do, stay: the loop reads them and hands them to nobody."""
    named = ids.level in (params.logprob_token_ids or ())
    async with contextlib.aclosing(outputs):
        async for output in outputs:
            _forget(output.prompt_logprobs or (), ids)
            for completion in output.outputs if not named else ():
                _forget(completion.logprobs or (), ids)
            yield output


def _forget(told: Iterable[Any], ids: StateIds) -> None:
    for alternatives in told:
        for token_id in ids.all if alternatives else ():
            alternatives.pop(token_id, None)

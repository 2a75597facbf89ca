"""Mend vLLM's V1 sampler where requests that ask for different log-probabilities are in one batch.

As soon as one request names token ids (`logprob_token_ids`), vLLM 0.32's V1 sampler gives every request of the batch
those columns only: the alternatives that others asked for are lost. Judged requests name ids all the time. The V2
sampler treats every request by itself and needs no mending.
"""

import functools
from collections import defaultdict
from typing import Any

import torch
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.sample.ops.logprobs import batched_count_greater_than
from vllm.v1.sample.sampler import Sampler


def mend_sampler() -> None:
    """Have the V1 sampler of this process give every request what it asked for. Doing it again changes nothing."""
    if hasattr(Sampler, "drr_mended"):
        return
    forward = Sampler.forward

    @functools.wraps(forward)
    def remembering(self: Any, logits: torch.Tensor, sampling_metadata: Any, *rest: Any, **more: Any) -> Any:
        self.drr_alternatives = sampling_metadata.max_num_logprobs
        return forward(self, logits, sampling_metadata, *rest, **more)

    def gather(
        self: Any, logprobs: torch.Tensor, logprob_token_ids: dict[int, list[int]], sampled: torch.Tensor
    ) -> LogprobsTensors | None:
        return gather_each(logprobs, logprob_token_ids, sampled, self.drr_alternatives) if logprob_token_ids else None

    Sampler.forward = remembering  # type: ignore[method-assign]
    Sampler.gather_specific_token_logprobs = gather  # type: ignore[method-assign, assignment]
    Sampler.drr_mended = True  # type: ignore[attr-defined]


def gather_each(
    logprobs: torch.Tensor, named: dict[int, list[int]], sampled: torch.Tensor, alternatives: int | None
) -> LogprobsTensors:
    """The log-probabilities that each row asks for: those of the ids it `named`, else the likeliest ones.

    logprobs [B, V]; `named` by row; sampled [B]; `alternatives` is how many of the likeliest any row asks for, -1 for
    all of them and None for none. Column 0 is the sampled token's. Columns that a row has no use for are -inf.
    """
    rows, vocabulary = logprobs.shape
    likeliest = vocabulary if alternatives == -1 else alternatives or 0
    width = max(likeliest, *(len(ids) for ids in named.values()))
    token_ids = torch.zeros(rows, 1 + width, dtype=torch.int64, device=logprobs.device)
    used = torch.zeros(rows, 1 + width, dtype=torch.bool, device=logprobs.device)
    token_ids[:, 0], used[:, 0] = sampled, True
    if likeliest:
        token_ids[:, 1 : 1 + likeliest] = logprobs.topk(likeliest, dim=-1).indices
        used[:, 1 : 1 + likeliest] = True
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, asked in named.items():
        alike[tuple(asked)].append(row)
    for ids, same in alike.items():
        where = torch.tensor(same, device=logprobs.device)
        token_ids[where, 1 : 1 + len(ids)] = torch.tensor(ids, device=logprobs.device)
        used[where, 1:] = torch.arange(width, device=logprobs.device) < len(ids)
    found = logprobs.gather(-1, token_ids)
    for tensor in (logprobs, sampled_found := found[:, :1].contiguous()):
        torch._dynamo.decorators.mark_unbacked(tensor, 0)  # or it is compiled again for batches of one
    ranks = batched_count_greater_than(logprobs, sampled_found)
    return LogprobsTensors(token_ids.to(torch.int32), found.masked_fill(~used, float("-inf")), ranks)

"""vLLM's sampling parameters for those who do not know vLLM."""

from vllm.sampling_params import SamplingParams

__all__ = ["SamplingParams", "sampling"]


def sampling(
    temperature: float,
    *,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    max_tokens: int | None = None,
) -> SamplingParams:
    """How tokens are drawn; without `max_tokens`, whoever makes the requests says how many."""
    return SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        max_tokens=max_tokens,
    )

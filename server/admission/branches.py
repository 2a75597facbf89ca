"""How many sequences one request may have the engine make: every prompt, every choice of it, every attempt at one."""

from collections.abc import AsyncGenerator
from contextvars import ContextVar
from typing import TypeVar

FLAG = "--drr-max-branches"
_Output = TypeVar("_Output")


class Branches:
    """What one request has asked for, of at most `most`."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    def take(self, choices: int, attempts: int = 1) -> int:
        """So many choices, each of which may be attempted so often; returns how many branches that makes.
        VLLMValidationError, which names the field, where the request has more than it may."""
        branches = choices * attempts
        self.taken += branches
        if self.taken <= self.most:
            return branches
        from server.vllm_api import VLLMValidationError  # whoever has no engine does without vLLM

        counted = f"at most {self.most} sequences may be made for one request ({FLAG})"
        if choices > 1:
            each = f" of {attempts} attempts" if attempts > 1 else ""
            raise VLLMValidationError(f"n: {counted}, not {choices:,} choices{each}", parameter="n")
        if attempts > 1:
            raise VLLMValidationError(
                f"drr.max_rethinks: {counted}, not {attempts} attempts", parameter="drr.max_rethinks"
            )
        raise VLLMValidationError(f"prompt: {counted}; the request has more prompts", parameter="prompt")

    async def given_back(self, outputs: AsyncGenerator[_Output, None], branches: int) -> AsyncGenerator[_Output, None]:
        """These outputs; when they have ended, so many branches are free again."""
        try:
            async for output in outputs:
                yield output
        finally:
            await outputs.aclose()
            self.taken -= branches


BRANCHES: ContextVar[Branches | None] = ContextVar("drr_branches", default=None)
"""Those of the request that the current task works for."""

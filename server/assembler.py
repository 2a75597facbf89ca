"""The loop's events as the RequestOutputs that vLLM's serving code expects."""

from collections.abc import Mapping
from typing import Any

from drr.engine.vllm_reasoner import VllmReasoner
from drr.loop.formats import Part
from drr.loop.reasoner import Token
from drr.loop.response import Emit, Event, Finished
from server.vllm_api import CompletionOutput, RequestOutput, RequestOutputKind, SamplingParams


class OutputAssembler:
    """Puts one request's outputs together, as deltas, all so far, or everything at the end, as it was asked.

    Tokens that were put in have text and no id: nobody generated them, so they are in no count and no log-probability.
    Of deltas, a refusal comes with the end: vLLM drops an end without text of which nothing has been shown before.
    """

    def __init__(
        self,
        request_id: str,
        prompt: Mapping[str, Any],
        params: SamplingParams,
        reasoner: VllmReasoner,
        *,
        shows_markers: bool = False,
    ) -> None:
        self._shows_markers = shows_markers
        self._request_id, self._prompt, self._reasoner = request_id, prompt, reasoner
        self._kind = params.output_kind
        self._logprobs = params.logprobs is not None or params.logprob_token_ids is not None
        self._open = params.n
        self._emitted: list[list[Emit]] = [[] for _ in range(params.n)]
        self._final: dict[int, CompletionOutput] = {}
        self._refusals: dict[int, str] = {}

    def add(self, index: int, event: Event) -> RequestOutput | None:
        """The output that this event of choice `index` makes due, if any."""
        match event:
            case Emit():
                return self._emit(index, event)
            case Finished():
                return self._finish(index, event)
            case _:
                return None

    def _emit(self, index: int, event: Emit) -> RequestOutput | None:
        if self._kind is RequestOutputKind.DELTA:
            if event.part is Part.REFUSAL:
                self._refusals[index] = event.text
                return None
            unseen = event.part is Part.MARKER and not self._shows_markers
            if unseen and all(token.injected for token in event.tokens):
                return None  # nothing was generated, and nobody is shown it
            return self._output([self._completion(index, event.tokens, event.text)])
        self._emitted[index].append(event)
        return self._output([self._whole(index)]) if self._kind is RequestOutputKind.CUMULATIVE else None

    def _whole(self, index: int) -> CompletionOutput:
        events = self._emitted[index]
        tokens = tuple(token for event in events for token in event.tokens)
        return self._completion(index, tokens, "".join(event.text for event in events))

    def _finish(self, index: int, event: Finished) -> RequestOutput | None:
        self._open -= 1
        delta = self._kind is RequestOutputKind.DELTA
        final = self._completion(index, (), self._refusals.get(index, "")) if delta else self._whole(index)
        final.finish_reason, final.stop_reason = event.finish_reason, event.stop_reason
        if self._kind is not RequestOutputKind.FINAL_ONLY:
            return self._output([final])
        self._final[index] = final
        return None if self._open else self._output([self._final[choice] for choice in sorted(self._final)])

    def _completion(self, index: int, tokens: tuple[Token, ...], text: str) -> CompletionOutput:
        generated = [token for token in tokens if not token.injected]
        return CompletionOutput(
            index=index,
            text=text,
            token_ids=[token.id for token in generated],
            cumulative_logprob=None,
            logprobs=[token.detail for token in generated] if self._logprobs else None,
        )

    def _output(self, completions: list[CompletionOutput]) -> RequestOutput:
        first, last = self._reasoner.first_output, self._reasoner.last_output
        return RequestOutput(
            request_id=self._request_id,
            prompt=self._prompt.get("prompt"),
            prompt_token_ids=self._prompt["prompt_token_ids"],
            prompt_logprobs=first.prompt_logprobs if first else None,
            outputs=completions,
            finished=self._open == 0,
            metrics=last.metrics if last else None,
            num_cached_tokens=first.num_cached_tokens if first else None,
            num_cache_creation_tokens=first.num_cache_creation_tokens if first else None,
            kv_transfer_params=last.kv_transfer_params if last else None,
        )

"""Probes on vLLM: greedy requests of their own beside the thinking, which share its prefix cache."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams

from drr.engine.state_ids import StateIds
from drr.engine.vllm_reasoner import Generate
from drr.loop.formats import ReasoningFormat
from drr.loop.probing import ProbedToken
from drr.loop.reasoner import user_prompt

_PROBE = "-probe-"
"""Stands between a request's id and the number of one of its probes."""


def attempt_of(request_id: str) -> str:
    """The id of the request that a probe belongs to; of any other request its own id."""
    return request_id.partition(_PROBE)[0]


class VllmProbe:
    """Asks a Reasoner; `generate` is AsyncLLM.generate, `request_id` begins the ids of its requests, `options` go to
    every one of them (priority, LoRA, ...). `cache_salt` keeps a tenant's prefix cache apart from others'. Heads in the
    engine are read through `state_ids`."""

    def __init__(
        self,
        generate: Generate,
        tokenizer: Any,
        form: ReasoningFormat,
        request_id: str,
        options: Mapping[str, Any] | None = None,
        *,
        cache_salt: str | None = None,
        state_ids: StateIds | None = None,
    ) -> None:
        self.form, self.tokens = form, 0
        self._state_ids = state_ids
        self._generate, self._tokenizer, self._options = generate, tokenizer, dict(options or {})
        self._cache_salt = cache_salt
        self._ids = (f"{request_id}{_PROBE}{number}" for number in itertools.count())

    async def complete(
        self, ids: Sequence[int], max_tokens: int, likeliest: int = 0, stop: Sequence[str] = ()
    ) -> list[ProbedToken]:
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            logprobs=likeliest,
            stop=list(stop),
            skip_special_tokens=False,
            output_kind=RequestOutputKind.DELTA,
        )
        probed: list[ProbedToken] = []
        prompt = tokens_input(list(ids), cache_salt=self._cache_salt)
        outputs = self._generate(prompt, params, next(self._ids), **self._options)
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                completion = output.outputs[0]
                self.tokens += len(completion.token_ids)
                for token, detail in zip(completion.token_ids, completion.logprobs or (), strict=True):
                    texts = {self._text(likely): logprob.logprob for likely, logprob in detail.items()}
                    probed.append(ProbedToken(self._text(token), detail[token].logprob, texts, token))
                if completion.finish_reason == "stop" and completion.stop_reason is None:
                    del probed[-1:]  # the end of the turn
        return probed

    async def states(self, ids: Sequence[int]) -> tuple[float, ...] | None:
        if self._state_ids is None:
            return None
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprob_token_ids=self._state_ids.all,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = tokens_input(list(ids), cache_salt=self._cache_salt)
        said = None
        async with contextlib.aclosing(self._generate(prompt, params, next(self._ids), **self._options)) as outputs:
            async for output in outputs:
                completion = output.outputs[0]
                self.tokens += len(completion.token_ids)
                said = self._state_ids.read(completion.logprobs[0]) if completion.logprobs else None
        return said

    def ask(self, message: str, *, think: bool) -> list[int]:
        ids = user_prompt(self._tokenizer, message)
        return ids if think else self.form.answer_at_once(ids)

    def _text(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))

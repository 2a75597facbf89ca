"""A Reasoner on vLLM: one client request's sampling parameters, turned into each segment's engine request.

Resubmission makes earlier output part of the prompt, where the engine's presence and frequency penalties,
`min_tokens` and seeded noise would start anew. They are carried here.
"""

import contextlib
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from tokenizers.decoders import DecodeStream
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from drr.engine.state_ids import StateIds
from drr.loop.reasoner import Delta, Phase, Segment, Token

Generate = Callable[..., AsyncGenerator[RequestOutput, None]]

_UNSEEN_CHUNK = 8
"""Tokens that come at once where the client waits for all of them: a chunk costs the process that runs the loop several
times what a token does, and a boundary is still found within a few tokens."""

GREEDY = 1e-5
"""Below this temperature vLLM samples nothing."""

# How much of the context the text decoder is shown: enough for any character or merge that straddles its end.
_DECODER_CONTEXT = 16


class VllmReasoner:
    """Streams one choice of one client request.

    `generate` is AsyncLLM.generate; `prompt` the rendered engine input with `prompt_token_ids`; `params` the
    client's sampling parameters for this choice; `options` go to every engine request (priority, LoRA, ...).
    `first_output` and `last_output` keep the engine's outputs for what they say of the request as a whole.
    """

    def __init__(
        self,
        generate: Generate,
        tokenizer: Any,
        prompt: Mapping[str, Any],
        params: SamplingParams,
        request_id: str,
        options: Mapping[str, Any],
        *,
        judged: bool = True,
        free_thinking: bool = False,
        state_ids: StateIds | None = None,
    ) -> None:
        """`judged` thinking comes with its tokens' log-probabilities, and with what heads in the engine say, which is
        read through `state_ids`; `free_thinking` is under no grammar."""
        self._generate, self._tokenizer = generate, tokenizer
        self._prompt, self._params = prompt, params
        self._judged, self._free_thinking = judged, free_thinking
        self._state_ids = state_ids if judged and _may_read(params, state_ids) else None
        self._request_id, self._options = request_id, dict(options)
        self._decoder, self._decoded = TextDecoder(tokenizer, [], params.skip_special_tokens), list[int]()
        self.first_output: RequestOutput | None = None
        self.last_output: RequestOutput | None = None

    async def stream(self, segment: Segment) -> AsyncGenerator[Delta, None]:
        params = segment_params(
            self._params,
            segment,
            judged=self._judged,
            free_thinking=self._free_thinking,
            state_ids=self._state_ids,
        )
        prompt = {**self._prompt, "prompt_token_ids": list(segment.ids)}
        options = self._options
        if segment.phase is Phase.ANSWER:
            options = {**options, "reasoning_ended": True}  # structured outputs constrain from the first token
        if segment.phase is Phase.THINK:
            self._decode_behind(segment.ids)
        outputs = self._generate(prompt, params, self._request_id, **options)
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                self.first_output = self.first_output or output
                self.last_output = output
                completion = output.outputs[0]
                if segment.phase is Phase.THINK:
                    self._decoded.extend(completion.token_ids)
                    keep_stop = params.include_stop_str_in_output
                    yield _thinking_delta(completion, self._decoder, keep_stop, self._state_ids)
                else:
                    yield _answer_delta(completion)

    def _decode_behind(self, ids: Sequence[int]) -> None:
        """A segment that begins where another ended may begin inside a character, which only the same decoder knows."""
        behind = list(ids)
        if self._decoded != behind:
            self._decoder = TextDecoder(self._tokenizer, behind, self._params.skip_special_tokens)
            self._decoded = behind


def _may_read(params: SamplingParams, state_ids: StateIds | None) -> bool:
    """Whether a request can be told what heads say: the engine tells it either of ids that it names, not too many, or
    of the likeliest ones, which a client may want."""
    return state_ids is not None and not params.logprobs and state_ids.beside(params.logprob_token_ids) is not None


def segment_params(
    params: SamplingParams,
    segment: Segment,
    *,
    judged: bool = True,
    free_thinking: bool = False,
    state_ids: StateIds | None = None,
) -> SamplingParams:
    """The client's sampling parameters as this segment needs them.

    Thinking that is `judged` reports the sampled tokens' log-probabilities (behaviour features need them), and is never
    cut by the client's stop strings. Frequency penalties carry over exactly; presence penalties too, save that a token
    seen on both sides of a resubmission is penalised twice. `min_tokens` asks nothing of an answer whose thinking was
    ended from outside.
    """
    adapted = params.clone()
    adapted.n = 1
    adapted.max_tokens = segment.max_tokens
    least = 0 if segment.cut else max(0, params.min_tokens - len(segment.carried))
    adapted.min_tokens = min(segment.max_tokens, least)
    if params.output_kind is RequestOutputKind.FINAL_ONLY:
        adapted.stream_interval = max(_UNSEEN_CHUNK, params.stream_interval or 1)
    adapted.output_kind = RequestOutputKind.DELTA
    if segment.number and params.seed is not None:
        # Engines that restart their noise with every request would otherwise repeat the first segment's.
        adapted.seed = random.Random(f"{params.seed}/{segment.number}").getrandbits(62)
    if segment.number:
        adapted.prompt_logprobs = None
    if segment.phase is Phase.THINK:
        adapted.stop, adapted.output_text_buffer_length = [], 0
        if judged and state_ids is not None:
            adapted.logprobs, adapted.logprob_token_ids = None, state_ids.beside(params.logprob_token_ids)
        elif judged and params.logprob_token_ids:
            adapted.logprobs = None  # the sampled token's comes with those that are named
        elif judged:
            adapted.logprobs = max(0, params.logprobs or 0) if params.logprobs != -1 else -1
        if free_thinking:
            adapted.structured_outputs = None
        wanted = params.logprobs is not None or params.logprob_token_ids is not None
        adapted.detokenize = wanted  # the texts of alternatives: those of the tokens are decoded here, one by one
    if segment.carried and (params.presence_penalty or params.frequency_penalty):
        adapted.logit_bias = _carried_penalties(params, segment.carried)
    return adapted


def attempt_params(params: SamplingParams, number: int, temperature: float) -> SamplingParams:
    """The sampling parameters of a later attempt: noise of its own, and noise at all where the request has none
    (a greedy attempt repeated is the same attempt). A greedy request is answered the same every time: its later
    attempts draw from a seed that their number gives."""
    adapted = params.clone()
    greedy = adapted.temperature < GREEDY
    if adapted.seed is not None or greedy:
        adapted.seed = random.Random(f"{adapted.seed}/attempt/{number}").getrandbits(62)
    if greedy:
        adapted.temperature = temperature
    return adapted


def _carried_penalties(params: SamplingParams, carried: Sequence[int]) -> dict[int, float]:
    bias = dict(params.logit_bias or {})
    for token, count in Counter(carried).items():
        bias[token] = bias.get(token, 0.0) - params.presence_penalty - params.frequency_penalty * count
    return bias


def _thinking_delta(
    completion: CompletionOutput, decode: "TextDecoder", keep_stop: bool, state_ids: StateIds | None = None
) -> Delta:
    ids = list(completion.token_ids)
    stopped = completion.finish_reason == "stop" and not keep_stop
    spare = frozenset(state_ids.all) if state_ids is not None else frozenset()
    tokens = []
    for position, token_id in enumerate(ids):
        text = "" if stopped and position == len(ids) - 1 else decode.step(token_id)
        detail = completion.logprobs[position] if completion.logprobs else None
        states = None
        if detail and state_ids is not None:
            states = state_ids.read(detail)
            detail = {named: told for named, told in detail.items() if named not in spare}
        logprob = detail[token_id].logprob if detail else None
        tokens.append(Token(token_id, text, logprob, detail, states=states))
    text = "".join(token.text for token in tokens)
    return Delta(tuple(tokens), text, completion.finish_reason, completion.stop_reason)


def _answer_delta(completion: CompletionOutput) -> Delta:
    details = completion.logprobs or [None] * len(completion.token_ids)
    tokens = tuple(
        Token(token_id, "", detail[token_id].logprob if detail else None, detail)
        for token_id, detail in zip(completion.token_ids, details, strict=False)
    )
    return Delta(tokens, completion.text, completion.finish_reason, completion.stop_reason)


class TextDecoder:
    """Decodes a stream of token ids; a character whose bytes straddle tokens comes with the last of them."""

    def __init__(self, tokenizer: Any, context: Sequence[int], skip_special_tokens: bool) -> None:
        self._skip = skip_special_tokens
        self._fast = getattr(tokenizer, "_tokenizer", None)
        self._tokenizer = tokenizer
        self._ids = list(context[-_DECODER_CONTEXT:])
        self._read = len(self._ids)
        self._stream = self._new_stream(self._ids)

    def step(self, token_id: int) -> str:
        """The text that this token adds."""
        if self._fast is None:
            return self._decode_window(token_id)
        try:
            return self._stream.step(self._fast, token_id) or ""
        except Exception as error:  # the binding raises bare exceptions for byte sequences that can never be text
            if not str(error).startswith("Invalid prefix"):
                raise
            self._stream = self._new_stream([])
            return self._stream.step(self._fast, token_id) or ""

    def _new_stream(self, ids: list[int]) -> Any:
        return DecodeStream(ids=ids, skip_special_tokens=self._skip)

    def _decode_window(self, token_id: int) -> str:
        """For tokenizers without a fast core: decode a window with and without the new tokens, and compare."""
        self._ids.append(token_id)
        known = self._tokenizer.decode(self._ids[: self._read], skip_special_tokens=self._skip)
        whole = self._tokenizer.decode(self._ids, skip_special_tokens=self._skip)
        if whole.endswith("\ufffd"):
            return ""
        text = str(whole[len(known) :])
        self._ids = self._ids[-_DECODER_CONTEXT:]
        self._read = len(self._ids)
        return text

"""A Reasoner opened for a command: in this process on vLLM, or on a vLLM server that is running already."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from vllm.inputs.engine import tokens_input
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from drr.engine.defaults import DEFAULT_ANSWER_CUE
from drr.engine.devices import cpu_engine_defaults
from drr.engine.formats import choose_format
from drr.engine.judging_engine import prepare_to_judge
from drr.engine.model_source import TOKENIZER_FILES, check_model
from drr.engine.served import served_model
from drr.engine.starting import cause_of, starting
from drr.engine.state_ids import StateIds
from drr.engine.upstream.abilities import UpstreamAbilities
from drr.engine.upstream.completions import Chunk, body_of, ended_by_token, prompt_for, read_chunk, within
from drr.engine.upstream.errors import UpstreamError
from drr.engine.upstream.http import UpstreamClient
from drr.engine.upstream.probe import completions
from drr.engine.vllm_probe import VllmProbe
from drr.engine.vllm_reasoner import Generate, TextDecoder, VllmReasoner
from drr.errors import InputError
from drr.judge.dm_folder import fingerprint
from drr.judge.scorers.registry import READ_LOGPROBS
from drr.loop.formats import PlainChain, ReasoningFormat

DISTILL_KV_CACHE_BYTES = 2 << 30
"""KV cache of an in-process Reasoner on a CPU."""

_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class OpenReasoner:
    """A Reasoner that can be asked. `generate` acts like AsyncLLM.generate."""

    generate: Generate
    tokenizer: Any
    form: ReasoningFormat
    max_model_len: int
    name: str
    fingerprint: str
    state_ids: StateIds | None = None
    """Through which heads in the engine are read."""
    computed: str = ""
    """How its tokens are computed: in which data type, or by which server."""
    tells_logprobs: bool = True
    """Whether it tells how likely its tokens were."""

    def reasoner(self, ids: list[int], params: SamplingParams, request_id: str) -> VllmReasoner:
        """What the loop thinks with behind the prompt `ids`."""
        prompt = tokens_input(ids)
        return VllmReasoner(self.generate, self.tokenizer, prompt, params, request_id, {}, state_ids=self.state_ids)

    def probe(self, request_id: str) -> VllmProbe:
        """What scorers ask; `request_id` begins the ids of the requests."""
        return VllmProbe(self.generate, self.tokenizer, self.form, request_id, state_ids=self.state_ids)

    async def logprobs(self, ids: list[int], request_id: str) -> list[float] | None:
        """The natural-log probability of every token but the first, whose place holds 0; None where the engine does not
        say (a server's completions do not)."""
        params = SamplingParams(
            max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        told: Any = None
        async for output in self.generate(tokens_input(ids), params, request_id):
            told = output.prompt_logprobs or told
        if told is None:
            return None
        return [0.0, *(detail[token].logprob for token, detail in zip(ids[1:], told[1:], strict=True))]

    async def complete(self, ids: list[int], params: SamplingParams, request_id: str) -> str:
        """What is generated behind `ids`, as a whole."""
        params = params.clone()
        params.output_kind = RequestOutputKind.FINAL_ONLY
        text = ""
        async for output in self.generate(tokens_input(ids), params, request_id):
            text = output.outputs[0].text
        return text


def in_precision(dtype: str | None) -> dict[str, Any]:
    """The engine argument that makes a Reasoner compute in `dtype`; none where the engine is to choose."""
    return {} if dtype is None else {"dtype": dtype}


@contextlib.asynccontextmanager
async def open_engine(
    model: str, parser: str = "", answer_cue: str | None = None, heads: Sequence[Path] = (), **options: Any
) -> AsyncIterator[OpenReasoner]:
    """A Hugging Face folder or id on a vLLM engine of this process; `options` are vLLM's engine arguments. `parser` is
    vLLM's name of its reasoning parser, `answer_cue` what makes a Reasoner without thinking markers answer. `heads` are
    files of state heads that its engine is to run."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    defaults = {"max_num_seqs": 256, **cpu_engine_defaults(DISTILL_KV_CACHE_BYTES)}
    args = AsyncEngineArgs(model=model, disable_log_stats=True, **{**defaults, **options})
    with starting("--reasoner", model):
        config = args.create_engine_config()
        state_ids = prepare_to_judge(config, heads) if heads else None
        engine = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
    try:
        yield OpenReasoner(
            engine.generate,
            engine.renderer.tokenizer,
            known_format(engine.renderer.tokenizer, parser, answer_cue),
            engine.model_config.max_model_len,
            *reasoner_identity(model),
            state_ids,
            str(engine.model_config.dtype).removeprefix("torch."),
        )
    finally:
        engine.shutdown()


@contextlib.asynccontextmanager
async def open_server(
    url: str, model: str, tokenizer: str, parser: str = "", key: str | None = None, answer_cue: str | None = None
) -> AsyncIterator[OpenReasoner]:
    """A server's completions endpoint. `tokenizer` is a Hugging Face folder or id: the ids sent are made here.
    InputError where the server has none.

    Where `tokenizer` is a folder with weights, they are taken for the server's, and the DM will be bound to them.
    """
    served = served_model(url, model, key)
    loaded = load_tokenizer(tokenizer, "--tokenizer")
    async with contextlib.aclosing(UpstreamClient(url, key=key, timeout=_TIMEOUT)) as client:
        try:
            abilities = await completions(client, served, loaded, forced=False)
        except UpstreamError as error:
            raise InputError("--server", f"{client.url}: {error}") from error
        if abilities is None:
            raise InputError("--server", f"{client.url} has no completions, which boundaries are forced by")
        yield OpenReasoner(
            ServedCompletions(client, abilities, loaded).generate,
            loaded,
            known_format(loaded, parser, answer_cue),
            abilities.max_model_len or 2048,
            served["id"],
            _fingerprint(tokenizer),
            computed=f"{url.rstrip('/')} {served['id']}",
            tells_logprobs=abilities.logprobs is not None,
        )


@dataclass(frozen=True, slots=True)
class ServedAt:
    """Where a Reasoner is served: the server's `url`, the `key` that it wants, and the folder or id of the Reasoner's
    `tokenizer`."""

    url: str
    tokenizer: str
    key: str | None = None


def open_reasoner(
    server: ServedAt | None,
    model: str,
    parser: str = "",
    answer_cue: str | None = None,
    heads: Sequence[Path] = (),
    **options: Any,
) -> contextlib.AbstractAsyncContextManager[OpenReasoner]:
    """The Reasoner on that server, where `model` is what it is called (empty: the only one), or on an engine of this
    process: as `open_server`, or as `open_engine`. `heads` and `options` are for an engine."""
    if server is None:
        return open_engine(model, parser, answer_cue, heads, **options)
    return open_server(server.url, model, server.tokenizer, parser, server.key, answer_cue)


def check_logprobs(reasoner: OpenReasoner, scorers: Iterable[str | None]) -> None:
    """InputError for a scorer that reads log-probabilities where the Reasoner's server tells none."""
    blind = [] if reasoner.tells_logprobs else [name for name in scorers if name in READ_LOGPROBS]
    if blind:
        raise InputError(
            "--scorer", f"{blind[0]} reads log-probabilities, which the server of {reasoner.name} does not tell"
        )


def reasoner_identity(model: str) -> tuple[str, str]:
    """A model's name and its fingerprint."""
    return model.rstrip("/").rpartition("/")[2], _fingerprint(model)


def _fingerprint(model: str) -> str:
    """Of a folder's weights, or of those that a hub's id left in the local cache; empty where there are none."""
    if Path(model).is_dir():
        return fingerprint(Path(model))
    try:
        return fingerprint(Path(snapshot_download(model, local_files_only=True)))
    except (OSError, ValueError):
        return ""


def load_tokenizer(name: str, option: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a folder or by a Hugging Face id; InputError names the `option` that asked for it."""
    check_model(name, option, TOKENIZER_FILES)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # damaged files make the tokenizers' own library raise whatever it likes
        raise InputError(option, f"the tokenizer of {name} cannot be loaded: {cause_of(error)}") from error


def known_format(tokenizer: Any, parser: str, answer_cue: str | None = None) -> ReasoningFormat:
    """The Reasoner's reasoning format; InputError where it cannot be told, or the Reasoner cannot be asked anything."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("--reasoner", "its tokenizer has no chat template: it cannot be asked a question")
    form = choose_format(tokenizer, parser, DEFAULT_ANSWER_CUE if answer_cue is None else answer_cue).form
    if answer_cue is not None and not isinstance(form, PlainChain):
        raise InputError("--answer-cue", f"has no effect: this Reasoner thinks in {form.kind}")
    return form


class ServedCompletions:
    """`/completions` of a server, in the shape of AsyncLLM.generate. Closing the generator frees the request."""

    def __init__(self, client: UpstreamClient, abilities: UpstreamAbilities, tokenizer: Any) -> None:
        self._client, self._abilities, self._tokenizer = client, abilities, tokenizer

    async def generate(
        self, prompt: Any, params: SamplingParams, request_id: str, **_: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        params = within(params, self._abilities)
        try:
            async with contextlib.aclosing(self._stream(prompt, params, request_id)) as outputs:
                async for output in outputs:
                    yield output
        except UpstreamError as error:
            raise InputError("--server", f"{error}; start again to go on") from error

    async def _stream(
        self, prompt: Any, params: SamplingParams, request_id: str
    ) -> AsyncGenerator[RequestOutput, None]:
        ids = list(prompt["prompt_token_ids"])
        whole = params.output_kind is RequestOutputKind.FINAL_ONLY
        text, tokens, ended = "", list[int](), False
        decoder = TextDecoder(self._tokenizer, [], params.skip_special_tokens)
        body = body_of(params, prompt_for(ids, self._abilities, self._tokenizer), self._abilities)
        async with contextlib.aclosing(self._client.events("completions", body)) as events:
            async for event in events:
                chunk = read_chunk(event, self._abilities, self._tokenizer)
                if ended or not (chunk.ids or chunk.finish_reason):
                    continue
                ended = chunk.finish_reason is not None
                completion = _completion(chunk, decoder, self._tokenizer.eos_token_id)
                text, tokens = text + completion.text, [*tokens, *completion.token_ids]
                if whole and not ended:
                    continue
                if whole:
                    completion.text, completion.token_ids = text, tokens
                yield engine_output(request_id, ids, completion)
        if not ended:
            raise UpstreamError("cut", "the answer has no end")


def _completion(chunk: Chunk, decoder: TextDecoder, end: int) -> CompletionOutput:
    ids, likely = chunk.ids, chunk.likely
    if chunk.finish_reason == "stop":
        ids, likely = ended_by_token(chunk, [end])
    shown = ids[:-1] if chunk.finish_reason == "stop" else ids
    text = "".join([decoder.step(token) for token in shown])
    logprobs: Any = None
    if likely is not None:
        logprobs = [
            {token: Logprob(value), **{other: Logprob(one) for other, one in top.items()}}
            for token, (value, top) in zip(ids, likely, strict=True)
        ]
    return completion_output(ids, text, logprobs, chunk.finish_reason, chunk.stop_reason)


def completion_output(
    ids: list[int], text: str, logprobs: Any, finish_reason: str | None, stop_reason: int | str | None
) -> CompletionOutput:
    """A chunk of tokens as vLLM's engine gives it."""
    return CompletionOutput(
        index=0,
        text=text,
        token_ids=ids,
        cumulative_logprob=None,
        logprobs=logprobs,
        finish_reason=finish_reason,
        stop_reason=stop_reason,
    )


def engine_output(request_id: str, prompt_ids: list[int], completion: CompletionOutput) -> RequestOutput:
    """What vLLM's engine sends when a request has a chunk; a chunk with a finish reason is the last."""
    return RequestOutput(
        request_id=request_id,
        prompt=None,
        prompt_token_ids=prompt_ids,
        prompt_logprobs=None,
        outputs=[completion],
        finished=completion.finish_reason is not None,
    )

"""One generation as `POST /completions`: what is sent, and what the chunks of the answer say.

The body holds what the upstream was found to take; what it does not take is refused by name before anything is sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams

from drr.engine.upstream.abilities import UpstreamAbilities
from drr.engine.upstream.cost import Usage
from drr.engine.upstream.errors import UpstreamError

SAMPLING: dict[str, Any] = {
    "top_k": (0, -1),
    "min_p": (0.0,),
    "seed": (None,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "repetition_penalty": (1.0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "logit_bias": (None, {}),
    "stop_token_ids": (None, []),
    "allowed_token_ids": (None,),
    "bad_words": (None, []),
}
"""Sampling options that an upstream may not take, and the values with which there is nothing to send."""

_NEVER = ("prompt_logprobs", "prompt_logprob_token_ids", "repetition_detection", "thinking_token_budget")
"""What the stream of a completion cannot carry, or what only vLLM's own engine does."""

Likely = list[tuple[float, dict[int, float]]]
"""For each token its log-probability and those of the likeliest ones."""

_TOKEN = "token_id:"
"""How vLLM writes a token's id where its text would stand."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event says. `likely` holds, for each id, its log-probability and those of the likeliest tokens, the
    sampled one among them where it is one of those. `finish_reason` is OpenAI's."""

    ids: list[int]
    likely: Likely | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    usage: Usage | None = None


def check(params: SamplingParams, abilities: UpstreamAbilities, usual: Mapping[str, Any]) -> None:
    """VLLMValidationError, which names the field, for what this upstream cannot do. `usual` are the sampling options
    that the model's makers recommend: nobody asked for those, and they are left out."""
    for name in _NEVER:
        if getattr(params, name, None) is not None:
            raise _refused(name, "is not possible here: the model runs behind an upstream's completions")
    for name, nothing in SAMPLING.items():
        if name not in abilities.samples and getattr(params, name) not in (*nothing, usual.get(name)):
            raise _refused(name, "is not taken by the upstream that runs the model")
    if params.structured_outputs is not None and not abilities.structured_outputs:
        raise _refused("structured_outputs", "the upstream that runs the model follows no grammars")
    wanted = params.logprobs or 0
    if params.logprob_token_ids and not (abilities.engine == "vllm" and abilities.logprobs is not None):
        raise _refused("logprob_token_ids", "the upstream that runs the model tells none of named tokens")
    if params.logprobs is not None and (abilities.logprobs is None or not 0 <= wanted <= abilities.logprobs):
        most = "none" if abilities.logprobs is None else f"those of {abilities.logprobs} tokens at most"
        raise _refused("logprobs", f"the upstream that runs the model tells {most}")
    if (params.extra_args or {}).get("kv_transfer_params"):
        raise _refused("kv_transfer_params", "is not possible here: the model runs on an upstream")


def within(params: SamplingParams, abilities: UpstreamAbilities) -> SamplingParams:
    """The same, with no more log-probabilities than the upstream tells: the loop asks for them wherever it judges or
    probes, and makes do with fewer."""
    most = abilities.logprobs
    if params.logprobs is not None and (most is None or params.logprobs > most):
        params = params.clone()
        params.logprobs = most
    return params


def body_of(
    params: SamplingParams, prompt: Sequence[int] | str, abilities: UpstreamAbilities, *, cache_salt: str | None = None
) -> dict[str, Any]:
    """The request that generates behind `prompt`, streamed. Stop texts are looked for here, not there."""
    body: dict[str, Any] = {
        "model": abilities.model,
        "prompt": list(prompt) if not isinstance(prompt, str) else prompt,
        "stream": True,
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
    }
    for name, nothing in SAMPLING.items():
        value = getattr(params, name)
        if name in abilities.samples and value not in nothing:
            body[name] = value
    if abilities.usage:
        body["stream_options"] = {"include_usage": True}
    wants = params.logprobs is not None or bool(params.logprob_token_ids)
    if wants or abilities.ids_from == "logprobs":
        body["logprobs"] = max(params.logprobs or 0, 1 if abilities.ids_from == "logprobs" else 0)
    if abilities.engine != "vllm":
        return body
    body["return_token_ids"] = True
    body["skip_special_tokens"] = False
    if wants:
        body["return_tokens_as_token_ids"] = True
    if params.logprob_token_ids:
        body["logprob_token_ids"] = params.logprob_token_ids
    if params.structured_outputs is not None:
        body["structured_outputs"] = _grammar(params.structured_outputs)
    if params.stream_interval and params.stream_interval > 1:
        body["stream_interval"] = params.stream_interval
    if cache_salt is not None:
        body["cache_salt"] = cache_salt
    if isinstance(prompt, str):
        body["add_special_tokens"] = False
    return body


def prompt_for(ids: list[int], abilities: UpstreamAbilities, tokenizer: Any) -> list[int] | str:
    """A prompt as this upstream takes it. Servers that take text put the token of a text's beginning before it
    themselves."""
    if abilities.token_prompts:
        return ids
    begin = tokenizer.bos_token_id
    told = begin is not None and ids[:1] == [begin] and list(tokenizer.encode("a"))[:1] == [begin]
    return str(
        tokenizer.decode(ids[1:] if told else ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


def ended_by_token(chunk: Chunk, stop_ids: Sequence[int]) -> tuple[list[int], Likely | None]:
    """The ids of a turn's last chunk, and how likely they were. Behind what the upstream sent comes the first of
    `stop_ids` where it kept the token to itself that ended the turn."""
    ids, likely = chunk.ids, chunk.likely
    if ids and (ids[-1] in stop_ids or ids[-1] == chunk.stop_reason):
        return ids, likely
    return [*ids, stop_ids[0]], None if likely is None and ids else [*(likely or ()), (0.0, {})]


def read_chunk(event: Mapping[str, Any], abilities: UpstreamAbilities, tokenizer: Any) -> Chunk:
    """UpstreamError where the event is none of a completion's."""
    usage = Usage.read(event.get("usage"))
    choices = event.get("choices")
    if not choices and (usage is not None or choices == []):
        return Chunk([], usage=usage)
    try:
        (choice,) = list(choices or [])
        text, reason = choice.get("text") or "", choice.get("finish_reason")
        logprobs = choice.get("logprobs")
        match abilities.ids_from:
            case "token_ids":
                ids = [int(one) for one in choice.get("token_ids") or ()]
            case "logprobs":
                ids = [int(one["id"]) for one in (logprobs or {}).get("content") or ()]
                if "\ufffd" in tokenizer.decode(ids) and "\ufffd" not in text:
                    # A character that took several tokens: llama.cpp sends it with the last of them alone.
                    ids, likely = _made_here(text, {"tokens": [text], "token_logprobs": [None]}, tokenizer)
                    return Chunk(ids, likely, reason, choice.get("stop_reason"), usage)
            case "text":
                return Chunk(*_made_here(text, logprobs, tokenizer), reason, choice.get("stop_reason"), usage)
        likely = _likely(ids, logprobs, tokenizer) if logprobs else None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UpstreamError("malformed", "the upstream sent a chunk that is none of a completion's") from error
    return Chunk(ids, likely, reason, choice.get("stop_reason"), usage)


def _made_here(text: str, logprobs: Mapping[str, Any] | None, tokenizer: Any) -> tuple[list[int], Likely | None]:
    """The ids of a chunk's text: token by token where log-probabilities name the tokens, else all of it at once. The
    first of the ids that one token there becomes here has its log-probability, the others are certain."""

    def encode(piece: str) -> list[int]:
        return [int(one) for one in tokenizer.encode(piece, add_special_tokens=False)] if piece else []

    if not logprobs or not logprobs.get("tokens"):
        return encode(text), None
    pieces, values = list(logprobs["tokens"]), [float(value or 0.0) for value in logprobs["token_logprobs"]]
    tops: list[Mapping[str, float] | None] = list(logprobs.get("top_logprobs") or [None] * len(pieces))
    if "".join(pieces) != text:  # bytes of a character, or a stop text that is kept back
        pieces, values, tops = [text], [sum(values)], [None]
    ids, likely = list[int](), Likely()
    for piece, value, top in zip(pieces, values, tops, strict=True):
        made = encode(piece)
        ids += made
        others = {_id(token, tokenizer): float(other) for token, other in (top or {}).items()}
        likely += [(value, others)] * bool(made) + [(0.0, {})] * (len(made) - 1)
    return ids, likely


def _likely(ids: list[int], logprobs: Mapping[str, Any], tokenizer: Any) -> Likely | None:
    """In OpenAI's shape for completions, or for chats; None where it does not fit the ids."""
    content = logprobs.get("content")
    if content is not None:
        return [
            (float(one["logprob"]), {int(other["id"]): float(other["logprob"]) for other in one["top_logprobs"]})
            for one in content
        ]
    sampled = logprobs.get("token_logprobs") or ()
    tops = logprobs.get("top_logprobs") or [None] * len(sampled)
    if len(sampled) != len(ids):
        return None
    return [
        (float(value or 0.0), {_id(token, tokenizer): float(other) for token, other in (top or {}).items()})
        for value, top in zip(sampled, tops, strict=True)
    ]


def _id(token: str, tokenizer: Any) -> int:
    if token.startswith(_TOKEN):
        return int(token[len(_TOKEN) :])
    ids = tokenizer.encode(token, add_special_tokens=False)
    return int(ids[0]) if ids else -1


def _grammar(outputs: Any) -> dict[str, Any]:
    """What vLLM calls structured outputs, without what it keeps there for itself."""
    return {
        one.name: getattr(outputs, one.name)
        for one in fields(outputs)
        if not one.name.startswith("_") and getattr(outputs, one.name) not in (None, False)
    }


def _refused(name: str, why: str) -> VLLMValidationError:
    return VLLMValidationError(f"{name}: {why}", parameter=name)

"""What an upstream allows, found out at start by a handful of requests for a few tokens each."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from drr.engine.upstream.abilities import IdsFrom, Tier, UpstreamAbilities
from drr.engine.upstream.completions import SAMPLING
from drr.engine.upstream.cost import Usage
from drr.engine.upstream.errors import UpstreamError
from drr.engine.upstream.http import UpstreamClient
from drr.errors import InputError

_TEXT = "One, two, three, four,"
_TOKENS = 4
_UNLIKELY = "9"
"""What nothing but a grammar makes of that text."""
_LIKELIEST = (20, 5, 1)
"""How many of the likeliest tokens are asked for, the most first: vLLM's own limit, OpenAI's, the least."""

_TAKEN: dict[str, tuple[str, ...]] = {
    "vllm": tuple(SAMPLING),
    "sglang": (
        *("top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty", "min_tokens"),
        *("ignore_eos", "logit_bias", "stop_token_ids"),
    ),
    "llamacpp": ("top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "ignore_eos", "logit_bias"),
}
"""Sampling options of engines that are known by their own name: servers ignore what they do not know."""

_STANDARD = ("seed", "presence_penalty", "frequency_penalty", "logit_bias")
"""OpenAI's, of completions."""

_TRIED: dict[str, Any] = {
    "seed": 1,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "logit_bias": {"0": 0.0},
}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came of one trial."""

    events: list[dict[str, Any]]

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [choice for event in self.events for choice in event.get("choices") or ()]

    @property
    def text(self) -> str:
        return "".join(choice.get("text") or "" for choice in self.choices)

    @property
    def usage(self) -> Usage | None:
        return next((found for event in self.events if (found := Usage.read(event.get("usage"))) is not None), None)

    def logprobs(self) -> list[Mapping[str, Any]]:
        return [found for choice in self.choices if (found := choice.get("logprobs"))]


async def choose_model(client: UpstreamClient, named: str | None) -> dict[str, Any]:
    """The upstream's card of the model named, or of the only one that it serves. InputError where that cannot be told,
    UpstreamError where it does not answer."""
    try:
        listed = (await client.get("models")).get("data")
        cards = [card for card in listed or () if isinstance(card, dict) and isinstance(card.get("id"), str)]
    except UpstreamError as error:
        if error.kind not in ("refused", "malformed") or error.status in (401, 403):
            raise
        cards = []  # some gateways list nothing
    by_name = {card["id"]: card for card in cards}
    if named is not None:
        if cards and named not in by_name:
            raise InputError("--upstream-model", f"{client.url} serves {_listed(list(by_name))}, not {named}")
        return by_name.get(named, {"id": named})
    own = [card for card in cards if not card.get("parent")]  # adapters and aliases name theirs
    if len(own) != 1:
        served = _listed([card["id"] for card in own]) if own else "does not list its models"
        raise InputError("--upstream", f"{client.url} serves {served}: name one with --upstream-model")
    return own[0]


async def completions(
    client: UpstreamClient, card: Mapping[str, Any], tokenizer: Any, forced: bool
) -> UpstreamAbilities | None:
    """What the upstream's completions allow; None where it has none. `tokenizer` None: only whether it has them.
    UpstreamError where it is away, or was forced and has none."""
    plain = await _asked(client, card, _TEXT, {}, raises=True if forced else None)
    if plain is None:
        return None
    engine = str(card.get("owned_by") or "").lower().replace(".", "").replace("-", "")
    found = UpstreamAbilities("completions", card["id"], engine, forced, _context(card))
    if tokenizer is None:
        return found
    ids = [int(one) for one in tokenizer.encode(_TEXT, add_special_tokens=False)]
    found = replace(found, usage=await _has_usage(client, card))
    if await _is_vllm(client, card, ids):
        found = replace(found, engine="vllm", token_prompts=True, ids_from="token_ids")
        found = replace(found, structured_outputs=await _follows_grammars(client, card))
    else:
        engine = "" if found.engine == "vllm" else found.engine  # its name, but not its ways
        found = replace(found, engine=engine, token_prompts=await _takes_ids(client, card, ids, plain, found.usage))
    found = replace(found, logprobs=await _most_likely(client, card))
    if found.ids_from != "token_ids":
        found = replace(found, ids_from=await _ids_beside_logprobs(client, card, found.logprobs))
    return replace(found, samples=await _samples(client, card, found.engine), notes=_notes(found))


async def _asked(
    client: UpstreamClient,
    card: Mapping[str, Any],
    prompt: str | Sequence[int],
    extra: Mapping[str, Any],
    raises: bool | None = None,
) -> _Answer | None:
    """One trial; None where the upstream refuses it. UpstreamError where it is away."""
    body = {
        "model": card["id"],
        "prompt": prompt,
        "max_tokens": _TOKENS,
        "temperature": 0,
        "stream": True,
        **extra,
    }
    try:
        async with contextlib.aclosing(client.events("completions", body)) as events:
            answer = _Answer([event async for event in events])
    except UpstreamError as error:
        passes = error.kind in ("busy", "timeout") or (error.kind == "unavailable" and error.status != 500)
        if raises or passes or error.status in (401, 403):
            raise
        return None
    return answer if answer.choices else None


async def _has_usage(client: UpstreamClient, card: Mapping[str, Any]) -> bool:
    asked = await _asked(client, card, _TEXT, {"stream_options": {"include_usage": True}})
    return asked is not None and asked.usage is not None


async def _is_vllm(client: UpstreamClient, card: Mapping[str, Any], ids: list[int]) -> bool:
    """Whether ids go in as they are, and come back with every chunk: vLLM's own options."""
    extra = {"return_token_ids": True, "return_tokens_as_token_ids": True, "logprobs": 1}
    answer = await _asked(client, card, ids, extra)
    if answer is None or not any(choice.get("token_ids") for choice in answer.choices):
        return False
    if answer.choices[0].get("prompt_token_ids") not in (None, ids):
        return False
    tokens = [token for found in answer.logprobs() for token in found.get("tokens") or ()]
    return bool(tokens) and all(token.startswith("token_id:") for token in tokens)


async def _follows_grammars(client: UpstreamClient, card: Mapping[str, Any]) -> bool:
    """Whether a grammar holds: from the first token on, or, where it is told of thinking, behind that."""
    for prompt in (_TEXT, f"{_TEXT}\n</think>\n\n"):
        answer = await _asked(client, card, prompt, {"structured_outputs": {"choice": [_UNLIKELY]}})
        if answer is not None and answer.text.strip() == _UNLIKELY:
            return True
    return False


async def _takes_ids(
    client: UpstreamClient, card: Mapping[str, Any], ids: list[int], plain: _Answer, usage: bool
) -> bool:
    """Whether a prompt of ids is read as such: it has as many tokens there, or is answered as its text is."""
    answer = await _asked(client, card, ids, {"stream_options": {"include_usage": True}} if usage else {})
    if answer is None:
        return False
    if answer.usage is not None:
        return answer.usage.prompt == len(ids)
    return answer.text == plain.text


async def _most_likely(client: UpstreamClient, card: Mapping[str, Any]) -> int | None:
    for likeliest in _LIKELIEST:
        answer = await _asked(client, card, _TEXT, {"logprobs": likeliest})
        found = answer.logprobs() if answer is not None else []
        if not found:
            continue
        tops = [top for one in found for top in (one.get("top_logprobs") or ())]
        tops += [content.get("top_logprobs") for one in found for content in one.get("content") or ()]
        sizes = [len(top) for top in tops if top]
        return min(likeliest, max(sizes)) if sizes else 0
    return None


async def _ids_beside_logprobs(client: UpstreamClient, card: Mapping[str, Any], logprobs: int | None) -> IdsFrom:
    answer = await _asked(client, card, _TEXT, {"logprobs": 1}) if logprobs is not None else None
    contents = [content for found in answer.logprobs() for content in found.get("content") or ()] if answer else []
    told = bool(contents) and all(isinstance(content.get("id"), int) for content in contents)
    return "logprobs" if told else "text"


async def _samples(client: UpstreamClient, card: Mapping[str, Any], engine: str) -> tuple[str, ...]:
    if engine in _TAKEN:
        return _TAKEN[engine]
    if await _asked(client, card, _TEXT, _TRIED) is not None:
        return _STANDARD
    return tuple([name for name in _STANDARD if await _asked(client, card, _TEXT, {name: _TRIED[name]}) is not None])


def _context(card: Mapping[str, Any]) -> int | None:
    """The longest prompt and answer together, as far as the card says."""
    meta = card.get("meta")
    places = (card.get("max_model_len"), meta.get("n_ctx") if isinstance(meta, Mapping) else None)
    return next((place for place in places if isinstance(place, int) and place > 0), None)


def _notes(found: UpstreamAbilities) -> tuple[str, ...]:
    notes = []
    if found.ids_from == "text":
        notes.append("token counts are those of this tokenizer, chunk by chunk")
    if found.logprobs is None:
        notes.append("scorers that read log-probabilities are refused")
    if not found.usage:
        notes.append("it does not say what it counted: drr.cost is estimated")
    return tuple(notes)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) or "no model"


TIERS: tuple[Tier, ...] = ("completions", "prefix", "opaque")

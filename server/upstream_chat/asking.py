"""From a chat completion's body to what is asked of the upstream, and how it is to be judged.

Fields that belong to the loop are read here. All others go to the upstream as they are, which honours or refuses them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from drr.engine.upstream.chat import ChatAbilities, ChatRequest
from drr.engine.upstream.judging import CRITIQUE_DEADLINE, FOLLOWING_UP
from drr.judge.dm_input import question_text
from drr.loop.chat.said import NEVER_ENDS, ChatSettings, Tier
from drr.loop.policy import PolicySettings
from drr.loop.steps import StepRule
from server.endpoints import split_alias
from server.keys import Mode
from server.resolve import Asked, resolve
from server.schema import DrrError, DrrRequest
from server.settings import Defaults, Settings
from server.upstream_chat.tiers import check_tier

_GREEDY = 1e-5
_LIMITS = ("max_completion_tokens", "max_tokens")
_OURS = ("drr", "model", "stream", "stream_options", "n", *_LIMITS)
"""Fields that do not go up as they are."""

_NOT_HANDED_ON: Mapping[str, str] = {
    "logprobs": "log-probabilities of an upstream's chat completions are not handed on",
    "top_logprobs": "log-probabilities of an upstream's chat completions are not handed on",
    "functions": "is deprecated; use tools",
    "function_call": "is deprecated; use tool_choice",
    "audio": "only text is handed on",
    "extra_body": "is an argument of OpenAI's SDKs, which send its keys beside the others",
    "use_beam_search": "is a matter of an engine of one's own",
}


@dataclass(frozen=True, slots=True)
class Asking:
    """One request: what goes up, how it is judged, and how the client wants it. `judge` is the scorer's name, None for
    nobody."""

    request: ChatRequest
    settings: Settings
    loop: ChatSettings
    question: str
    name: str
    streams: bool
    tells_usage: bool


@dataclass(frozen=True, slots=True)
class Upstream:
    """What requests are read against: the upstream's abilities and name of the model, our names of it, the server's
    defaults, and the rule of its steps."""

    abilities: ChatAbilities
    model: str
    names: Sequence[str]
    defaults: Defaults
    rule: StepRule


class NoModelError(Exception):
    """There is no model of this name here."""


def read_asking(body: Any, headers: Sequence[str], upstream: Upstream) -> Asking:
    """What a body and its X-DRR headers ask for. DrrError names the field that cannot be honoured; NoModelError where
    the model is not served."""
    if not isinstance(body, dict):
        raise DrrError("body", f"must be an object, not {type(body).__name__}")
    messages = _messages(body)
    name, alias = _model(body, upstream)
    for field, why in _NOT_HANDED_ON.items():
        if body.get(field):
            raise DrrError(field, why)
    if body.get("n") not in (None, 1):
        raise DrrError("n", "an upstream's attempts make one choice; send as many requests, or use drr.parallel")
    settings = _settings(body, headers, alias, upstream)
    if messages[-1].get("role") == "assistant" and settings.loops and upstream.abilities.tier == "prefix":
        raise DrrError("messages", "must not end with the assistant's: a thought that is handed back stands there")
    limit = _limit(body)
    streams, tells_usage = _streams(body)
    kept = {field: value for field, value in body.items() if field not in _OURS and value is not None}
    greedy = _temperature(body) < _GREEDY
    later = settings.rethink_temperature if greedy and settings.max_rethinks > 0 else None
    request = ChatRequest({**kept, "model": upstream.model}, later)
    loop = _loop(settings, upstream, limit)
    question = question_text([message for message in messages if isinstance(message, dict)])
    return Asking(request, settings, loop, question, name, streams, tells_usage)


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DrrError("messages", "must be a list of at least one message")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise DrrError(f"messages[{number}]", "must be an object with a role")
    return messages


def _model(body: Mapping[str, Any], upstream: Upstream) -> tuple[str, Mode | None]:
    named = body.get("model")
    if named is None:
        return upstream.names[0], None
    if not isinstance(named, str):
        raise DrrError("model", "must be a text")
    if named in upstream.names:
        return named, None
    found = split_alias(named, upstream.names)
    if found is None or found[0] not in upstream.names:
        raise NoModelError(named[:200])
    return found


def _settings(body: Mapping[str, Any], headers: Sequence[str], alias: Mode | None, upstream: Upstream) -> Settings:
    given = body.get("drr")
    try:
        asked = DrrRequest.asked(given, headers)
        check_tier(asked, upstream.abilities.tier)
        beside = Asked(alias, _temperature(body), explicit=given is not None)
        settings = resolve(asked, upstream.defaults, beside)
    except DrrError as error:
        raise (error if given is not None else error.in_header() if headers else error) from None
    return in_tier(settings, upstream.abilities.tier)


def in_tier(settings: Settings, tier: Tier) -> Settings:
    """The settings without what has no effect in this tier, which judges and scorers have defaults for."""
    if tier == "opaque":
        settings = replace(settings, **NEVER_ENDS, answer_tokens=0)
    return replace(settings, nudge=0)


def _temperature(body: Mapping[str, Any]) -> float:
    given = body.get("temperature")
    if given is None:
        return 1.0
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise DrrError("temperature", "must be a number")
    return float(given)


def _limit(body: Mapping[str, Any]) -> int | None:
    given = [name for name in _LIMITS if body.get(name) is not None]
    if len(given) > 1:
        raise DrrError(given[1], f"give either {given[0]} or {given[1]}, not both")
    if not given:
        return None
    value = body[given[0]]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DrrError(given[0], "must be a whole number of at least 1")
    return value


def _streams(body: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the client wants a stream, and its usage at the end of it."""
    streams, options = body.get("stream"), body.get("stream_options")
    if streams not in (None, True, False):
        raise DrrError("stream", "must be true or false")
    if options is None:
        return bool(streams), False
    if not streams:
        raise DrrError("stream_options", "has no effect without stream")
    if not isinstance(options, dict):
        raise DrrError("stream_options", "must be an object")
    unknown = next((name for name in options if name not in ("include_usage", "include_obfuscation")), None)
    if unknown is not None:
        raise DrrError(f"stream_options.{str(unknown)[:80]}", "is not known here; include_usage is")
    return True, bool(options.get("include_usage"))


def _loop(settings: Settings, upstream: Upstream, limit: int | None) -> ChatSettings:
    policy = PolicySettings(
        threshold=settings.threshold,
        min_steps=settings.min_steps,
        max_steps=settings.max_steps,
        patience=settings.patience,
        acts=settings.mode != "shadow",
        hopeless=settings.hopeless,
        min_gain=settings.min_gain,
        accept=settings.accept,
    )
    # What nobody judges or limits is handed through whole.
    tier = upstream.abilities.tier if settings.loops or settings.answer_tokens > 0 else "opaque"
    follows_up = settings.scorer in FOLLOWING_UP
    return ChatSettings(
        tier=tier,
        policy=policy,
        rule=upstream.rule,
        max_tokens=limit,
        max_thinking_tokens=settings.max_thinking_tokens,
        answer_tokens=settings.answer_tokens,
        min_step_tokens=settings.min_step_tokens,
        deadline=max(upstream.defaults.deadline, CRITIQUE_DEADLINE) if follows_up else upstream.defaults.deadline,
        max_rethinks=settings.max_rethinks if settings.rejects else 0,
        on_exhausted=settings.on_exhausted,
        parallel=settings.parallel,
        separator=settings.separator or "",
        refusal=settings.refusal or "",
    )
